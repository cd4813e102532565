"""Tables of scores, and what of them was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sps
from anndata import AnnData

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LEVELS = {"additive": 0.85, "median": 4.0, "soft_impute": 0.58, "counts": 0.53, "stack": 0.55}


BEST_FIRST = ["counts", "stack", "soft_impute", "additive", "median"]
SHOWN = ["counts model", *BEST_FIRST[1:]]  # as plots name them


BLUE, ORANGE, BLACK, VERMILION = "#0072b2", "#e69f00", "#000000", "#d55e00"


def table(
    levels=LEVELS, *, sets=None, regimes=("detected", "released"), shares=(0.3,), n_libraries=4, n_masks=2, floor=True
) -> pd.DataFrame:
    """Scores as the evaluation writes them: errors grow with the hidden share, those of the median fast."""
    rng = np.random.default_rng(0)
    rows = []
    methods = {**levels, **({"floor_low": 0.3, "floor_high": 0.4} if floor else {})}
    for name in sets or [""]:
        for regime in regimes:
            for share in shares:
                for mask in range(n_masks):
                    for i in range(n_libraries):
                        for method, level in methods.items():
                            value = level * (1 + share * (level > 2)) * np.exp(0.05 * i + rng.normal(0, 0.01))
                            rows.append((name, regime, share, mask, method, f"section_{i}", f"donor_{i // 2}", value))
    columns = ["set", "regime", "share", "mask", "method", "library", "subject", "value"]
    made = pd.DataFrame(rows, columns=columns).assign(genes="all", metric="mse", n=900, flag="")
    made = pd.concat(
        [made, made.assign(metric="pcc", value=1 / (1 + made["value"]))[~made["method"].str.match("floor")]]
    )
    made = pd.concat([made, made.assign(genes="sparse", value=2 * made["value"])], ignore_index=True)
    made = made.sample(frac=1, random_state=0) if sets is None else made  # the order of the rows tells nothing
    return made if sets else made.drop(columns="set")


def part(scores: pd.DataFrame, **wanted) -> pd.DataFrame:
    wanted = {"metric": "mse", "genes": "all", **wanted}
    return scores[np.logical_and.reduce([scores[column] == value for column, value in wanted.items()])]


def of_libraries(scores: pd.DataFrame, **wanted) -> dict:
    """Mean over the masks for every library, by a loop."""
    rows = part(scores, **wanted)
    return {name: np.mean([v for v, lib in zip(rows["value"], rows["library"], strict=True) if lib == name])
            for name in sorted(set(rows["library"]))}  # fmt: skip


def artist(ax: Axes, label: str):
    found = [one for one in [*ax.collections, *ax.patches, *ax.lines] if one.get_label() == label]
    assert len(found) == 1, label
    return found[0]


def hidden(*, sparse=True) -> AnnData:
    """Spots x genes with a hidden half of the detected entries, and two layers that were completed without them."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.5, size=(60, 8))
    truth = np.where(counts > 0, np.log2(1 + 900 * counts * rng.uniform(0.5, 2, size=(60, 1))), 0).astype(np.float32)
    mask = (counts > 0) & (rng.random(counts.shape) < 0.5)
    box = sps.csr_matrix if sparse else np.asarray
    adata = AnnData(
        sps.csr_matrix(counts.astype(np.float32)),
        var=pd.DataFrame({"spared_selected": [True] * 6 + [False] * 2}, index=[f"GENE{i}" for i in range(8)]),
        layers={
            "log2tpm": box(truth),
            "hidden": box(mask),
            "good": box(np.where(mask, truth + rng.normal(0, 0.3, truth.shape), truth).astype(np.float32)),
            "median": box(np.where(mask, rng.normal(11, 1, truth.shape), truth).astype(np.float32)),
        },
    )
    return adata


def audited(n=30, *, others=5, harm=False, key="audit", rates=True) -> AnnData:
    """What an audit leaves: `n` genes with verdicts, and `others` that it did not look at."""
    rng = np.random.default_rng(2)
    skill = np.linspace(0.5, -0.2, n)
    gain = skill + rng.normal(0, 0.1, n)
    verdict = np.where(skill > 0.1, "complete", np.where(skill > 0, "denoise", "undecided"))
    columns = {
        "verdict": pd.Categorical([*verdict, *["not audited"] * others]),
        "skill": skill if rates else np.full(n, np.nan),
        "skill_low": skill - 0.1 if rates else np.full(n, np.nan),
        "skill_high": skill + 0.05 if rates else np.full(n, np.nan),
        "gain": gain,
        "gain_low": gain - 0.2,
        "gain_high": gain + 0.15,
        "missing": rng.uniform(0.1, 0.9, n),
        "n_molecules": rng.integers(10, 1000, n) * 1.0,
    }
    names = [f"GENE{i}" for i in range(n + others)]
    frame = pd.DataFrame(
        {f"{key}_{c}": v if c == "verdict" else [*v, *[np.nan] * others] for c, v in columns.items()}, index=names
    )
    summary = "The expected counts of some of these genes beat averages, and the filled values of others. " * 3
    adata = AnnData(np.ones((2, n + others)), var=frame)
    adata.uns["spared_sc"] = {
        key: {"function": "tl.audit_completion", "params": {}, "summary": summary.strip(), "harm": harm}
    }
    return adata[:, rng.permutation(n + others)].copy()
