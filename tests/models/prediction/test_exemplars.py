"""_models/prediction/exemplars."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.networks import CPU, make_spots, some_known
from spared_sc._models.prediction.batch import Targets
from spared_sc._models.prediction.exemplars import mean_correlation


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
