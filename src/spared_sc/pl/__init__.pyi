from .batch import batch_effect as batch_effect
from .lattice import lattice as lattice
from .missing import missing as missing
from .moran import moran_ranking as moran_ranking
from .spatial import spatial_compare as spatial_compare
from .training import training_curve as training_curve
