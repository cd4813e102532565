"""The paper's ablations of SpaCKLE (its Tables 2 and 3) on real sections, scored on hidden entries.

    python measurements/ablations.py                      VLO, VKO and four sections of HER2+ patient C, one mask; half an hour on two cores

Every variant is fitted to what is left after 30 % of the detected entries were hidden, at most 400 steps with a patience
of 200: in all variants the best step comes early, see the documentation.
"""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING

import _results
import numpy as np
from sections import read

import spared_sc as sp

if TYPE_CHECKING:
    from anndata import AnnData

KEY = {"library_key": "library_id"}
N_CONTEXT = 1024
VARIANTS = {
    "as in the paper": {},
    "no pre-completion": {"precomplete": False},
    "no neighbours": {"n_rings": 0},
    "6 neighbours": {"n_rings": 1},
    "36 neighbours": {"n_rings": 3},
    "visual features": {"use_rep": "X_colour"},
    "context genes": {"use_rep": "X_context"},
    "loss on hidden entries": {"loss": "hidden"},
}


def colours(adata: AnnData) -> np.ndarray:
    """Mean, standard deviation and quantiles of red, green and blue in a square of the size of a spot."""
    rows = []
    for library, position in zip(adata.obs["library_id"].astype(str), adata.obsm["spatial"], strict=True):
        images, scales = (adata.uns["spatial"][library][part] for part in ("images", "scalefactors"))
        image, scale = images["hires"], scales["tissue_hires_scalef"]
        half = max(int(scales["spot_diameter_fullres"] * scale / 2), 2)
        x, y = np.rint(position * scale).astype(int)
        patch = image[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1, :3].reshape(-1, 3)
        patch = patch if len(patch) else np.zeros((1, 3))
        rows.append(np.r_[patch.mean(0), patch.std(0), np.quantile(patch, [0.1, 0.5, 0.9], axis=0).ravel()])
    return np.asarray(rows)


def with_images() -> AnnData:
    """The four sections of HER2+ patient C whose images are at hand, after the recipe."""
    adata = sp.datasets.her2st(["C2", "C3", "C4", "C5"], images=True)
    sp.pp.recipe_spared(adata, **KEY)
    return adata


def context(adata: AnnData) -> list[str]:
    """The genes that follow the selected ones by Moran's I."""
    ranked = adata.var.loc[~adata.var["spared_selected"], "moran_i"].dropna().sort_values(ascending=False)
    return ranked.index[:N_CONTEXT].tolist()


def scores(name: str, variants: list[str], n_masks: int, n_steps: int):
    """Table of one set."""
    adata = read(name) if name != "HER2_C" else with_images()
    adata.obsm["X_colour"] = colours(adata)
    others = context(adata)

    def completed(*, use_rep: str | None = None, **params):
        def run(visible: AnnData) -> str:
            if use_rep == "X_context":
                visible.obsm["X_context"] = visible[:, others].layers["log2tpm"].toarray()
            model_params = {"n_steps": n_steps, "patience": n_steps // 2, **params}
            sp.tl.spackle_complete(
                visible, model="paper", model_params=model_params, use_rep=use_rep, allow_unrecorded_rep=True, **KEY
            )
            return "spackle"

        return run

    methods = {variant: completed(**VARIANTS[variant]) for variant in variants}
    methods |= {name: _baseline(name) for name in ("median", "gene_mean")}
    return sp.tl.evaluate_completion(
        adata,
        methods=methods,
        regimes="detected",
        n_masks=n_masks,
        use_rep="X_colour",
        allow_unrecorded_rep=True,
        **KEY,
    )


def _baseline(name: str):
    def run(visible: AnnData) -> str:
        sp.tl.complete(visible, method=name, **KEY)
        return name

    return run


def main() -> None:
    """Measure every variant on every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["VLO", "VKO", "HER2_C"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--masks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*training")
    columns: dict[str, dict[str, float]] = {}
    for name in options.sets:
        table = scores(name, options.variants, options.masks, options.steps)
        means = (
            table[table["genes"] == "all"].groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
        )
        columns |= {f"mse_{name}": means["mse"].to_dict(), f"pcc_{name}": means["pcc_pooled"].to_dict()}
        print(means[["mse", "pcc_pooled", "pcc"]].round(3).to_string(), flush=True)
    variants = [*options.variants, "median", "gene_mean"]
    rows = [{"variant": v, **{column: values[v] for column, values in columns.items()}} for v in variants]
    _results.write("ablations.table", rows)


if __name__ == "__main__":
    main()
