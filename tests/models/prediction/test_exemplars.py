"""_models/prediction/exemplars."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.networks import COMPUTE, CPU, guided, make_spots, on_lattice, some_known
from helpers.section_networks import eggn
from spared_sc._models.prediction.bank import Bank
from spared_sc._models.prediction.batch import Targets
from spared_sc._models.prediction.exemplars import GuidedPredictor, mean_correlation


@pytest.mark.parametrize("partly", [False, True])
def test_mean_correlation_is_over_genes_that_vary(partly):
    train = some_known(make_spots()) if partly else make_spots()
    train.target[:, 3] = 2
    estimate = np.random.default_rng(0).normal(size=train.target.shape).astype(np.float32) + train.target
    known = np.ones(train.target.shape, dtype=bool) if train.known is None else train.known
    expected = [np.corrcoef(train.target[known[:, g], g], estimate[known[:, g], g])[0, 1] for g in (0, 1, 2, 4)]
    ours = mean_correlation(torch.from_numpy(estimate), Targets.of(train, CPU)).item()
    assert ours == pytest.approx(np.mean(expected), rel=1e-4)
    constant = Targets(torch.ones(4, 2), None)
    assert mean_correlation(torch.rand(4, 2), constant).item() == 0


@pytest.mark.parametrize("make", [guided, eggn])
def test_exemplars_of_a_fit_are_looked_up_once(make, monkeypatch):
    """Of all training spots, and of each batch of validation spots; nothing changes by it, and nothing is kept."""
    train, validation = on_lattice(3), on_lattice(2, (3, 4), seed=1)
    queries: list[int] = []
    plain = Bank.nearest

    def counted(bank, query, *args, **options):
        queries.append(len(query))
        return plain(bank, query, *args, **options)

    monkeypatch.setattr(Bank, "nearest", counted)
    options = {"n_steps": 6, "validate_every": 2}
    predictor = make(**options)
    predictor.fit(train, validation, COMPUTE)
    assert queries.count(len(train)) == 1
    assert sum(queries) == len(train) + len(validation)
    assert len(predictor.fit_report.step) >= 3
    queries.clear()
    predicted = [predictor.predict(validation, COMPUTE) for _ in range(2)]
    assert sum(queries) == 2 * len(validation)

    monkeypatch.setattr(GuidedPredictor, "_found", property(lambda self: None, lambda self, value: None), raising=False)
    again = make(**options)
    queries.clear()
    again.fit(train, validation, COMPUTE)
    assert queries.count(len(train)) > 1
    for one in predicted:
        np.testing.assert_array_equal(one, again.predict(validation, COMPUTE))
