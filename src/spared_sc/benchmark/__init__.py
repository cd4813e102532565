"""The benchmark: data sets x models x targets as cells that run anywhere, and their tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
