"""Tools: completion of undetected expression."""

import lazy_loader

from spared_sc._core.lazy import accepting

_get, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = accepting(__name__, _get)
