from .filter import spared_filter as spared_filter
from .genes import moran as moran
from .genes import select_genes as select_genes
from .neighbors import lattice_neighbors as lattice_neighbors
from .normalize import normalize_tpm as normalize_tpm
from .recipe import recipe_spared as recipe_spared
