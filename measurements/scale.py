"""Time and peak memory of the recipe, the adaptive median and SpaCKLE on made-up collections of Visium density.

    python measurements/scale.py                     5,000, 43,804 (SpaRED's largest set) and 500,000 spots; 20 GB of memory

From 500,000 spots on, only the selected genes are kept.

Each size runs in a process of its own, and each step's peak is the highest resident memory up to its end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import _results
import numpy as np
import scipy.sparse as sps

N_GENES = 32_000
DENSITY = 0.055  # share of entries with a count in the lung organoids, over all genes of the reference
SPOTS_PER_LIBRARY = 3_000
SUBSET_FROM = 500_000  # spots from which the recipe keeps the selected genes only


def collection(n_spots: int):
    """Counts of heavy-tailed genes, by blocks of spots, so that making them needs little beside the result."""
    from anndata import AnnData

    rng = np.random.default_rng(0)
    share = rng.lognormal(sigma=2.6, size=N_GENES)
    low, high = 1e-9, 10.0
    for _ in range(60):  # scale so that the mean chance of a count is the density
        middle = np.sqrt(low * high)
        low, high = (middle, high) if (-np.expm1(-share * middle)).mean() < DENSITY else (low, middle)
    rate = np.minimum(share * low, 50)
    data, indices, sizes = [], [], []
    for start in range(0, n_spots, 2_000):
        n = min(2_000, n_spots - start)
        depth = np.cumsum(rng.lognormal(sigma=0.4, size=n))
        gene = np.repeat(np.arange(N_GENES), rng.poisson(rate * n))
        spot = np.searchsorted(depth, rng.random(gene.size) * depth[-1])
        # repeated pairs add up to counts above one
        counts = sps.csr_matrix((np.ones(spot.size, np.float32), (spot, gene)), shape=(n, N_GENES))
        data.append(counts.data)
        indices.append(counts.indices.astype(np.int32))
        sizes.append(np.diff(counts.indptr))
    indptr = np.r_[0, np.cumsum(np.concatenate(sizes))]
    all_data = np.empty(indptr[-1], np.float32)
    all_indices = np.empty(indptr[-1], np.int32)
    at = 0
    while data:
        values, genes = data.pop(0), indices.pop(0)
        all_data[at : at + values.size], all_indices[at : at + values.size] = values, genes
        at += values.size
    if indptr[-1] < np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    matrix = sps.csr_matrix((all_data, all_indices, indptr), shape=(n_spots, N_GENES))
    adata = AnnData(matrix)
    library, place = np.divmod(np.arange(n_spots), SPOTS_PER_LIBRARY)
    row, col = np.divmod(place, 55)
    adata.obs["array_row"], adata.obs["array_col"] = row, 2 * col + row % 2
    adata.obs["library_id"] = [f"library_{i:03d}" for i in library]
    adata.obs["library_id"] = adata.obs["library_id"].astype("category")
    adata.var["gene_length"] = rng.lognormal(7.5, 0.8, size=N_GENES).round() + 200
    return adata


def memory() -> float:
    """Peak resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(n_spots: int, *, subset_genes: bool, steps: int) -> None:
    """One size: a row per step, as JSON."""
    import spared_sc as sp

    warnings.simplefilter("ignore")
    compile_kernels(sp)
    adata = collection(n_spots)
    rows = [("collection", 0.0, memory())]

    def step(name: str, run) -> None:
        start = time.perf_counter()
        run()
        rows.append((name, time.perf_counter() - start, memory()))

    key = {"library_key": "library_id"}
    step(
        "recipe, subset_genes=True" if subset_genes else "recipe",
        lambda: sp.pp.recipe_spared(adata, **key, subset_genes=subset_genes),
    )
    step("adaptive median", lambda: sp.tl.median_complete(adata, **key))
    step(
        f"SpaCKLE, {steps} steps, and completing",
        lambda: sp.tl.spackle_complete(
            adata, model="paper", model_params={"n_steps": steps}, show_progress_bar=False, **key
        ),
    )
    kept = adata.uns["spared_sc"]["spared_filter"]["summary"]["n_genes"]
    for name, seconds, gib in rows:
        print(json.dumps({"spots": n_spots, "genes_kept": kept, "step": name, "seconds": seconds, "peak_gib": gib}))


def compile_kernels(sp) -> None:
    """Numba compiles once per machine and version; that is not what is measured."""
    small = sp.datasets.synthetic(n_libraries=2, shape=(6, 6), image=False)
    sp.pp.recipe_spared(small, library_key="library_id")
    sp.tl.median_complete(small, library_key="library_id")
    sp.tl.spackle_complete(
        small, model="paper", model_params={"n_steps": 1}, library_key="library_id", show_progress_bar=False
    )


def main() -> None:
    """Run every size in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, nargs="+", default=[5_000, 43_804, 500_000])
    parser.add_argument("--subset-genes", action="store_true", help="keep only the selected genes")
    parser.add_argument("--steps", type=int, default=10, help="training steps of SpaCKLE")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.spots[0], subset_genes=options.subset_genes, steps=options.steps)
        return
    rows = []
    for n_spots in options.spots:
        command = [sys.executable, __file__, "--one", "--spots", str(n_spots), "--steps", str(options.steps)]
        command += ["--subset-genes"] * (options.subset_genes or n_spots >= SUBSET_FROM)
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows += [json.loads(line) for line in done.splitlines()]
        print(done, flush=True)
    _results.write("scale.table", rows)


if __name__ == "__main__":
    main()
