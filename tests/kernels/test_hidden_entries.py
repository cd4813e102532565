"""_kernels/hidden_entries."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.evaluation import SECTIONS, sections_of
from spared_sc._kernels.hidden_entries import Mask, Truth, evaluate, list_masks
from spared_sc._kernels.masking import REGIMES
from spared_sc._kernels.sections import Estimate

DRAWN = [432, 352, 895, 556, 522, 413]


@pytest.fixture
def truth(collection):
    return Truth(sections_of(collection(**SECTIONS)), np.random.default_rng(0))


def test_masks_follow_the_regimes():
    masks = list_masks(["spots", "detected"], [0.2, 0.4], 2)
    expected = [("spots", 0.1, 0), ("spots", 0.1, 1), ("detected", 0.2, 0), ("detected", 0.2, 1)]
    assert [(mask.regime, mask.share, mask.number) for mask in masks[:4]] == expected
    assert len(masks) == 6
    draws = {mask.generator(0).random() for mask in masks} | {mask.generator(1).random() for mask in masks}
    assert len(draws) == 12
    assert masks[3].generator(7).random() == Mask("detected", 0.2, 1).generator(7).random()


def test_masks_do_not_change():
    # The order of the regimes is part of the seed.
    drawn = [Mask(regime, share, 0).generator(0).integers(1000) for regime, share in REGIMES.items()]
    assert list(REGIMES) == ["detected", "released", "spots", "blocks", "thinning", "thinning_90"]
    assert drawn == DRAWN


def test_methods_without_rates_are_not_run_where_only_rates_count(truth):
    calls = []

    def method(name, rate):
        def complete(visible):
            calls.append(name)
            ones = np.ones_like(visible.values)
            return Estimate(ones, ones if rate else None)

        return complete

    fits = []
    scores = list(
        evaluate(
            truth,
            list_masks(["thinning", "spots"], [], 2),
            {"known": method("known", False), "found": method("found", False), "rates": method("rates", True)},
            without_rate=["known"],
            seed=0,
            on_fit=lambda: fits.append(1),
        )
    )
    assert calls == ["found", "rates", "rates", *["known", "found", "rates"] * 2]
    assert len(fits) == 12
    controls = {"no_denoising", "perfect_denoising"}
    assert [{score.method for score in of_mask} for of_mask in scores[:2]] == [{"rates", *controls}] * 2
    assert {score.method for score in scores[2]} == {"known", "found", "rates", "floor_low", "floor_high"}
    assert {score.mask for score in scores[3]} == {Mask("spots", 0.1, 1)}


def test_masks_are_scored_one_by_one(truth):
    def fails_later(visible):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return Estimate(np.ones_like(visible.values))

    calls: list[int] = []
    masks = list_masks(["detected"], [0.3], 2)
    scores = evaluate(truth, masks, {"a": fails_later}, without_rate=[], seed=0, on_fit=lambda: None)
    assert {score.mask.number for score in next(scores)} == {0}
    with pytest.raises(KeyboardInterrupt):
        next(scores)


def test_errors_name_the_method_and_the_regime(truth):
    def wrong(visible):
        return Estimate(visible.values[1:])

    with pytest.raises(ValueError, match=r"method 'wrong', regime 'blocks': values of the shape"):
        list(evaluate(truth, list_masks(["blocks"], [], 1), {"wrong": wrong}, without_rate=[], seed=0, on_fit=bool))
