from .readers import read_visium as read_visium
from .synthetic import synthetic as synthetic
