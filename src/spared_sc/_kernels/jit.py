"""Numba's compiler with its cache on disk, or without one where nothing can be written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba

_logger = logging.getLogger("spared_sc")


def compiled(function: Callable) -> Any:
    """The function in machine code, which runs without the interpreter lock."""
    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError as error:  # neither the folder of the package nor the user's own can be written
        _logger.warning(
            "compiled code is not kept, so that %s is compiled again in every process (%s): name a folder that can be "
            "written with the environment variable NUMBA_CACHE_DIR",
            function.__name__,
            error,
        )
        return numba.njit(function, nogil=True)
