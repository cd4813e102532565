"""tl.embed_patches."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import SECTIONS, embed
from spared_sc._core.validate import get_libraries
from spared_sc._images.resolve import resolve_patches


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_the_embedding_is_that_of_the_patches(adata):
    from spared_sc._images.features import classical

    patches = resolve_patches(adata, get_libraries(adata, "library_id"))
    rows = np.array([0, 70, 200])
    np.testing.assert_array_equal(adata.obsm["X_classical"][rows], classical(patches.read(rows)))
    record = adata.uns["spared_sc"]["X_classical"]
    assert record["encoder"]["name"] == "classical"
    assert record["patches"]["size"] == 2


@pytest.mark.filterwarnings("ignore:a patch has:UserWarning")  # few pixels for this encoder
def test_order_and_batch_size_do_not_change_an_embedding(adata):
    adata = adata[::8].copy()
    options = {"encoder": "efficientnet-lite0", "key_added": "X_net", **KEY}
    sp.tl.embed_patches(adata, **options)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    other = adata[order].copy()
    del other.obsm["X_net"]
    sp.tl.embed_patches(other, batch_size=7, **options)
    np.testing.assert_allclose(other.obsm["X_net"], adata.obsm["X_net"][order], rtol=1e-4, atol=1e-5)


def test_sizes_are_joined(adata):
    sp.tl.embed_patches(adata, size=(3, 1), key_added="X_sizes", **KEY)
    for i, size in enumerate((3, 1)):
        sp.pp.extract_patches(adata, size=size, output_size=32, **KEY)
        sp.tl.embed_patches(adata, **KEY)
        n = adata.obsm["X_classical"].shape[1]
        np.testing.assert_array_equal(adata.obsm["X_sizes"][:, i * n : (i + 1) * n], adata.obsm["X_classical"])
    assert adata.obsm["X_sizes"].shape[1] == 2 * n
    record = adata.uns["spared_sc"]["X_sizes"]
    assert record["params"]["size"].tolist() == [3, 1]
    assert record["patches"]["size"] == 3


def test_the_default_of_the_classical_encoder_is_three_sizes_unless_one_is_recorded(adata):
    sp.tl.embed_patches(adata, **KEY)
    assert adata.uns["spared_sc"]["X_classical"]["params"]["size"].tolist() == [2]
    del adata.uns["spared_sc"]["patches"]
    sp.tl.embed_patches(adata, key_added="X_default", **KEY)
    sp.tl.embed_patches(adata, size=(1, 3, 6), key_added="X_sizes", **KEY)
    np.testing.assert_array_equal(adata.obsm["X_default"], adata.obsm["X_sizes"])


def test_means_over_the_neighbourhood(adata):
    keep = np.random.default_rng(0).random(adata.n_obs) < 0.8  # with gaps
    adata = adata[keep].copy()
    sp.tl.embed_patches(adata, n_rings=2, **KEY)
    sp.pp.lattice_neighbors(adata, n_rings=2, **KEY)
    near = adata.obsp["spatial_connectivities"].toarray() + np.eye(adata.n_obs)
    expected = [adata.obsm["X_classical"][row > 0].mean(axis=0) for row in near]
    np.testing.assert_allclose(adata.obsm["X_classical_mean2"], expected, rtol=1e-4, atol=1e-5)
    alone = adata[adata.obs["library_id"] == "library_2"].copy()
    sp.tl.embed_patches(alone, n_rings=2, **KEY)
    rows = adata.obs["library_id"] == "library_2"
    np.testing.assert_allclose(alone.obsm["X_classical_mean2"], adata.obsm["X_classical_mean2"][rows], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (1, 3, 1)}, "size=.* cannot be used: give a number, or several different ones"),
        ({"size": ()}, "several different ones"),
        ({"size": (1, 0)}, "size=0 cannot be used"),
        ({"size": "large"}, "size='large' cannot be used"),
        ({"n_rings": 1.5}, "n_rings=1.5 cannot be used"),
    ],
)
def test_sizes_and_rings_that_cannot_be(adata, arguments, message):
    before = list(adata.obsm)
    with pytest.raises(ValueError, match=message):
        sp.tl.embed_patches(adata, key_added="X_other", **arguments, **KEY)
    assert list(adata.obsm) == before


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_sizes_that_cannot_be(adata, batch_size):
    before = adata.obsm["X_classical"].copy()
    with pytest.raises(ValueError, match=f"batch_size={batch_size} cannot be used"):
        sp.tl.embed_patches(adata, batch_size=batch_size, **KEY)
    assert np.array_equal(adata.obsm["X_classical"], before)


def test_finished_sections_are_not_embedded_again(adata, tmp_path, monkeypatch):
    from spared_sc._images import features
    from spared_sc._models import encoders

    done, original = [], encoders.embed_all

    def interrupted(encoder, patches, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(patches))
        return original(encoder, patches, **options)

    monkeypatch.setattr(encoders, "embed_all", interrupted)
    options = {"encoder": "classical", "checkpoint": tmp_path / "state", "key_added": "X_again", **KEY}
    with pytest.raises(KeyboardInterrupt):
        sp.tl.embed_patches(adata, **options)
    assert "X_again" not in adata.obsm
    done[:] = [0]  # one more call is allowed than is needed
    monkeypatch.setattr(encoders, "embed_all", lambda *args, **kw: done.append(1) or original(*args, **kw))
    sp.tl.embed_patches(adata, **options)
    assert len(done) == 3  # the two sections that were left
    assert np.array_equal(adata.obsm["X_again"], adata.obsm["X_classical"])
    sp.pp.extract_patches(adata, size=3, output_size=32, **KEY)
    with pytest.raises(ValueError, match="other patches or by another encoder"):
        sp.tl.embed_patches(adata, **options)
    assert features.classical(np.zeros((1, 32, 32, 3), np.uint8)).shape[1] == adata.obsm["X_again"].shape[1]
