"""Threads: of our own for compiled kernels, and limits for those of BLAS and OpenMP libraries.

A parallel region of OpenMP ends when its slowest thread does, and the others spin until then: on a machine with
something else to do it takes many times as long as without threads. Kernels therefore run in chunks, and a thread that
is held up leaves the other chunks to the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self, TypeVar

from threadpoolctl import ThreadpoolController, threadpool_limits

Part = TypeVar("Part")
Result = TypeVar("Result")


def run_chunks(kernel: Callable[[int, int], object], n: int, size: int, n_threads: int) -> None:
    """Call `kernel(start, stop)` for consecutive parts of `range(n)`, each of `size` items but for the last.

    The kernel releases the interpreter lock (`numba.njit(nogil=True)`) and writes to the items of its part only, so that
    the result does not depend on the number of threads.
    """
    parts = [(start, min(start + size, n)) for start in range(0, n, size)]
    with Workers(min(n_threads, len(parts))) as workers:
        workers.map(lambda part: kernel(*part), parts)


class Workers:
    """Threads that share the parts of a task; with one thread, the calling one does it all."""

    def __init__(self, n_threads: int):
        self._pool = ThreadPoolExecutor(n_threads, initializer=_be_single) if n_threads > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Results for all parts, in their order; what a thread raises is raised."""
        if self._pool is None or len(parts) == 1:
            return [function(part) for part in parts]
        return list(self._pool.map(function, parts))


def _be_single() -> None:
    """OpenMP and torch start no threads of their own from this thread."""
    _touch_torch()
    threadpool_limits(1, user_api="openmp")


def _touch_torch() -> None:
    """Torch's first call in a thread sets OpenMP's number, so it comes before ours."""
    if "torch" in sys.modules:
        sys.modules["torch"].get_num_threads()


@contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """At most `n` threads of BLAS, OpenMP and torch in the block; afterwards as many as before.

    Blocks may be nested; the smallest number counts. It works as a decorator, too. OpenMP and torch are limited in the
    calling thread only.
    """
    _touch_torch()
    libraries = ThreadpoolController()
    # The others are left out: they would be set back to the number that an overlapping block gave them.
    above = [library.filepath for library in libraries.lib_controllers if (library.num_threads or 1) > n]
    with libraries.select(filepath=above).limit(limits=n):
        yield
