"""_models/prediction/bank."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spared_sc._models.prediction import bank


@pytest.mark.parametrize(("metric", "order"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("entries", [1 << 24, 40])
def test_nearest_spots_by_brute_force(metric, order, entries, monkeypatch):
    monkeypatch.setattr(bank, "_ENTRIES", entries)
    rng = np.random.default_rng(0)
    query, reference = rng.normal(size=(9, 6)), rng.normal(size=(17, 6))
    library, own = rng.integers(3, size=17), rng.integers(-1, 4, size=9)
    tensors = torch.from_numpy(query), torch.from_numpy(reference)
    anywhere = bank.nearest(*tensors, 4, metric=metric).numpy()
    codes = torch.from_numpy(own), torch.from_numpy(library)
    elsewhere = bank.nearest(*tensors, 4, *codes, metric=metric).numpy()
    for i in range(9):
        rows = np.argsort([np.linalg.norm(query[i] - one, order) for one in reference])
        assert anywhere[i].tolist() == rows[:4].tolist()
        assert elsewhere[i].tolist() == [j for j in rows if library[j] != own[i]][:4]


def test_fewer_spots_than_asked_for():
    reference = torch.arange(5.0)[:, None]
    library = torch.tensor([0, 0, 0, 1, 1])
    assert bank.nearest(reference, reference, 50).shape == (5, 5)
    found = bank.nearest(reference, reference, 3, library, library)
    assert found.tolist() == [[3, 4], [3, 4], [3, 4], [2, 1], [2, 1]]
    with pytest.raises(ValueError, match="at least two libraries"):
        bank.nearest(reference, reference, 3, library, torch.zeros(5, dtype=torch.int64))
