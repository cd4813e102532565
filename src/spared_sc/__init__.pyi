from . import benchmark as benchmark
from . import datasets as datasets
from . import get as get
from . import pl as pl
from . import pp as pp
from . import tl as tl
from ._core.settings import settings as settings
from ._explorer._explore import explore as explore

__version__: str
