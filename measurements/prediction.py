"""Expression from the H&E image on real sections: scores beside anchors, and what a fit costs.

    python measurements/prediction.py                 ridge and nearest neighbours: HER2+ C2 to C5, and the mouse colon
    python measurements/prediction.py --her2          HER2+ C2 to C5 alone
    python measurements/prediction.py --networks      the networks, from untrained weights and few steps, beside ridge; with
                                                      names, those alone, and the other rows stay
    python measurements/prediction.py --protocols     the same predictions by every protocol of scoring

HER2+ C2 to C5 are four sections of one patient, each predicted by a fit to the other three (hyper-parameters chosen among
those): the scores say nothing about other patients. The colon is one section, its right half predicted by a fit to the left
half, with a gap between them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import TYPE_CHECKING, Any

import _results
import anndata as ad
import numpy as np
from scipy import stats
from scipy.spatial import cKDTree

import spared_sc as sp

if TYPE_CHECKING:
    import pandas as pd

KEY = {"library_key": "library_id"}
SECTIONS = ["C2", "C3", "C4", "C5"]
HER2_SIZES = (1, 3, 6)  # of a patch, in spot diameters
FEATURES = {  # of HER2+: those of one size, of all sizes, and of both encoders
    "classical, 1": ["X_classical, 1"],
    "classical, 3": ["X_classical, 3"],
    "classical, 1 + 3 + 6": ["X_classical"],
    "EfficientNet, 3": ["X_efficientnet-lite0, 3"],
    "EfficientNet, 1 + 3 + 6": ["X_efficientnet-lite0"],
    "both, 1 + 3 + 6": ["X_classical", "X_efficientnet-lite0"],
}
SIZES = (1, 2, 3, 7)  # of the colon
TOGETHER = "all sizes"  # their features side by side
GAP = 6  # distances between spots that are left out between the halves
N_GENES = 400
N_SPARSE = 100  # genes that 20 to 40 % of the spots detect
TARGETS = {
    "all": {"target": "log2tpm", "loss": "all"},
    "detected": {"target": "log2tpm", "loss": "detected"},
    "denoised": {"target": "expression"},
}
# The defaults, 1,000 steps of 256 patches of 224 or 256 pixels, are for a GPU and pretrained weights.
SIDE = 112  # pixels of a patch; the ViTs enlarge it to the 224 that they are made for
FEW = {
    "shufflenet": {"n_steps": 200, "train_batch_size": 32},
    "stnet": {"n_steps": 40, "train_batch_size": 16},
    "stnet from the mean": {"n_steps": 40, "train_batch_size": 16, "start_at_mean": True},
    "stnet_he": {"n_steps": 40, "train_batch_size": 16},
    "bleep": {"n_steps": 40, "train_batch_size": 32},
    "egn": {"n_steps": 20, "train_batch_size": 16, "image_size": 128},
    "vit_b": {"n_steps": 8, "train_batch_size": 8},
    "vit_b_delta": {"n_steps": 8, "train_batch_size": 8},
}


def her2() -> ad.AnnData:
    """Four sections of patient C, 128 genes."""
    adata = sp.datasets.her2st(SECTIONS, images=True)
    sp.pp.recipe_spared(adata, **KEY)
    return adata


def colon() -> ad.AnnData:
    """The mouse colon without the spots between its halves; the genes that most spots detect."""
    folder = sp.settings.data_dir / "mouse_colon"
    adata = ad.read_h5ad(folder / "derived_d0.h5ad")
    place = adata.obsm["spatial"].astype(float)
    pitch = np.median(cKDTree(place).query(place, k=2)[0][:, 1])
    x = place[:, 0] - np.median(place[:, 0])
    adata.obs["half"] = np.where(x < 0, "left", "right")
    adata.obs["split"] = np.where(x < 0, "train", "test")
    slide = {
        "images": {},
        "scalefactors": {"spot_diameter_fullres": 67.0},
        "metadata": {"source_image_path": str(folder / "d0_naive_zoom5_stitched.jpg")},
    }
    adata.uns["spatial"] = {"left": slide, "right": slide}
    adata = adata[np.abs(x) > GAP * pitch / 2].copy()
    detected = np.asarray((adata[adata.obs["half"] == "left"].X > 0).sum(axis=0)).ravel()
    adata.var["top"] = np.isin(np.arange(adata.n_vars), np.argsort(-detected, kind="stable")[:N_GENES])
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    return adata


def embed(adata: ad.AnnData, size: float, **key: str) -> None:
    """Classical features of patches of a size."""
    sp.pp.extract_patches(adata, size=size, **key)
    sp.tl.embed_patches(adata, encoder="classical", key_added=f"X_{size}", **key)


def embed_all_sizes(adata: ad.AnnData, **key: str) -> None:
    """Classical features of patches of every size, and of all of them together."""
    for size in SIZES:
        embed(adata, size, **key)
    adata.obsm[f"X_{TOGETHER}"] = np.hstack([adata.obsm[f"X_{size}"] for size in SIZES])


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Overall scores, a row per prediction."""
    part = scores[(scores["library"] == "all") & (scores["gene"] == "all")]
    return part.pivot(index="prediction", columns="metric", values="value").loc[part["prediction"].unique()]


def rows_of(scores: pd.DataFrame, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """MSE, skill and correlations with 95 % t intervals over sections, and the seconds of all fits; a row per prediction."""
    total = scores[(scores["library"] == "all") & (scores["gene"] == "all")].set_index(["prediction", "metric"])
    rows = []
    for name, values in summary(scores).reindex(columns=["mse", "skill", "pcc", "pcc_pooled"]).iterrows():
        row = {"prediction": name, "mse": values["mse"]}
        for metric in ("skill", "pcc"):
            ends = total.loc[(name, metric)] if (name, metric) in total.index else {"lower": None, "upper": None}
            row |= {metric: values[metric], f"{metric}_lower": ends["lower"], f"{metric}_upper": ends["upper"]}
        rows.append({**row, "pcc_pooled": values["pcc_pooled"], "seconds": seconds.get(name)})
    return rows


def expression_rows(scores: pd.DataFrame, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Scores on raw counts with 95 % t intervals, and the seconds of all fits; a row per prediction."""
    rows = []
    for name, values in sp.get.prediction_summary(scores).iterrows():
        rows.append({"prediction": name, **values.to_dict(), "seconds": seconds.get(name)})
    return rows


def differences(scores: pd.DataFrame, features: str) -> list[dict[str, Any]]:
    """Ridge minus each anchor, section by section, with a paired t interval."""
    part = scores[(scores["library"] != "all") & (scores["gene"] == "all")]
    rows = []
    for anchor in ("depth_only", "position_only"):
        row: dict[str, Any] = {"patch": features, "anchor": anchor}
        for metric in ("pcc", "pcc_given_depth"):
            table = part[part["metric"] == metric].pivot(index="library", columns="prediction", values="value")
            gap = (table[f"ridge, {features}"] - table[anchor]).dropna()
            row |= {metric: gap.mean(), f"{metric}_half": stats.sem(gap) * stats.t.ppf(0.975, len(gap) - 1)}
        rows.append(row)
    return rows


def her2_embeddings() -> None:
    """Ridge and nearest neighbours on features of one and of several sizes."""
    adata = her2()
    for encoder in ("classical", "efficientnet-lite0"):
        sp.tl.embed_patches(adata, encoder=encoder, size=HER2_SIZES, **KEY)
        parts = np.hsplit(adata.obsm[f"X_{encoder}"], len(HER2_SIZES))
        adata.obsm.update({f"X_{encoder}, {size}": part for size, part in zip(HER2_SIZES, parts, strict=True)})
    models = [("ridge", features) for features in FEATURES] + [("knn", "classical, 1 + 3 + 6")]
    for model, features in models:
        options = {"model": model, "use_rep": FEATURES[features], "key_added": f"{model}, {features}"}
        sp.tl.predict_expression(adata, **options, **KEY)
    scores = sp.tl.score_prediction(adata, **KEY)
    _results.write("prediction.her2", expression_rows(scores, {}))
    gaps = [row for features in FEATURES for row in differences(scores, features)]
    _results.write("prediction.her2_differences", gaps)


def colon_halves() -> None:
    """Ridge on classical features, from one half of a section to the other."""
    adata = colon()
    key = {"library_key": "half"}
    embed_all_sizes(adata, **key)
    seconds = {}
    for size in (*SIZES, TOGETHER):
        start, name = time.perf_counter(), f"ridge, {size}"
        options = {"use_rep": f"X_{size}", "mask_var": "top", "key_added": name}
        sp.tl.predict_expression(adata, model="ridge", **options, **key)
        seconds[name] = time.perf_counter() - start
    scores = sp.tl.score_prediction(adata, **key)
    scores = scores[scores["prediction"] != "ceiling"]  # its counts are corrected ones
    genes = scores[(scores["library"] == "all") & (scores["metric"] == "pcc")]
    genes = genes.pivot(index="prediction", columns="gene", values="value")
    rows = expression_rows(scores, seconds)
    for row in rows:
        row |= {gene: genes[gene].get(row["prediction"]) for gene in ("Acta2", "Tagln")}
    _results.write("prediction.colon", rows)
    split = adata.obs["split"].value_counts()
    _results.write("prediction.colon_spots", [{"left": split["train"], "right": split["test"], "genes": N_GENES}])


def networks(models: list[str]) -> None:
    """Networks from untrained weights, a few steps: that they run, and how long they take."""
    adata = her2()
    embed(adata, 3, **KEY)
    start = time.perf_counter()
    sp.tl.predict_expression(adata, model="ridge", target="log2tpm", use_rep="X_3", key_added="ridge", **KEY)
    seconds = {"ridge": time.perf_counter() - start}
    sp.pp.extract_patches(adata, size=3, output_size=SIDE, **KEY)
    for model in models:
        start = time.perf_counter()
        params = {**FEW[model], "weights": "random", "validate_every": FEW[model]["n_steps"]}
        name = model.partition(" ")[0]
        options = {"target": "log2tpm", "model_params": params, "key_added": model}
        sp.tl.predict_expression(adata, model=name, **options, **KEY)
        seconds[model] = time.perf_counter() - start
    rows = rows_of(sp.tl.score_prediction(adata, **KEY, protocol="spared"), seconds)
    for row in rows:
        few = FEW.get(row["prediction"], {})
        row |= {"steps": few.get("n_steps"), "patches": few.get("train_batch_size")}
    rows = [row for row in rows if row["prediction"] in seconds]
    kept = [row for row in _results.read("prediction.networks") if row["prediction"] not in seconds]
    _results.write("prediction.networks", sorted([*rows, *kept], key=lambda row: row["mse"]))


def protocols() -> None:
    """Ridge on classical features, fitted to raw values and to denoised ones, scored by every protocol."""
    adata = her2()
    embed(adata, 3, **KEY)
    share = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    has_length = np.asarray(adata.layers["log2tpm"].sum(axis=0)).ravel() > 0
    sparse = np.flatnonzero((share > 0.2) & (share < 0.4) & has_length)
    chosen = np.random.default_rng(0).choice(sparse, N_SPARSE, replace=False)
    adata.var["sparse"] = np.isin(np.arange(adata.n_vars), chosen)
    rows = []
    for panel, mask in (("recipe", "spared_selected"), ("sparse", "sparse")):
        for name, target in TARGETS.items():
            options = {**target, "use_rep": "X_3", "mask_var": mask}
            sp.tl.predict_expression(adata, model="ridge", key_added=f"{panel}, {name}", **options, **KEY)
        rows += _by_protocol(adata, panel, [f"{panel}, {name}" for name in TARGETS])
    _results.write("prediction.protocols", rows)


def _by_protocol(adata: ad.AnnData, panel: str, keys: list[str]) -> list[dict[str, Any]]:
    """Scores of a panel of genes: a row per prediction, anchor and ceiling."""
    start = time.perf_counter()
    main = sp.get.prediction_summary(sp.tl.score_prediction(adata, keys, **KEY))
    seconds = time.perf_counter() - start
    others = {
        name: sp.get.prediction_summary(sp.tl.score_prediction(adata, keys, protocol=name, **KEY))
        for name in ("hest", "spared")
    }
    rows = []
    for name, values in main.iterrows():
        row = {"panel": panel, "genes": adata.obsm[keys[0]].shape[1], "prediction": name.removeprefix(f"{panel}, ")}
        row |= values.to_dict() | {"seconds": seconds}
        for protocol, summary in others.items():
            row |= {
                f"{protocol}_{metric}": summary[metric].get(name) for metric in ("pcc", "skill") if metric in summary
            }
        rows.append(row)
    return rows


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", metavar="MODEL", choices=list(FEW), default=None)
    parser.add_argument("--her2", action="store_true")
    parser.add_argument("--protocols", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*have no length")  # of HER2+, see the docs
    if sp.settings.data_dir is None:
        raise SystemExit("set SPARED_SC_DATA_DIR to the folder of the sections")
    if options.networks is not None:
        networks(options.networks or list(FEW))
    elif options.protocols:
        protocols()
    else:
        her2_embeddings()
        if not options.her2:
            colon_halves()


if __name__ == "__main__":
    main()
