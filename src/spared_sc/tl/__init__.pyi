from .median import median_complete as median_complete
from .spackle import spackle_complete as spackle_complete
