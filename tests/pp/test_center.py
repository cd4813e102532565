"""pp.center."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY


@pytest.fixture
def collection(collection):
    return collection(n_libraries=3, shape=(9, 9), n_genes=60, library_effect=0.5, image=False, recipe={"n_genes": 24})


def test_values_are_differences_from_the_mean_of_train_libraries(collection):
    collection.obs["split"] = np.where(collection.obs["library_id"] == "library_3", "val", "train")
    sp.pp.center(collection, **KEY)
    train = (collection.obs["split"] == "train").to_numpy()
    selected = collection.var["spared_selected"].to_numpy()
    values = collection.layers["log2tpm"].toarray()
    expected = values.copy()
    for gene in np.flatnonzero(selected):
        expected[:, gene] = values[:, gene] - np.mean([values[spot, gene] for spot in np.flatnonzero(train)])
    assert np.allclose(collection.layers["log2tpm_delta"].toarray(), expected, atol=1e-5)
    assert (collection.var["log2tpm_mean"][~selected] == 0).all()
