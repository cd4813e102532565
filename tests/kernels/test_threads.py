"""_kernels/threads."""

from __future__ import annotations

import multiprocessing
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sps
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import spared_sc
from helpers.lattices import collection
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.counts import log2_scaled, row_sums
from spared_sc._kernels.median import adaptive_median
from spared_sc._kernels.moran import lattice_weights, morans_i
from spared_sc._kernels.threads import limited_threads, run_chunks
from spared_sc._kernels.truncated import truncated_moments


def all_kernels(n_threads: int) -> list[np.ndarray]:
    """What each kernel that may be called in several threads makes of enough data for several chunks."""
    rng = np.random.default_rng(0)
    position, library = collection("hex", 0.1, sizes=((13, 14), (7, 11)))
    lattice = lattices.from_array(position, library)
    counts = rng.poisson(0.3, (len(library), 50)).astype(np.float32)
    sparse = sps.csr_matrix(counts)
    scale = rng.uniform(0.1, 2, (200, 50))
    row, column = rng.uniform(1, 2, len(library)), rng.uniform(1, 2, 50)
    return [
        adaptive_median(counts, counts > 0, lattice, library, n_threads=n_threads),
        morans_i(lattice_weights(lattice), counts, n_threads=n_threads),
        *truncated_moments(rng.gamma(0.5, 4, (200, 50)), np.full(50, 3.0), scale, n_threads=n_threads),
        row_sums(sparse, column),
        log2_scaled(sparse, row, column).toarray(),
    ]


def of_blas() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def state() -> tuple[list[int], int]:
    """Threads of all libraries, and those of torch."""
    return [library["num_threads"] for library in threadpool_info()], torch.get_num_threads()


@pytest.fixture
def four_threads():
    """More threads than any block below asks for."""
    libraries, of_torch = threadpool_info(), torch.get_num_threads()
    with threadpool_limits(4):
        torch.set_num_threads(4)
        yield
    torch.set_num_threads(of_torch)
    assert threadpool_info() == libraries


@pytest.mark.parametrize("n_threads", [1, 2, 3, 50])
@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (9, 3), (10, 3)])
def test_chunks_cover_everything_once(n, size, n_threads):
    found = []
    run_chunks(lambda start, stop: found.append((start, stop)), n, size, n_threads)
    assert sorted(found) == [(start, min(start + size, n)) for start in range(0, n, size)]


def test_one_thread_or_one_chunk_is_the_callers():
    found = set()
    run_chunks(lambda start, stop: found.add(threading.get_ident()), 9, 3, 1)
    run_chunks(lambda start, stop: found.add(threading.get_ident()), 3, 3, 2)
    assert found == {threading.get_ident()}


def test_chunks_run_side_by_side():
    both = threading.Barrier(2, timeout=60)
    run_chunks(lambda start, stop: both.wait(), 2, 1, 2)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_what_a_kernel_raises_is_raised(n_threads):
    def kernel(start, stop):
        raise ValueError(f"chunk {start}")

    with pytest.raises(ValueError, match="chunk 0"):
        run_chunks(kernel, 9, 3, n_threads)


def test_kernels_do_not_depend_on_the_number_of_threads():
    one, two, three = (all_kernels(n) for n in (1, 2, 3))
    for expected, *others in zip(one, two, three, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, expected)


def test_no_kernel_is_parallel_by_numba():
    """Its threads spin, share OpenMP's settings with torch, and do not survive a fork."""
    files = Path(spared_sc.__file__).parent.rglob("*.py")
    assert [path.name for path in files if re.search(r"prange|parallel=True|numba\.set_", path.read_text())] == []


def _send_kernels(sender) -> None:
    sender.send(all_kernels(2))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_run_the_kernels():
    expected = all_kernels(2)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_kernels, args=(sender,))
    process.start()
    try:
        assert receiver.poll(60)
        for ours, theirs in zip(expected, receiver.recv(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    finally:
        process.terminate()
        process.join()


def test_two_threads_can_run_the_kernels_at_once():
    expected = all_kernels(1)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(all_kernels, [2, 2]):
            for ours, theirs in zip(expected, found, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_threads_are_limited_and_set_back(four_threads):
    before = state()
    with limited_threads(2):
        assert set(of_blas()) == {2}
        assert torch.get_num_threads() == 2
        with limited_threads(3):  # the smaller number counts
            assert set(of_blas()) == {2}
            assert torch.get_num_threads() == 2
        with limited_threads(1):
            assert set(of_blas()) == {1}
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    assert state() == before


def test_threads_are_set_back_after_an_error(four_threads):
    @limited_threads(1)
    def broken():
        assert torch.get_num_threads() == 1
        raise ValueError("broken")

    before = state()
    with pytest.raises(ValueError, match="broken"):
        broken()
    assert state() == before


def test_limits_that_overlap_in_two_threads_are_set_back(four_threads):
    before = state()
    opened, closed = threading.Event(), threading.Event()

    def other():
        outside = torch.get_num_threads()
        with limited_threads(1):
            opened.set()
            assert closed.wait(60)
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == outside

    with ThreadPoolExecutor(1) as pool:
        with limited_threads(1):
            done = pool.submit(other)
            assert opened.wait(60)
            assert set(of_blas()) == {1}
        assert torch.get_num_threads() == 4
        closed.set()
        done.result()
    assert state() == before
