"""Table 1 of the SpaRED paper on its two organoid sets, for both layers that Moran's I can rank on.

Needs the sections of Gracia Villacampa et al. (2021), which are downloaded where `$SPARED_SC_DATA_DIR/villacampa` does not
hold them.

    python measurements/table1.py
"""

from __future__ import annotations

import warnings

import _results

import spared_sc as sp

COLUMNS = ("spots", "genes_kept", "genes_selected", "corrupt", "missing_before", "missing_after")
SETS = ("VLO", "VKO")


def main() -> None:
    """Run the recipe with both layers."""
    rows, shared = [], []
    for name in SETS:
        printed = sp.datasets.catalogue().loc[name]
        shares = [int(printed[column]) / 100 for column in ("corrupt", "missing_before", "missing_after")]
        # The paper does not say how many genes pass the filter.
        paper = (int(printed["spots"]), None, int(printed["genes"]), *shares)
        rows.append({"set": name, "ranked_on": "paper", **dict(zip(COLUMNS, paper, strict=True))})
        adata = sp.datasets.load(name, split=False)
        selected = {}
        for layer in ("median", "log2tpm"):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*have no length")  # genes that are no longer annotated
                done = sp.pp.recipe_spared(adata, library_key="library_id", moran_layer=layer, copy=True)
            summary = done.uns["spared_sc"]["spared_filter"]["summary"]
            detected = done[:, done.var["spared_selected"]].layers["detected"].toarray()
            selected[layer] = set(done.var_names[done.var["spared_selected"]])
            missing = (summary["missing_share_before"], 1 - detected.mean())
            values = (
                summary["n_spots"],
                summary["n_genes"],
                detected.shape[1],
                (~detected.all(axis=1)).mean(),
                *missing,
            )
            rows.append({"set": name, "ranked_on": layer, **dict(zip(COLUMNS, values, strict=True))})
        both = selected["median"] & selected["log2tpm"]
        shared.append({"set": name, "shared": len(both), "genes": len(selected["median"])})
    _results.write("table1.table", rows)
    _results.write("table1.shared", shared)


if __name__ == "__main__":
    main()
