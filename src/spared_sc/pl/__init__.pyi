from .missing import missing as missing
from .spatial import spatial_compare as spatial_compare
from .training import training_curve as training_curve
