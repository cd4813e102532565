"""What the package tells its user while it works: one logger, one progress bar."""

from __future__ import annotations

import logging
import sys
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
