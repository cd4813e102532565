from ._gene_lengths import gene_lengths as gene_lengths
from ._her2st import her2st as her2st
from ._read_st import read_st as read_st
from ._read_visium import read_visium as read_visium
from ._synthetic import synthetic as synthetic
