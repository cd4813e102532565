"""tl.hide_entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY, dense

if TYPE_CHECKING:
    from anndata import AnnData


@pytest.fixture
def adata(collection) -> AnnData:
    """Two libraries with TPM, all of whose genes are completed."""
    made = collection(n_libraries=2, shape=(9, 9), n_genes=30, depth=300, image=False)
    sp.pp.normalize_tpm(made)
    made.obsm["X_secret"] = made.X.toarray()
    made.obs["total_counts"] = made.X.toarray().sum(axis=1)
    made.layers["secret"] = made.X.copy()
    return made


def test_embeddings_of_expression_are_refused(collection, adata):
    with pytest.raises(
        ValueError, match=r"obsm\['X_secret'\] is not recorded.*embed_patches.*allow_unrecorded_rep=True"
    ):
        sp.tl.hide_entries(adata, use_rep="X_secret", **KEY)
    allowed = sp.tl.hide_entries(adata, use_rep="X_secret", allow_unrecorded_rep=True, **KEY)
    np.testing.assert_array_equal(allowed.obsm["X_secret"], adata.obsm["X_secret"])
    # The record of an image embedding goes with it.
    imaged = collection(n_libraries=2, shape=(6, 6), n_genes=30, depth=300)
    sp.pp.normalize_tpm(imaged)
    sp.tl.embed_patches(imaged, encoder="classical", **KEY)
    trial = sp.tl.hide_entries(imaged, use_rep="X_classical", **KEY)
    sp.tl.complete(trial, method="sme", use_rep="X_classical", **KEY)
    imaged.obsm["sme"] = imaged.X.toarray()
    imaged.uns["spared_sc"]["sme"] = trial.uns["spared_sc"]["sme"]
    with pytest.raises(ValueError, match="is not recorded"):  # the record of something else is not enough
        sp.tl.hide_entries(imaged, use_rep="sme", **KEY)


@pytest.mark.filterwarnings("ignore:.* spots have no count:UserWarning")
@pytest.mark.parametrize("regime", ["detected", "released", "spots", "blocks"])
def test_hidden_entries_are_nowhere_but_in_their_slots(adata, regime):
    counts = adata.X.toarray()
    trial = sp.tl.hide_entries(adata, regime=regime, **KEY)
    hidden = trial.layers["hidden"].toarray()
    assert hidden.dtype == bool
    assert hidden.any()
    assert (counts[hidden] > 0).all()
    assert trial.obs_names.equals(adata.obs_names)
    np.testing.assert_array_equal(trial.X.toarray(), np.where(hidden, 0, counts))
    np.testing.assert_array_equal(dense(trial.layers["detected"]), (counts > 0) & ~hidden)
    assert set(trial.layers) == {"log2tpm", "detected", "hidden", "log2tpm_hidden"}
    assert set(trial.obsm) == {"spatial"}
    assert "total_counts" not in trial.obs
    # What is left is normalised as if the hidden counts had never been there.
    again = adata.copy()
    again.X = trial.X.copy()
    for layer in ("log2tpm", "detected"):
        again.layers.pop(layer, None)
    sp.pp.normalize_tpm(again)
    left = trial.X.toarray().sum(axis=1) > 0
    np.testing.assert_allclose(dense(trial.layers["log2tpm"])[left], dense(again.layers["log2tpm"])[left], atol=1e-4)
    # The hidden values are on that scale: what one count is worth in the spot, times the count.
    values = dense(trial.layers["log2tpm_hidden"])
    assert not values[~hidden].any()
    scaled, seen = np.exp2(values) - 1, np.exp2(dense(trial.layers["log2tpm"])) - 1
    before = np.exp2(dense(adata.layers["log2tpm"])) - 1
    factor = seen.sum(axis=1) / np.where(hidden, 0, before).sum(axis=1).clip(1e-9)
    expected = np.where(hidden, before * np.where(left, factor, 1)[:, None], 0)
    np.testing.assert_allclose(scaled[left], expected[left], rtol=1e-3)


def test_share_seed_and_order(adata):
    detected = adata.X.toarray() > 0
    trial = sp.tl.hide_entries(adata, 0.2, **KEY)
    assert trial.layers["hidden"].sum() == pytest.approx(0.2 * detected.sum(), rel=0.1)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    shuffled = sp.tl.hide_entries(adata[order].copy(), 0.2, **KEY)
    np.testing.assert_array_equal(shuffled.layers["hidden"].toarray(), trial.layers["hidden"].toarray()[order])
    other = sp.tl.hide_entries(adata, 0.2, random_state=1, **KEY)
    assert (other.layers["hidden"] != trial.layers["hidden"]).sum() > 100


def test_a_trial_is_completed_and_survives_a_file(adata, tmp_path):
    import anndata

    trial = sp.tl.hide_entries(adata, **KEY)
    sp.tl.complete(trial, method="additive", **KEY)
    hidden = trial.layers["hidden"].toarray()
    error = dense(trial.layers["additive"] - trial.layers["log2tpm_hidden"])[hidden]
    assert np.mean(error**2) < np.var(dense(trial.layers["log2tpm_hidden"])[hidden])
    trial.write_h5ad(tmp_path / "trial.h5ad")
    back = anndata.read_h5ad(tmp_path / "trial.h5ad")
    for layer in trial.layers:
        np.testing.assert_array_equal(dense(back.layers[layer]), dense(trial.layers[layer]))


def test_what_is_wrong_is_named(adata):
    with pytest.raises(KeyError, match="no regime 'half'.*'blocks'"):
        sp.tl.hide_entries(adata, regime="half", **KEY)
    with pytest.raises(ValueError, match=r"share=1\.5"):
        sp.tl.hide_entries(adata, 1.5, **KEY)
    with pytest.raises(ValueError, match="hides 0 of"):
        sp.tl.hide_entries(adata, 0, **KEY)
    with pytest.raises(ValueError, match="library_key="):
        sp.tl.hide_entries(adata)
