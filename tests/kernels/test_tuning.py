"""Choice of parameters by a coordinate search."""

from __future__ import annotations

import numpy as np
import pytest

from spared_sc._kernels.tuning import generator, pick


@pytest.mark.parametrize("seed", range(20))
def test_the_search_ends_where_no_single_step_is_better(seed):
    grids = {"one": tuple(range(5)), "two": tuple(range(4))}
    place = np.random.default_rng(seed).uniform(0, 4, 2)

    def score(one, two):  # a tilted bowl
        x, y = one - place[0], two - place[1]
        return x * x + y * y + 1.2 * x * y

    found = pick(score, grids)
    for name, values in grids.items():
        assert score(**found) == min(score(**{**found, name: value}) for value in values)
    rough = np.random.default_rng(seed).random((5, 4))
    found = pick(lambda one, two: rough[one, two], grids)  # ends, whatever the scores are
    assert rough[found["one"], found["two"]] <= np.median(rough)
    assert pick(lambda one, two: np.nan, grids) == {"one": 2, "two": 2}


def test_parameters_of_one_value_are_not_tried():
    tried = []
    assert pick(lambda **values: tried.append(values) or 0.0, {"one": (3,), "two": ("a",)}) == {"one": 3, "two": "a"}
    assert not tried
    assert pick(lambda one, two: abs(two - 4), {"one": (3,), "two": (1, 4, 9)}) == {"one": 3, "two": 4}
    assert pick(lambda: 0.0, {}) == {}


def test_no_place_is_scored_twice():
    tried = []

    def score(one, two):
        tried.append((one, two))
        return (one - 3) ** 2 + (two - 1) ** 2

    assert pick(score, {"one": tuple(range(6)), "two": tuple(range(6))}) == {"one": 3, "two": 1}
    assert len(tried) == len(set(tried)) < 36


def test_each_purpose_has_a_random_stream_of_its_own():
    draws = {(seed, purpose): tuple(generator(seed, purpose).random(3)) for seed in (0, 1) for purpose in (0, 1, 2)}
    assert len(set(draws.values())) == 6
    assert tuple(generator(1, 2).random(3)) == draws[1, 2]
    assert tuple(np.random.default_rng(0).random(3)) not in draws.values()
