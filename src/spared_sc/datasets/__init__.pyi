from .annotation import gene_lengths as gene_lengths
from .her2st import her2st as her2st
from .legacy_st import read_st as read_st
from .readers import read_visium as read_visium
from .synthetic import synthetic as synthetic
