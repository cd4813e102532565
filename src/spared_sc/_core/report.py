"""What the package tells its user while it works: one logger, one progress bar, one kind of warning."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

from spared_sc._core.settings import settings

if TYPE_CHECKING:
    from tqdm import tqdm

logger = logging.getLogger("spared_sc")


def progress_bar(*, total: int, desc: str, show: bool | None = None, unit: str = "step") -> tqdm[Any]:
    """A progress bar; `show=None` asks the settings, and those ask whether somebody is watching."""
    from tqdm import tqdm

    if show is None:
        show = settings.show_progress_bar
    if show is None:
        show = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, desc=desc, disable=not show, unit=unit, leave=False, dynamic_ncols=True)


def announce(message: str) -> None:
    """Say what a function did in one line: through the logger where somebody listens to it, else printed."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(message)
    elif settings.verbosity is None:
        print(message)  # noqa: T201


def warn(message: str) -> None:
    """Warn, and point at the line outside of this package that called it, however deep inside the reason was found."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("spared_sc."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
