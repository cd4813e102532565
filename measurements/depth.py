"""How much of a score is depth: predictions from images on real sections, a published protocol, and controls.

    python measurements/depth.py             everything; about a quarter of an hour on one thread
    python measurements/depth.py sets        the targets of `tl.compare_targets` on every set
    python measurements/depth.py panel       the 785 genes of HER2+, as they are usually scored
    python measurements/depth.py controls    synthetic sections with embeddings that hold depth, expression or nothing

Ridge on classical features of patches of three spot diameters, in common colours. Sections are predicted by a fit to the
others; B4 by a fit to C2 to C5 (another patient); the right half of the colon by a fit to the left half.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import _results
import crops
import numpy as np
import prediction
import sections
from scipy import stats

import spared_sc as sp

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad
    import pandas as pd

SIZE = 3  # of a patch, in spot diameters
EMBEDDING = {"use_rep": "X_image"}
BASELINES = ("raw, all", "raw, detected")
PAIRED = ("pcc_given_depth", "d2")
COLUMNS = ("d2", "d2_own", "pcc", "pcc_given_depth", "negative", "constant")
N_COMPONENTS = 10  # of an embedding of the controls
SHAPE = (24, 24)  # of a section of the controls
N_TRAIN, N_TEST = 2, 4  # sections of the controls; on 4 x 576 spots, a chance correlation is below 0.02 on average


@dataclass(frozen=True)
class Collection:
    """Sections with an image embedding, and how they are held out."""

    name: str
    adata: ad.AnnData
    library_key: str = "library_id"
    subject_key: str | None = None
    mask_var: str = "spared_selected"


# --- sets -------------------------------------------------------------------------------------------------------------


def collections() -> Iterator[Collection]:
    """One after the other, so that only one is in memory."""
    yield Collection("HER2+ C2 to C5", crops.of(her2(), *crops.SECTIONS))
    yield Collection("HER2+ B4, other patient", with_b4_held_out(her2()))
    bulb = embedded(crops.bulb())
    yield Collection("olfactory bulb, section out", bulb)
    bulb.obs["subject"] = bulb.obs["library_id"].map({"MOB1": "1", "MOB2": "1", "MOB3": "2", "MOB4": "2"})
    yield Collection("olfactory bulb, mouse out", bulb, subject_key="subject")
    yield Collection("lung organoids", embedded(sections.read("VLO")))
    yield Collection("kidney organoids", embedded(sections.read("VKO")))
    colon = prediction.colon()
    yield Collection("colon, half to half", embedded(colon, library_key="half"), library_key="half", mask_var="top")


def embedded(adata: ad.AnnData, library_key: str = "library_id") -> ad.AnnData:
    """Classical features of patches in the colours of a reference."""
    sp.pp.extract_patches(adata, size=SIZE, stain="macenko", library_key=library_key)
    sp.tl.embed_patches(adata, key_added=EMBEDDING["use_rep"], library_key=library_key)
    return adata


@cache
def her2() -> ad.AnnData:
    """Sections of two patients."""
    return embedded(crops.her2())


def with_b4_held_out(adata: ad.AnnData) -> ad.AnnData:
    """All five sections of HER2+, with a split."""
    adata = adata.copy()
    adata.obs["split"] = np.where(adata.obs["library_id"] == "B4", "test", "train")
    return adata


def sets() -> None:
    """Every target on every set, and the differences between targets section by section."""
    scores, gaps = [], []
    for one in collections():
        options = {"library_key": one.library_key, "subject_key": one.subject_key, "mask_var": one.mask_var}
        table = sp.tl.compare_targets(one.adata, **EMBEDDING, **options)
        scores += scores_of(table, one)
        gaps += [difference(table, baseline, one) for baseline in BASELINES]
        _results.write("depth.sets", scores)
        _results.write("depth.differences", gaps)


def scores_of(table: pd.DataFrame, one: Collection) -> list[dict[str, Any]]:
    """A row per target, anchor and ceiling: means over the units, with their intervals."""
    mean = table[(table["library"] == "all") & (table["metric"] == "pcc") & (table["gene"] != "all")]
    units = table.loc[(table["library"] == "all") & (table["metric"] == "pcc"), "n_units"].max()
    n_genes = mean["gene"].nunique()
    of_mean = mean.groupby("prediction")["value"].apply(lambda values: (values.dropna() < 0).mean())
    summary = sp.get.prediction_summary(table)
    rows = []
    for name, values in summary.iterrows():
        row = {"set": one.name, "genes": n_genes, "units": units, "prediction": name}
        row |= {column: values[column] for column in summary if column.startswith(COLUMNS)}
        row["negative_in_mean"] = of_mean[name] if units > 1 and name != "ceiling" else None
        rows.append(row)
    return rows


def difference(table: pd.DataFrame, baseline: str, one: Collection) -> dict[str, Any]:
    """Denoised minus another target in every section or donor, with the half width of a paired 95 % t interval."""
    row: dict[str, Any] = {"set": one.name, "baseline": baseline}
    part = table[(table["library"] != "all") & (table["gene"] == "all")]
    for metric in PAIRED:
        values = part[part["metric"] == metric].pivot_table(
            index="library" if one.subject_key is None else "subject", columns="prediction", values="value"
        )
        gap = (values["denoised"] - values[baseline]).dropna()
        row |= {metric: gap.mean(), f"{metric}_half": half_width(gap), "n": len(gap)}
    return row


def half_width(values: pd.Series) -> float:
    """Of a 95 % t interval of the mean; NaN below three values."""
    n = len(values)
    return float(stats.sem(values) * stats.t.ppf(0.975, n - 1)) if n >= 3 else np.nan


# --- 785 genes --------------------------------------------------------------------------------------------------------


def panel() -> None:
    """The 785 genes of HisToGene and Hist2ST: mean correlation with log CP10K, of ridge and of depth alone."""
    both = her2()
    wanted = (sp.settings.data_dir / "her2st" / "genes_785.txt").read_text().split()
    both.var["panel"] = both.var_names.isin(wanted)
    depth = np.asarray(both.X.sum(axis=1), dtype=np.float64)
    both.layers["log_cp10k"] = (both.X.multiply(1e4 / depth).log1p() / np.log(2)).tocsr().astype(np.float32)
    arms = {"raw": {"target": "log_cp10k", "loss": "all"}, "denoised": {"target": "expression"}}
    rows = []
    for name, adata in (
        ("HER2+ C2 to C5", crops.of(both, *crops.SECTIONS)),
        ("HER2+ B4, other patient", with_b4_held_out(both)),
    ):
        for key, arm in arms.items():
            options = {"layer": "log_cp10k", "mask_var": "panel", "key_added": key}
            sp.tl.predict_expression(adata, **arm, **options, **EMBEDDING, **crops.KEY)
        table = sp.tl.score_prediction(adata, list(arms), layer="log_cp10k", **crops.KEY)
        rows += scores_of(table, Collection(name, adata))
    _results.write("depth.panel", rows)


# --- controls ---------------------------------------------------------------------------------------------------------


def controls() -> None:
    """Embeddings of synthetic sections that hold depth, expression or nothing."""
    adata = sp.datasets.synthetic(n_libraries=N_TRAIN + N_TEST, n_genes=220, shape=SHAPE, image=False)
    adata.obs["split"] = np.where(adata.obs["library_id"].cat.codes < N_TRAIN, "train", "test")
    sp.pp.normalize_tpm(adata)
    arms = {"denoised": {}, "raw": {"target": "log2tpm", "loss": "all"}}
    rows = []
    for name, embedding in embeddings(adata).items():
        adata.obsm["X_control"] = embedding.astype(np.float32)
        for key, arm in arms.items():
            sp.tl.predict_expression(adata, use_rep="X_control", key_added=key, **arm, **crops.KEY)
        table = sp.tl.score_prediction(adata, list(arms), **crops.KEY)
        rows += [{"embedding": name, **control(table, key)} for key in arms]
    _results.write("depth.controls", rows)


def embeddings(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """By what they hold, (n_spots, n_features) each."""
    rng = np.random.default_rng(0)
    depth = np.log(np.asarray(adata.X.sum(axis=1), dtype=np.float64)).reshape(-1, 1)
    noise = rng.normal(size=(adata.n_obs, N_COMPONENTS))
    rate = adata.layers["rate"].astype(np.float64)
    expression = np.log(rate / rate.sum(axis=1, keepdims=True))
    left, size, _ = np.linalg.svd(expression - expression.mean(axis=0), full_matrices=False)
    components = left[:, :N_COMPONENTS] * size[:N_COMPONENTS]
    return {
        "log depth and noise": (depth - depth.mean()) / depth.std() + noise,
        "log depth": depth,
        "expression and noise": components + noise * components.std(axis=0) / 2,
        "noise": noise,
    }


def control(table: pd.DataFrame, key: str) -> dict[str, Any]:
    """Scores of one prediction: means over genes and sections, and the mean size of a gene's correlation given depth."""
    mine = table[(table["library"] == "all") & (table["prediction"] == key)]
    genes = mine[(mine["gene"] != "all") & (mine["metric"] == "pcc_given_depth")]["value"].dropna()
    values = mine[mine["gene"] == "all"].set_index("metric")["value"]
    row = {"target": key, "genes": len(genes), "pcc_given_depth_size": genes.abs().mean()}
    return row | {column: values[column] for column in COLUMNS}


PARTS = {"sets": sets, "panel": panel, "controls": controls}


def main() -> None:
    """Run what is asked for, or all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or list(PARTS)
    warnings.filterwarnings("ignore", message=".*have no length")  # of HER2+, see the docs
    if sp.settings.data_dir is None:
        raise SystemExit("set SPARED_SC_DATA_DIR to the folder of the sections")
    for part in parts:
        PARTS[part]()


if __name__ == "__main__":
    main()
