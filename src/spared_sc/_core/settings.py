"""Package-wide defaults: what a `None` in a signature stands for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _flag(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"expected true or false, found {value!r}")


def _positive_int(value: Any) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(f"expected a positive integer or None, found {value!r}")
    return number


def _path(value: Any) -> Path:
    return Path(value).expanduser()


# scanpy's names and numbers; a hint is less than information and more than debugging.
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "hint": 15, "debug": logging.DEBUG}


def _verbosity(value: Any) -> str:
    names = list(_LEVELS)
    text = str(value).strip().lower()
    if text in names:
        return text
    if text.isdecimal() and int(text) < len(names):
        return names[int(text)]
    raise ValueError(f"expected {', '.join(map(repr, names))}, or 0 to {len(names) - 1}, found {value!r}")


class _Stderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the time, as notebooks and tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    @property
    def stream(self) -> Any:
        return sys.stderr


_HANDLER = _Stderr()


def _log(verbosity: str | None) -> None:
    """Let the package's own logger write messages, or leave them to the application's logging."""
    logger = logging.getLogger("spared_sc")
    logger.removeHandler(_HANDLER)
    logger.setLevel(logging.NOTSET if verbosity is None else _LEVELS[verbosity])
    logger.propagate = verbosity is None
    if verbosity is not None:
        logger.addHandler(_HANDLER)


# name -> (how a value is read, the environment variable that sets it)
_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "device": (str, "SPARED_SC_DEVICE"),
    "batch_size": (_positive_int, "SPARED_SC_BATCH_SIZE"),
    "n_jobs": (_positive_int, "SPARED_SC_N_JOBS"),
    "mixed_precision": (_flag, "SPARED_SC_MIXED_PRECISION"),
    "show_progress_bar": (_flag, "SPARED_SC_PROGRESS"),
    "verbosity": (_verbosity, "SPARED_SC_VERBOSITY"),
    "library_key": (str, "SPARED_SC_LIBRARY_KEY"),
    "cache_dir": (_path, "SPARED_SC_CACHE_DIR"),
    "data_dir": (_path, "SPARED_SC_DATA_DIR"),
    "labels_dir": (_path, "SPARED_SC_LABELS_DIR"),
}


class Settings:
    """Defaults used wherever a function is called with `None`.

    Each attribute starts from its environment variable when that is set: its name in capitals after `SPARED_SC_`, such as
    `SPARED_SC_N_JOBS`; for `show_progress_bar` it is `SPARED_SC_PROGRESS`.

    Attributes
    ----------
    device
        Torch device, such as `"cpu"` or `"cuda:0"`. `None` takes cuda, mps or cpu, in that order.
    batch_size
        Spots per forward pass at inference; it changes memory and speed, never results. `None` leaves the
        choice to each function.
    n_jobs
        Number of threads. `None` takes all cores, but one thread to train networks on the CPU: there, several are
        faster on an idle machine and much slower on a busy one.
    mixed_precision
        Whether networks compute in bfloat16 where that is safe; expression values stay in float32. `None` does so
        on CUDA devices that support it.
    show_progress_bar
        `None` shows bars in a terminal or a notebook only.
    verbosity
        How much is written to stderr: `"error"`, `"warning"`, `"info"`, `"hint"` or `"debug"`, or 0 to 4, as in
        scanpy. `None` leaves the logger `spared_sc` alone: Python shows its warnings, and the rest goes where the
        application's own logging sends it.
    library_key
        Column of `obs` with the library of each spot, used wherever `library_key=None`. It must exist then.
    cache_dir
        Where downloads and parsed tables are kept; the user's cache folder by default.
    data_dir
        A folder of data sets that are already on this machine, searched before any download.
    labels_dir
        A folder in which the completed values are kept that predictors learn from: a call that learns from the same spots
        and genes takes them from there, whatever its model. `None` keeps none.

    Examples
    --------
    >>> import spared_sc as sp
    >>> with sp.settings.override(n_jobs=1, show_progress_bar=False):
    ...     sp.settings.n_jobs
    1
    """

    device: str | None
    batch_size: int | None
    n_jobs: int | None
    mixed_precision: bool | None
    show_progress_bar: bool | None
    verbosity: str | None
    library_key: str | None
    cache_dir: Path
    data_dir: Path | None
    labels_dir: Path | None

    def __init__(self) -> None:
        for name, (_, variable) in _FIELDS.items():
            value = os.environ.get(variable) or None
            try:
                setattr(self, name, value)
            except ValueError as error:
                raise ValueError(f"The environment variable {variable} cannot be used: {error}") from error

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _FIELDS:
            raise AttributeError(f"There is no setting {name!r}; the settings are {', '.join(_FIELDS)}.")
        try:
            value = None if value is None else _FIELDS[name][0](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Setting {name!r}: {error}") from error
        if name == "cache_dir" and value is None:
            import pooch

            value = Path(pooch.os_cache("spared_sc"))
        if name == "verbosity":
            _log(value)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return "\n".join(f"{name} = {getattr(self, name)}" for name in _FIELDS)

    @contextmanager
    def override(self, **values: Any) -> Iterator[Settings]:
        """Change settings inside a `with` block, and put the old ones back after it."""
        old = {name: getattr(self, name) for name in values if name in _FIELDS}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in old.items():
                setattr(self, name, value)


settings = Settings()
