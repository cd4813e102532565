"""_models/prediction/footprint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spared_sc._models.prediction import footprint


def layer(n: int) -> torch.Tensor:
    return NETWORK(DATA[:n]).relu().square().mean()


def attended(n: int) -> torch.Tensor:
    values = NETWORK(DATA[:n])
    return (values @ values.T).softmax(dim=1).square().mean()


NETWORK = nn.Linear(10, 6)
DATA = torch.rand(300, 10)


def test_what_a_layer_keeps():
    # The input, for the gradient of the weights, and the output, for those of ReLU and square: one tensor.
    assert footprint.saved_bytes(lambda: layer(50), NETWORK) == 4 * 50 * (10 + 6)


@pytest.mark.parametrize("loss", [layer, attended])
@pytest.mark.parametrize("n", [20, 48, 300])
def test_small_steps_tell_of_large_ones(loss, n):
    weights = 4 * 4 * (60 + 6)
    assert footprint.step_bytes(loss, NETWORK, n) == pytest.approx(
        footprint.saved_bytes(lambda: loss(n), NETWORK) + weights, rel=0.02
    )


def test_a_step_that_will_not_fit_is_refused_before_it_is_taken(monkeypatch):
    taken = []

    def loss(n: int) -> torch.Tensor:
        taken.append(n)
        return attended(n)

    monkeypatch.setattr(footprint, "available", lambda: 10 * 2**30)
    footprint.check_step("net", loss, NETWORK, 3000, "cut it")
    with pytest.raises(ValueError, match=r"a training step of 'net' on 100000 spots needs [0-9.]+ GiB.*: cut it\."):
        footprint.check_step("net", loss, NETWORK, 100_000, "cut it")
    assert max(taken) == 48
