"""How to compute: device, seed, batch size, threads, progress and checkpoint, checked once and passed down as one object."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spared_sc._core.files import as_path
from spared_sc._core.names import file_name
from spared_sc._core.report import progress_bar
from spared_sc._core.settings import settings
from spared_sc._core.validate import check_number, check_seed, n_threads

if TYPE_CHECKING:
    from pathlib import Path

    from tqdm import tqdm


BLOCKS = ("completed", "denoised", "rate", "sd", "denoised_sd")  # of an estimate of completion
OF_RATES = frozenset({"denoised", "rate", "denoised_sd"})  # those that are made from expected counts


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How to compute. Only the seed changes a result; `network_threads` changes its rounding."""

    device: str | None = None  # name of a torch device; `None` lets the networks choose
    seed: int = 0
    batch_size: int | None = None  # spots per forward pass at inference; `None` leaves it to the model
    n_threads: int = 1
    network_threads: int = 1  # of a network on the CPU
    show_progress_bar: bool | None = None
    checkpoint: Path | None = None  # folder in which an interrupted fit keeps its state
    write: frozenset[str] = frozenset(
        BLOCKS
    )  # blocks of an estimate that are wanted; a method may leave out the others

    def bar(self, total: int, desc: str, unit: str = "step") -> tqdm:
        """A progress bar."""
        return progress_bar(total=total, desc=desc, show=self.show_progress_bar, unit=unit)

    def below(self, name: str) -> Compute:
        """The same with the checkpoint in a folder below, for something of any name."""
        return self if self.checkpoint is None else replace(self, checkpoint=self.checkpoint / file_name(name))

    def without_bar(self) -> Compute:
        """The same without a progress bar, for steps of something that shows one."""
        return replace(self, show_progress_bar=False)


def make_compute(
    *,
    random_state: int = 0,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    show_progress_bar: bool | None = None,
    checkpoint: str | Path | None = None,
    write: str | Collection[str] | None = None,
) -> Compute:
    """Check the arguments of a public function; what is `None` comes from the settings.

    A network on the CPU has one thread, unless a number was asked for: its threads wait for one another thousands of times
    a second, which takes longer than the work of one wherever another process uses a core.
    """
    batch_size = settings.batch_size if batch_size is None else batch_size
    if batch_size is not None:
        check_number("batch_size", batch_size, 1, whole=True)
    write = BLOCKS if write is None else [write] if isinstance(write, str) else write
    if not isinstance(write, Collection) or not write or not set(BLOCKS).issuperset(write):
        raise ValueError(f"write={write!r} cannot be used: give some of {', '.join(map(repr, BLOCKS))}.")
    return Compute(
        device=settings.device if device is None else str(device),
        seed=check_seed(random_state),
        batch_size=batch_size,
        n_threads=n_threads(n_jobs),
        network_threads=1 if n_jobs is None and settings.n_jobs is None else n_threads(n_jobs),
        show_progress_bar=show_progress_bar,
        checkpoint=None if checkpoint is None else as_path(checkpoint, "checkpoint"),
        write=frozenset(write),
    )
