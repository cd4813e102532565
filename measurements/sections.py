"""The real sections that the measurements run on, read from `$SPARED_SC_DATA_DIR` and taken through the recipe."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
import scipy.sparse as sps

import spared_sc as sp

if TYPE_CHECKING:
    from collections.abc import Callable

# The organoids are of Gracia Villacampa et al. (2021), HER2+ of Andersson et al. (2021).
TITLES = {
    "VLO": "lung organoids (VLO)",
    "VKO": "kidney organoids (VKO)",
    "HER2_A": "HER2+ patient A",
    "HER2_B": "HER2+ patient B",
    "HER2_C": "HER2+ patient C",
    "HER2_D": "HER2+ patient D",
    "MOB": "mouse olfactory bulb",
    "DLPFC": "human cortex (DLPFC)",
    "prostate": "prostate",
    "embryo": "mouse embryo",
}
SETS = tuple(TITLES)
ORGANOIDS = ("VLO", "VKO")


def read(name: str, *, with_split: bool = False) -> ad.AnnData:
    """A set after the recipe, with `obs["subject"]`; with a split, genes are chosen on the train sections alone."""
    if sp.settings.data_dir is None:
        raise SystemExit("set SPARED_SC_DATA_DIR to the folder of the sections")
    adata = _raw(name)
    if with_split:  # as SpaRED splits them
        sp.pp.split_libraries(adata, library_key="library_id", assignment=name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have no length")  # genes that are no longer annotated
        warnings.filterwarnings("ignore", message=".*genes")
        sp.pp.recipe_spared(adata, library_key="library_id")
    return adata


def _raw(name: str) -> ad.AnnData:
    if name in ORGANOIDS:
        adata = sp.datasets.load(name, split=False)
    elif name.startswith("HER2_"):
        return sp.datasets.her2st(name.removeprefix("HER2_"))
    else:
        others: dict[str, Callable[[], ad.AnnData]] = {
            "MOB": _olfactory_bulb,
            "DLPFC": _cortex,
            "prostate": _prostate,
            "embryo": _embryo,
        }
        return others[name]()
    adata.obs["subject"] = adata.obs["library_id"]
    return adata


def _olfactory_bulb() -> ad.AnnData:
    folder = sp.settings.data_dir / "olfactory_bulb"
    names = [f"MOB{number}" for number in range(1, 5)]
    sections = {
        name: sp.datasets.read_st(
            folder / f"{name}.tsv.gz",
            folder / f"alignment_table_{name}.tsv",
            image=folder / f"{name}.jpg",
            library_id=name,
        )
        for name in names
    }
    adata = ad.concat(sections, label="library_id", index_unique="_", merge="same", uns_merge="unique")
    # Two individuals, two sections of each.
    adata.obs["subject"] = adata.obs["library_id"].map({"MOB1": "1", "MOB2": "1", "MOB3": "2", "MOB4": "2"})
    return adata


def _cortex() -> ad.AnnData:
    adata = ad.read_h5ad(sp.settings.data_dir / "dlpfc_151510" / "derived_151510.h5ad")
    adata.X = sps.csr_matrix(adata.X)
    adata.obs["library_id"] = adata.obs["subject"] = "151510"
    return adata


def _prostate() -> ad.AnnData:
    folder = sp.settings.data_dir / "prostate"
    counts = pd.read_csv(folder / "expression_matrix.txt.gz", sep=" ", index_col=0).T
    spots = pd.read_csv(folder / "cell_metadata.txt", sep=" ", index_col=0).loc[counts.index]
    places = pd.read_csv(folder / "spatial_locs.txt", sep=" ").set_index("cell_ID").loc[counts.index]
    adata = ad.AnnData(sps.csr_matrix(counts.to_numpy("float32")), obs=spots, var=pd.DataFrame(index=counts.columns))
    adata.obs["library_id"] = adata.obs["subject"] = adata.obs["list_ID"]
    adata.obsm["spatial"] = places.to_numpy(float)
    return adata


def _embryo() -> ad.AnnData:
    adata = sp.datasets.read_visium(sp.settings.data_dir / "mouse_embryo_cytassist")
    adata.obs["library_id"] = adata.obs["subject"] = "embryo"
    return adata
