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
    options = {"encoder": "efficientnet-lite0", "key_added": "X_net", **KEY}
    sp.tl.embed_patches(adata, **options)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    other = adata[order].copy()
    del other.obsm["X_net"]
    sp.tl.embed_patches(other, batch_size=7, **options)
    np.testing.assert_allclose(other.obsm["X_net"], adata.obsm["X_net"][order], rtol=1e-4, atol=1e-5)


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
