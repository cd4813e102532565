"""tl.median_complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY, dense
from helpers.spackle import SECTIONS, complete
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.median import adaptive_median

if TYPE_CHECKING:
    from anndata import AnnData


@pytest.fixture
def ready(collection) -> AnnData:
    """Three libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.mark.parametrize("n_rings", [1, 4])
def test_median_complete_is_the_kernel_on_every_library(ready, n_rings):
    rng = np.random.default_rng(0)
    ready = ready[rng.permutation(ready.n_obs)].copy()
    result = complete(ready, "median", n_rings=n_rings)
    selected = ready.var["spared_selected"].to_numpy()
    for name in ready.obs["library_id"].unique():
        part = ready[ready.obs["library_id"] == name, selected]
        alone = np.zeros(part.n_obs, dtype=int)
        lattice = lattices.from_array(part.obs[["array_row", "array_col"]].to_numpy(), alone, kind="hex")
        expected = adaptive_median(
            part.layers["log2tpm"].toarray(), part.X.toarray() > 0, lattice, alone, n_rings=n_rings, n_threads=1
        )
        ours = result[result.obs["library_id"] == name, selected].layers["median"].toarray()
        np.testing.assert_array_equal(ours, expected)


def test_median_complete_of_integers_is_not_rounded(ready):
    ready.layers["integers"] = sps.csr_matrix(ready.X, dtype=np.int64)
    ready.layers["floats"] = sps.csr_matrix(ready.X, dtype=np.float64)
    ours, expected = (
        complete(ready, "median", layer=name, key_added="filled").layers["filled"].toarray()
        for name in ("integers", "floats")
    )
    np.testing.assert_array_equal(ours, expected)
    assert (expected % 1 == 0.5).any()


def test_it_is_a_door_to_complete(ready):
    """The same layer and record; a split plays no role, since libraries are completed alone."""
    door, method = ready.copy(), ready.copy()
    sp.tl.median_complete(door, n_rings=2, **KEY)
    method.obs["split"] = method.obs["library_id"].map({"library_1": "train", "library_2": "test", "library_3": "val"})
    sp.tl.complete(method, method="median", method_params={"n_rings": 2}, **KEY)
    np.testing.assert_array_equal(dense(door.layers["median"]), dense(method.layers["median"]))
    one, other = (adata.uns["spared_sc"]["median"] for adata in (door, method))
    assert one["params"] == other["params"]
    assert one["params"]["method_params"] == {"n_rings": 2}
    assert one["scope"] == "library"
    assert set(door.layers) - set(ready.layers) == {"median"}


def test_it_says_nothing_of_counts_that_it_does_not_need(ready):
    without = ready.copy()
    without.X = without.layers["log2tpm"].copy()
    sp.tl.median_complete(without, **KEY)  # a warning would be an error
    sp.tl.median_complete(ready, **KEY)
    np.testing.assert_array_equal(dense(without.layers["median"]), dense(ready.layers["median"]))
