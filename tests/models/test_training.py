"""_models/training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spared_sc._models import training


def loop(errors, *, losses=None, n_steps=10, patience=None, learning_rate=0.1):
    """Fit one weight; the validation error of every step is given, and what the weight was then is noted."""
    weight = torch.nn.Linear(1, 1, bias=False)
    errors, losses, seen = iter(errors), iter(losses or [1.0] * n_steps), []

    def training_loss():
        loss = next(losses)
        if isinstance(loss, BaseException):
            raise loss
        return weight.weight.sum() * loss

    def validation_error():
        seen.append(weight.weight.item())
        error = next(errors)
        if isinstance(error, BaseException):
            raise error
        return error

    result = training.Trainer(
        weight, training_loss=training_loss, validation_error=validation_error, n_steps=n_steps,
        learning_rate=learning_rate, validate_every=1, patience=patience, show_progress_bar=False, desc="test",
        generator=torch.Generator(),
    ).run()  # fmt: skip
    return result, weight.weight.item(), seen


def test_the_best_weights_are_kept():
    result, weight, seen = loop([5, 3, 4, 2, 6, 7], n_steps=6)
    assert result.best_step == 4
    assert weight == seen[3] != seen[-1]
    assert result.validation_mse == [5, 3, 4, 2, 6, 7]


def test_patience_counts_steps_since_the_best():
    result, weight, seen = loop([5, 3, 4, 4, 3, 1], n_steps=6, patience=3)
    assert (result.stopped, result.best_step, len(seen)) == ("patience", 2, 5)
    assert weight == seen[1]


@pytest.mark.parametrize("where", ["training", "validation"])
def test_an_interrupt_keeps_the_best_model_and_warns(where):
    options = {"losses": [1, 1, 1, KeyboardInterrupt()]} if where == "training" else {}
    errors = [5, 3, 4, KeyboardInterrupt() if where == "validation" else 1]
    with pytest.warns(UserWarning, match=r"training interrupted after step 3: the best model so far \(step 2"):
        result, weight, seen = loop(errors, **options)
    assert (result.stopped, result.best_step) == ("interrupted", 2)
    assert weight == seen[1]


def test_an_interrupt_before_the_first_validation_propagates():
    with pytest.raises(KeyboardInterrupt):
        loop([1], losses=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        loop([KeyboardInterrupt()])


def test_divergence_keeps_the_best_model_and_warns_or_raises():
    with pytest.warns(UserWarning, match=r"training diverged after step 2: the best model so far \(step 2"):
        result, weight, seen = loop([5, 3, np.nan, 1])
    assert result.stopped == "diverged"
    assert weight == seen[1]
    with pytest.warns(UserWarning, match="training diverged after step 1"):
        loop([5, 3, 2], losses=[1, np.inf, 1])
    with pytest.raises(FloatingPointError, match=r"lower the learning rate \(it is 0.1\)"):
        loop([np.nan])


@pytest.mark.parametrize("final_rate", [0.0, 0.2])
def test_rates_of_the_schedule(final_rate):
    rates = [training.warm_cosine(step, 110, 0.3, 10, final_rate) for step in range(1, 111)]
    np.testing.assert_allclose(rates[:10], 0.03 * np.arange(1, 11))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0.3 * final_rate)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-6)
    assert training.warm_cosine(1, 1, 0.3, 0, final_rate) == pytest.approx(0.3)


@pytest.mark.parametrize("schedule", training.SCHEDULES)
@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_steps_are_those_of_torchs_optimizers(optimizer, schedule):
    def network():
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    ours, theirs = network(), network()
    inputs = torch.rand(8, 3)
    training.Trainer(
        ours,
        training_loss=lambda: (ours(inputs) ** 2).mean(),
        validation_error=None,
        generator=torch.Generator(),
        n_steps=9,
        learning_rate=0.1,
        validate_every=4,
        patience=None,
        show_progress_bar=False,
        desc="",
        optimizer=optimizer,
        weight_decay=0.5,
        schedule=schedule,
        final_rate=0.2,
        warmup_steps=3,
    ).run()
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    options = {"adam": {}, "adamw": {"weight_decay": 0.5}, "sgd": {"momentum": 0.9}}[optimizer]
    reference = kind(theirs.parameters(), lr=0.1, **options)
    for step in range(1, 10):
        if schedule == "cosine":
            reference.param_groups[0]["lr"] = training.warm_cosine(step, 9, 0.1, 3, 0.2)
        reference.zero_grad()
        (theirs(inputs) ** 2).mean().backward()
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ("adam", {"weight_decay": 0.1}, "weight_decay=0.1 has no effect with optimizer='adam': give weight_decay=0"),
        ("adamw", {"warmup_steps": 5}, "warmup_steps=5: no effect with schedule='none'.*schedule='cosine'"),
        ("sgd", {"final_rate": 0.2, "warmup_steps": 5}, "final_rate=0.2 and warmup_steps=5: no effect"),
        ("adamw", {"weight_decay": 0.1, "schedule": "cosine", "final_rate": 0.2, "warmup_steps": 5}, None),
    ],
)
def test_values_without_effect_are_refused(optimizer, options, message):
    options = {"weight_decay": 0, "schedule": "none", "final_rate": 0, "warmup_steps": 0, **options}
    if message is None:
        training.check_descent(optimizer, **options)
        return
    with pytest.raises(ValueError, match=message):
        training.check_descent(optimizer, **options)
