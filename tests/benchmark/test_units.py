"""Units of predictions: recognised from levels, and converted."""

from __future__ import annotations

import numpy as np
import pytest

from spared_sc.benchmark._units import UNITS, Measured, convert, recognise


@pytest.fixture
def measured() -> Measured:
    rng = np.random.default_rng(0)
    depth = rng.integers(2000, 12000, size=300).astype(float)
    share = rng.lognormal(-7.5, 1, size=40)
    counts = rng.poisson(share * depth[:, None]).astype(float)
    return Measured(layer=np.log2(1 + 1e6 * counts / depth[:, None]), counts=counts, depth=depth)


def in_units(measured: Measured) -> dict[str, np.ndarray]:
    """Imperfect predictions of what was measured, in every unit."""
    smooth = measured.counts.mean(axis=0) / measured.depth.mean() * np.linspace(0.8, 1.3, len(measured.depth))[:, None]
    log = np.log1p(1e4 * smooth)
    return {
        "log2tpm": np.log2(1 + 1e6 * smooth),
        "log1p_cp10k": log,
        "counts": np.round(smooth * measured.depth[:, None]),
        "zscore": (log - log.mean(axis=0)) / log.std(axis=0),
    }


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_recognised(measured, unit):
    assert recognise(in_units(measured)[unit], measured) == unit


def test_small_negative_predictions_of_a_regression_are_no_z_scores(measured):
    values = in_units(measured)["log1p_cp10k"] + np.random.default_rng(1).normal(0, 0.8, size=measured.counts.shape)
    assert (values < 0).any()
    assert recognise(values, measured) == "log1p_cp10k"


def test_levels_of_no_unit_or_of_several_are_asked_for(measured):
    with pytest.raises(ValueError, match=r"cannot be told.*as 'log2tpm'.*unit="):
        recognise(100 + in_units(measured)["log2tpm"], measured)
    few = measured.counts / 200  # expected counts of rare genes at a depth of 10,000: log(1 + c) is about c
    rare = Measured(layer=measured.layer, counts=few, depth=np.full(300, 1e4))
    with pytest.raises(ValueError, match="cannot be told"):
        recognise(few, rare)


def test_counts_and_log_of_cp10k_become_the_layer(measured):
    exposure = np.broadcast_to(measured.depth[:, None] / 1e6, measured.counts.shape)
    np.testing.assert_allclose(convert(measured.counts, "counts", measured, exposure), measured.layer, rtol=1e-5)
    log = np.log1p(1e4 * measured.counts / measured.depth[:, None])
    np.testing.assert_allclose(convert(log, "log1p_cp10k", measured, exposure), measured.layer, rtol=1e-5, atol=1e-6)
    assert (convert(log - 0.5, "log1p_cp10k", measured, exposure) >= 0).all()
