"""pp.uncenter."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY


def test_center_and_back(collection):
    adata = collection(n_libraries=3, shape=(9, 9), n_genes=60, image=False, recipe={"n_genes": 24})
    adata.obs["split"] = np.where(adata.obs["library_id"] == "library_3", "val", "train")
    sp.pp.center(adata, **KEY)
    assert not np.allclose(adata.layers["log2tpm_delta"].toarray(), adata.layers["log2tpm"].toarray())
    sp.pp.uncenter(adata)
    restored = adata.layers["log2tpm_delta_restored"].toarray()
    assert np.allclose(restored, adata.layers["log2tpm"].toarray(), atol=1e-5)
    with pytest.raises(KeyError, match="name its means"):
        sp.pp.uncenter(adata, layer="log2tpm")
