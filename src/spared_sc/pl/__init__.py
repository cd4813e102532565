"""Plots: every function takes axes or returns a figure, and writes no file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
