"""Every completer by its name, over plain arrays: what the public functions, the evaluation and the audit run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.settings import settings

if TYPE_CHECKING:
    from spared_sc._kernels.sections import Estimate, Sections


@dataclass(frozen=True)
class Run:
    """How to compute, as resolved from arguments and settings."""

    seed: int = 0
    device: Any = None  # a torch device; only models need one
    batch_size: int = 2048
    n_threads: int = 1
    show_progress_bar: bool | None = None


def make_run(
    random_state: int,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    show_progress_bar: bool | None = None,
) -> Run:
    """Check the arguments that say how to compute."""
    from spared_sc._models.training import resolve_device

    validate.check_number("random_state", random_state, 0, whole=True)
    if batch_size is not None:
        validate.check_number("batch_size", batch_size, 1, whole=True)
    return Run(
        seed=random_state,
        device=resolve_device(device),
        batch_size=batch_size or settings.batch_size or 2048,
        n_threads=validate.n_threads(n_jobs),
        show_progress_bar=show_progress_bar,
    )


def names() -> list[str]:
    """Names of all completers."""
    from spared_sc._kernels.baselines import BASELINES

    return [*BASELINES, *Key.models]


def complete(name: str, sections: Sections, run: Run, **params: Any) -> Estimate:
    """Run a completer by name."""
    from spared_sc._kernels.baselines import BASELINES

    if name in BASELINES:
        return BASELINES[name](sections, seed=run.seed, n_threads=run.n_threads, **params)
    from spared_sc._models.completion.completers import MODELS

    how = {"device": run.device, "seed": run.seed, "show_progress_bar": run.show_progress_bar}
    if name == "paper":
        how |= {"batch_size": run.batch_size, "n_threads": run.n_threads}
    return MODELS[name](sections, **how, **params)
