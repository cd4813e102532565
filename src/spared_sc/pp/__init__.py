"""Preprocessing: from raw counts to the spots, genes and values worth modelling."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
