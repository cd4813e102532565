"""Table 1 of the SpaRED paper on its two organoid sets, for both layers that Moran's I can rank on.

Needs the sections of Gracia Villacampa et al. (2021) in `$SPARED_SC_DATA_DIR/villacampa`.

    python measurements/table1.py
"""

from __future__ import annotations

import warnings

import spared_sc as sp

PAPER = {  # spots, corrupt spots, missing before, missing after, genes
    "VLO": ("lung_organoid", 1832, 1.00, 0.90, 0.26, 128),
    "VKO": ("kidney_organoid", 1355, 1.00, 0.92, 0.33, 128),
}


def main() -> None:
    """Print the table as Markdown."""
    if sp.settings.data_dir is None:
        raise SystemExit("set SPARED_SC_DATA_DIR to the folder that holds villacampa/")
    print("| set | ranked on | spots | genes kept | genes selected | corrupt spots | missing before | missing after |")
    print("|---|---|---|---|---|---|---|---|")
    overlaps = []
    for name, (folder, spots, corrupt, before, after, genes) in PAPER.items():
        print(f"| {name} | paper | {spots:,} | - | {genes} | {corrupt:.0%} | {before:.0%} | {after:.0%} |")
        sections = sorted(p.parent for p in (sp.settings.data_dir / "villacampa" / folder).glob("*/spatial"))
        adata = sp.datasets.read_visium(sections)
        selected = {}
        for layer in ("median", "log2tpm"):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*have no length")  # mitochondrial genes, see the docs
                done = sp.pp.recipe_spared(adata, library_key="library_id", moran_layer=layer, copy=True)
            summary = done.uns["spared_sc"]["spared_filter"]["summary"]
            detected = done[:, done.var["spared_selected"]].layers["detected"].toarray()
            selected[layer] = set(done.var_names[done.var["spared_selected"]])
            print(
                f"| {name} | {layer} | {summary['n_spots']:,} | {summary['n_genes']} | {detected.shape[1]} "
                f"| {(~detected.all(axis=1)).mean():.1%} | {summary['missing_share_before']:.1%} "
                f"| {1 - detected.mean():.1%} |"
            )
        shared = len(selected["median"] & selected["log2tpm"])
        overlaps.append(f"{name}: {shared} of {genes} genes are selected with both layers.")
    print()
    print("\n".join(overlaps))


if __name__ == "__main__":
    main()
