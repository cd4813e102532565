"""Threads: of our own for compiled kernels, and limits for those of BLAS and OpenMP libraries.

A parallel region of OpenMP ends when its slowest thread does, and the others spin until then: on a machine with
something else to do it takes many times as long as without threads. Kernels therefore run in chunks, and a thread that
is held up leaves the other chunks to the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


def run_chunks(kernel: Callable[[int, int], object], n: int, size: int, n_threads: int) -> None:
    """Call `kernel(start, stop)` for consecutive parts of `range(n)`, each of `size` items but for the last.

    The kernel releases the interpreter lock (`numba.njit(nogil=True)`) and writes to the items of its part only, so that
    the result does not depend on the number of threads.
    """
    parts = [(start, min(start + size, n)) for start in range(0, n, size)]
    n_threads = min(n_threads, len(parts))
    if n_threads <= 1:
        for start, stop in parts:
            kernel(start, stop)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(kernel, *zip(*parts, strict=True)):
            pass  # raises what a kernel raised


@contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """At most `n` threads of BLAS, OpenMP and torch in the block; afterwards as many as before.

    Blocks may be nested; the smallest number counts. It works as a decorator, too. OpenMP and torch are limited in the
    calling thread only.
    """
    if "torch" in sys.modules:
        sys.modules[
            "torch"
        ].get_num_threads()  # its first call in a thread sets OpenMP's number, so it comes before ours
    libraries = ThreadpoolController()
    limits = {library.prefix: n for library in libraries.lib_controllers if (library.num_threads or 1) > n}
    with libraries.limit(limits=limits):
        yield
