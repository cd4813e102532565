"""Package-wide defaults: what a `None` in a signature stands for."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def _flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"expected true or false, found {value!r}")


def _positive_int(value: Any) -> int | None:
    if value is None:
        return None
    number = int(value)
    if number < 1:
        raise ValueError(f"expected a positive integer or None, found {value!r}")
    return number


def _path(value: Any) -> Path | None:
    return None if value is None else Path(value).expanduser()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# name -> (how a value is read, the environment variable that sets it)
_FIELDS = {
    "device": (_text, "SPARED_SC_DEVICE"),
    "batch_size": (_positive_int, "SPARED_SC_BATCH_SIZE"),
    "n_jobs": (_positive_int, "SPARED_SC_N_JOBS"),
    "mixed_precision": (_flag, "SPARED_SC_MIXED_PRECISION"),
    "show_progress_bar": (_flag, "SPARED_SC_PROGRESS"),
    "cache_dir": (_path, "SPARED_SC_CACHE_DIR"),
    "data_dir": (_path, "SPARED_SC_DATA_DIR"),
}


class Settings:
    """Defaults used wherever a function is called with `None`.

    Each attribute starts from its environment variable when that is set.

    Attributes
    ----------
    device
        Torch device, such as `"cpu"` or `"cuda:0"`. `None` takes cuda, mps or cpu, in that order.
        Environment: `SPARED_SC_DEVICE`.
    batch_size
        Spots per forward pass at inference; it changes memory and speed, never results. `None` leaves the
        choice to each function. Environment: `SPARED_SC_BATCH_SIZE`.
    n_jobs
        Threads of the compiled kernels. `None` takes all cores. Environment: `SPARED_SC_N_JOBS`.
    mixed_precision
        Whether networks compute in bfloat16 where that is safe; expression values stay in float32. `None` does so
        on CUDA devices that support it. Environment: `SPARED_SC_MIXED_PRECISION`.
    show_progress_bar
        `None` shows bars in a terminal or a notebook only. Environment: `SPARED_SC_PROGRESS`.
    cache_dir
        Where downloads and parsed tables are kept; the user's cache folder by default.
        Environment: `SPARED_SC_CACHE_DIR`.
    data_dir
        A folder of data sets that are already on this machine, searched before any download.
        Environment: `SPARED_SC_DATA_DIR`.

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
    cache_dir: Path | None
    data_dir: Path | None

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
            value = _FIELDS[name][0](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Setting {name!r}: {error}") from error
        if name == "cache_dir" and value is None:
            import pooch

            value = Path(pooch.os_cache("spared_sc"))
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
