"""The main job on small data: read, prepare, complete, predict, plot, write and read. Run where nothing but the package is."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")

import anndata as ad
import numpy as np

import spared_sc as sp

KEY = {"library_key": "library_id"}


def main(folder: Path) -> None:
    adata = sp.datasets.synthetic(n_libraries=3, n_genes=80, shape=(10, 10))
    _read(adata, folder)
    sp.pp.split_libraries(adata, **KEY, intra_subject=True, fractions=(0.4, 0.3, 0.3))
    sp.pp.recipe_spared(adata, **KEY, n_genes=16)
    sp.pp.lattice_neighbors(adata, **KEY)
    sp.tl.median_complete(adata, **KEY)
    sp.tl.spackle_complete(adata, **KEY)
    sp.tl.complete(adata, method="ridge", **KEY)
    sp.pp.extract_patches(adata, **KEY, output_size=64)
    sp.tl.embed_patches(adata, **KEY)
    sp.tl.predict_expression(adata, **KEY, model="ridge")
    sp.tl.predict_expression(
        adata, **KEY, model="shufflenet", model_params={"n_steps": 2, "weights": "random"}, device="cpu"
    )
    sp.tl.score_prediction(adata, **KEY)
    gene = adata.var_names[adata.var["spared_selected"]][0]
    sp.pl.spatial_compare(adata, gene, **KEY)
    sp.pl.predicted(adata, gene, key="predicted_ridge", **KEY)
    for kind in ("h5ad", "zarr"):
        path = folder / f"section.{kind}"
        getattr(adata, f"write_{kind}")(path)
        back = getattr(ad, f"read_{kind}")(path)
        assert np.array_equal(back.layers["spackle"].toarray(), adata.layers["spackle"].toarray())
        sp.tl.predict_expression(back, **KEY, model="ridge")
    _neighbours_in_the_ecosystem(adata, folder)


def _read(adata: ad.AnnData, folder: Path) -> None:
    section = adata[adata.obs["library_id"] == "library_1"]
    places = section.obs["array_col"].astype(str) + "x" + section.obs["array_row"].astype(str)
    section.to_df().set_axis(places.to_numpy(), axis=0).to_csv(folder / "A1.tsv", sep="\t")
    back = sp.datasets.read_st(folder / "A1.tsv")
    assert np.array_equal(back.X.toarray(), section.X.toarray())
    sections = sorted(sp.settings.data_dir.glob("**/filtered_feature_bc_matrix.h5")) if sp.settings.data_dir else []
    if sections:
        print(sp.datasets.read_visium(sections[0].parent))


def _neighbours_in_the_ecosystem(adata: ad.AnnData, folder: Path) -> None:
    import spatialdata
    import squidpy as sq

    section = adata[adata.obs["library_id"] == "library_1", adata.var["spared_selected"]].copy()
    sp.pp.lattice_neighbors(section)
    sp.pp.moran(section, split_key=None)
    theirs = sq.gr.spatial_autocorr(section, layer="log2tpm", copy=True, show_progress_bar=False, n_jobs=1)["I"]
    assert np.allclose(theirs[section.var_names], section.var["moran_i"], atol=1e-5)
    sdata = spatialdata.SpatialData(tables={"table": section})
    sp.tl.median_complete(sdata, key_added="again")
    sdata.write(folder / "spatialdata.zarr")
    assert "again" in spatialdata.read_zarr(folder / "spatialdata.zarr").tables["table"].layers


if __name__ == "__main__":
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.filterwarnings("ignore", category=FutureWarning)
        main(Path(folder))
    print("the main job works")
