"""Table 1 of the SpaRED paper on its two organoid sets, for both layers that Moran's I can rank on.

Needs the sections of Gracia Villacampa et al. (2021) in `$SPARED_SC_DATA_DIR/villacampa`.

    python measurements/table1.py
"""

from __future__ import annotations

import warnings

import _results

import spared_sc as sp

COLUMNS = ("spots", "genes_kept", "genes_selected", "corrupt", "missing_before", "missing_after")
PAPER = {  # folder, then as the columns; the paper does not say how many genes pass the filter
    "VLO": ("lung_organoid", 1832, None, 128, 1.00, 0.90, 0.26),
    "VKO": ("kidney_organoid", 1355, None, 128, 1.00, 0.92, 0.33),
}


def main() -> None:
    """Run the recipe with both layers."""
    if sp.settings.data_dir is None:
        raise SystemExit("set SPARED_SC_DATA_DIR to the folder that holds villacampa/")
    rows, shared = [], []
    for name, (folder, *paper) in PAPER.items():
        rows.append({"set": name, "ranked_on": "paper", **dict(zip(COLUMNS, paper, strict=True))})
        sections = sorted(p.parent for p in (sp.settings.data_dir / "villacampa" / folder).glob("*/spatial"))
        adata = sp.datasets.read_visium(sections)
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
