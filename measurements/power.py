"""What verdicts find, by the number of molecules of a gene, and whether they depend on the seed.

    python measurements/power.py small large        drawn sections of two sizes; 5 minutes each on one core
    python measurements/power.py VKO HER2_C ...     agreement of two seeds on real sections; 2 to 5 minutes each

The drawn sections have genes at four total counts. The share of two thirds of them varies threefold over the tissue
(95% over 5% quantile), smoothly, each with its own mixture of five programmes. The others are independent Poisson counts
in proportion to depth. The verdicts are those of the default completion, from three splits of the molecules, and those of
the audit with its five splits, each with two seeds.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import _results
import anndata as ad
import numpy as np
import scipy.sparse as sps
import sections

import spared_sc as sp

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = {"library_key": "library_id", "show_progress_bar": False, "n_jobs": 1}
COUNTS = (30, 100, 300, 1000)  # of a gene in a section
N_VARYING, N_NULL = 20, 10  # genes at each of these in a section
SIZES = {"small": ((22, 22), 4), "large": ((45, 45), 1)}  # spots, and number of drawn sections
DEPTH = 5000.0
FOLD = 3.0
SEEDS = (0, 1)


def drawn(shape: tuple[int, int], seed: int) -> tuple[ad.AnnData, np.ndarray, np.ndarray]:
    """A section, and for the genes to complete their expected total count, and whether they vary."""
    made = sp.datasets.synthetic(1, 20, shape=shape, image=False, random_state=seed)
    rng = np.random.default_rng(seed)
    programs = np.asarray(made.obsm["programs"], dtype=np.float64)
    depth = DEPTH * rng.lognormal(0, 0.4, len(programs))
    total = np.repeat(COUNTS, N_VARYING + N_NULL)
    varies = np.tile(np.arange(N_VARYING + N_NULL) < N_VARYING, len(COUNTS))
    pattern = (programs - programs.mean(axis=0)) @ rng.normal(size=(programs.shape[1], total.size))
    low, high = np.quantile(pattern, [0.05, 0.95], axis=0)
    rate = depth[:, None] * np.exp(pattern * np.where(varies, np.log(FOLD) / (high - low), 0))
    rate *= total / rate.sum(axis=0)
    # All other molecules are of genes that are not completed.
    counts = rng.poisson(np.column_stack([rate, depth]))
    adata = ad.AnnData(sps.csr_matrix(counts, dtype=np.float32), obs=made.obs.copy())
    adata.var_names = [*(f"gene_{i:03d}" for i in range(total.size)), "others"]
    adata.obsm["spatial"] = made.obsm["spatial"]
    adata.var["spared_selected"] = adata.var_names != "others"
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    return adata, total, varies


def verdicts(adata: ad.AnnData, seed: int) -> dict[str, np.ndarray]:
    """Verdict of every selected gene by the completion and by the audit."""
    sp.tl.spackle_complete(adata, random_state=seed, **KEY)
    sp.tl.audit_completion(adata, random_state=seed, **KEY)
    chosen = adata.var["spared_selected"].to_numpy()
    columns = {"fit": "spackle_verdict", "audit": "audit_verdict"}
    return {name: adata.var[column].to_numpy(dtype=object)[chosen] for name, column in columns.items()}


def decided(verdict: np.ndarray) -> np.ndarray:
    """Genes for which there is evidence."""
    return np.isin(verdict, ["complete", "denoise"])


def agreement(name: str, n_spots: int, pairs: Iterable[tuple[dict[str, np.ndarray], ...]]) -> dict[str, Any]:
    """How often two seeds decide alike, among the genes that either of them decides."""
    pairs = list(pairs)
    row: dict[str, Any] = {"set": name, "spots": n_spots}
    for kind in ("fit", "audit"):
        first, second = (np.concatenate([pair[i][kind] for pair in pairs]) for i in range(2))
        either = decided(first) | decided(second)
        row |= {
            f"{kind}_genes": len(first),
            f"{kind}_complete": float(np.mean(first == "complete")),
            f"{kind}_denoise": float(np.mean(first == "denoise")),
            f"{kind}_both": float(np.mean(decided(first)[either] & decided(second)[either])),
            f"{kind}_same": float(np.mean(first[either] == second[either])),
        }
    return row


def of_drawn(name: str) -> None:
    """Power, false decisions and agreement on drawn sections of one size."""
    shape, n_sections = SIZES[name]
    made = [drawn(shape, seed) for seed in range(n_sections)]
    found = [tuple(verdicts(adata, seed) for seed in SEEDS) for adata, _, _ in made]
    n_spots, total, varies = made[0][0].n_obs, made[0][1], made[0][2]
    rows = []
    for count in COUNTS:
        row: dict[str, Any] = {"set": name, "spots": n_spots, "count": count}
        for kind in ("fit", "audit"):
            of_kind = np.array([one[kind] for pair in found for one in pair])[:, total == count]
            vary = varies[total == count]
            row |= {
                f"{kind}_found": float(decided(of_kind[:, vary]).mean()),
                f"{kind}_complete": float((of_kind[:, vary] == "complete").mean()),
                f"{kind}_false": float(decided(of_kind[:, ~vary]).mean()),
            }
        rows.append(row | {"genes": n_sections * N_VARYING, "null_genes": n_sections * N_NULL})
    merge("power.drawn", rows)
    merge("power.agreement", [agreement(name, n_spots, found)])


def of_section(name: str) -> None:
    """Agreement of two seeds on real sections."""
    adata = sections.read(name)
    pair = tuple(verdicts(adata, seed) for seed in SEEDS)
    merge("power.agreement", [agreement(name, adata.n_obs, [pair])])


def merge(table: str, rows: list[dict[str, Any]]) -> None:
    """Write rows, with those of other sets as they are."""
    try:
        before = _results.read(table)
    except KeyError:
        before = []
    _results.write(table, [*(row for row in before if row["set"] != rows[0]["set"]), *rows])


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        (of_drawn if chosen in SIZES else of_section)(chosen)
