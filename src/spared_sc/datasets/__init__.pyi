from .annotation import gene_lengths as gene_lengths
from .generator import synthetic as synthetic
from .her2_breast import her2st as her2st
from .legacy_st import read_st as read_st
from .readers import read_visium as read_visium
