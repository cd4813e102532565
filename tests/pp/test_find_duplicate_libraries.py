"""pp.find_duplicate_libraries."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY


def with_copy(adata, noise):
    """The collection with library_1 once more, as another pipeline version would count it."""
    rng = np.random.default_rng(0)
    again = adata[adata.obs["library_id"] == "library_1"].copy()
    again.X = sps.csr_matrix(rng.binomial(again.X.toarray().astype(int), 1 - noise).astype(np.float32))
    again.obs["library_id"] = "again"
    again.obs["donor"] = "Z"
    again.obs_names = [f"{name}_again" for name in again.obs_names]
    return ad.concat([adata, again])


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_copies_are_found_and_stay_together(noise):
    adata = sp.datasets.synthetic(n_libraries=6, shape=(12, 12), n_genes=60, image=False)
    adata.obs["donor"] = adata.obs["library_id"].astype(str)
    adata = with_copy(adata, noise)
    pairs = sp.pp.find_duplicate_libraries(adata, **KEY)
    assert pairs[["library", "other"]].to_numpy().tolist() == [["again", "library_1"]]
    assert pairs["n_shared"].tolist() == [144]
    for seed in range(5):
        sp.pp.split_libraries(adata, **KEY, subject_key="donor", random_state=seed)
        assert adata.obs["split"][adata.obs["library_id"].isin(["again", "library_1"])].nunique() == 1
    given = dict.fromkeys(adata.obs["library_id"].unique(), "train") | {"again": "test"}
    with pytest.warns(UserWarning, match=r"'again' \(test\) and 'library_1' \(train\) look like copies"):
        sp.pp.split_libraries(adata, **KEY, subject_key="donor", assignment=given)


def test_sections_of_one_block_are_no_copies(data_dir):
    for folder in ("lung_organoid", "kidney_organoid"):
        paths = sorted(p.parent for p in (data_dir / "villacampa" / folder).glob("*/spatial"))
        adata = sp.datasets.read_visium(paths, load_images=False)
        assert sp.pp.find_duplicate_libraries(adata, **KEY).empty
