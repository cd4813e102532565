"""What every completer does: parameters, needs, splits, and that an unfitted one stays so."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from helpers.counts_model import COMPUTE, sections_of, synthetic
from spared_sc._models.completion.base import About, Completer, Estimate, FittedCompleter, SimpleCompleter, parameter


@dataclass(kw_only=True, eq=False)
class Level(SimpleCompleter):
    """The mean of all known values times a factor, as values, rate and standard deviation."""

    about = About("level", "", "a level", needs=("counts",))
    factor: float = parameter(1.0, least=0)
    power: float | None = parameter(None, least=0, grid=(0.5, 1.0, 2.0))
    with_rate: bool = parameter(True, choices=(True, False))

    def estimate(self, sections, compute):
        mean = np.full(sections.values.shape, self.factor * sections.values[sections.known].mean(), np.float32)
        return Estimate(mean, mean + 1 if self.with_rate else None, mean + 2, params={"n_spots": len(mean)})


@dataclass(frozen=True)
class Mean:
    value: float
    interrupted: bool


@dataclass(kw_only=True, eq=False)
class Learned(FittedCompleter[Mean]):
    """The same, learned and kept."""

    about = About("learned", "", "a level that is learned")
    factor: float = parameter(1.0, least=0)
    stop: bool = False

    def fit(self, sections, split, compute):
        known = sections.known if split is None else sections.known & (split == "train")[:, None]
        self.learned = Mean(float(self.factor * sections.values[known].mean()), self.stop)

    def apply(self, sections, compute):
        return Estimate(np.full(sections.values.shape, self.result().value, np.float32))

    def report(self):
        return {"data": "", "score": {}}

    def state(self):
        return {}, {"mean": self.result().value}

    @classmethod
    def from_state(cls, arrays, values):
        return cls()


@pytest.fixture(scope="module")
def sections():
    return sections_of(synthetic(n_libraries=4, n_genes=8, shape=(5, 5)))


@pytest.fixture(scope="module")
def split(sections):
    return np.array(["val", "train", "test", "train"])[sections.library]


def test_parameters_are_fields_with_ranges_and_grids():
    level = Level(factor=2)
    assert level.params() == {"factor": 2, "power": None, "with_rate": True}
    assert level.grids() == {"power": (0.5, 1.0, 2.0)}
    assert Level(power=7).grids() == {"power": (7,)}
    assert Learned().params() == {"factor": 1.0, "stop": False}  # what was learned is no parameter
    with pytest.raises(ValueError, match="factor=-1 cannot"):
        Level(factor=-1)
    with pytest.raises(TypeError):
        Level(2.0)  # by name only


def test_what_is_needed_is_asked_for(sections):
    blind = replace(sections, counts=None)
    with pytest.raises(ValueError, match=r"'level' needs raw counts.*adata\.X.*method='additive'"):
        Level().complete(blind, COMPUTE)
    assert Learned().complete(blind, COMPUTE).rate is None

    class Looking(Level):
        about = About("looking", "", "a level", needs=("embedding",))

    with pytest.raises(ValueError, match="'looking' needs an embedding.*`use_rep=`"):
        Looking().complete(blind, COMPUTE)
    Looking().complete(replace(blind, embedding=np.ones((len(blind.values), 2))), COMPUTE)


def test_simple_methods_run_with_one_thread_of_linear_algebra(sections):
    seen = []

    class Spy(Level):
        def estimate(self, sections, compute):
            seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
            return super().estimate(sections, compute)

    Spy().complete(sections, COMPUTE)
    assert set(seen) == {1}


def test_no_measurement_of_another_split_has_a_part_in_a_train_value(sections, split):
    """Train libraries are completed from each other, those of another split together with them."""
    found = Level().complete_by_split(sections, split, COMPUTE)

    def mean_of(*names):
        here = np.isin(split, names)
        return sections.values[here][sections.known[here]].mean()

    for name, names in {"train": ["train"], "val": ["train", "val"], "test": ["train", "test"]}.items():
        np.testing.assert_allclose(found.values[split == name], mean_of(*names), rtol=1e-6)
    np.testing.assert_array_equal(found.rate, found.values + 1)
    np.testing.assert_array_equal(found.sd, found.values + 2)
    assert found.params == {"n_spots": (split == "train").sum()}
    assert found.values.dtype == np.float32


def test_without_a_split_or_alone_all_libraries_are_completed_at_once(sections, split):
    whole = Level().complete(sections, COMPUTE)
    np.testing.assert_array_equal(Level().complete_by_split(sections, None, COMPUTE).values, whole.values)

    class Alone(Level):
        alone = True

    assert Alone().scope == "library"
    assert Level().scope == "collection"
    np.testing.assert_array_equal(Alone().complete_by_split(sections, split, COMPUTE).values, whole.values)


@pytest.mark.parametrize("names", [["train"] * 4, ["test", "train", "test", "train"]])
def test_parts_of_a_split_may_be_missing(sections, names):
    split = np.array(names)[sections.library]
    found = Level(with_rate=False).complete_by_split(sections, split, COMPUTE)
    assert found.rate is None
    assert np.isfinite(found.values).all()
    train = split == "train"
    np.testing.assert_allclose(found.values[train], sections.values[train][sections.known[train]].mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="no spot"):
        Level().complete_by_split(sections, np.full(len(split), "elsewhere"), COMPUTE)


def test_an_unfitted_completer_stays_so(sections):
    learned = Learned(factor=2.0)
    with pytest.raises(ValueError, match="'learned' is not fitted"):
        learned.result()
    first = learned.complete(sections, COMPUTE)
    assert not learned.fitted
    some = sections.of_spots(np.flatnonzero(sections.library == 0))
    second = learned.complete(some, COMPUTE)
    np.testing.assert_allclose(first.values, 2 * sections.values[sections.known].mean(), rtol=1e-6)
    np.testing.assert_allclose(second.values, 2 * some.values[some.known].mean(), rtol=1e-6)


def test_a_fitted_completer_is_applied(sections):
    learned = Learned()
    learned.fit(sections, None, COMPUTE)
    some = sections.of_spots(np.flatnonzero(sections.library == 0))
    np.testing.assert_allclose(
        learned.complete(some, COMPUTE).values, sections.values[sections.known].mean(), rtol=1e-6
    )
    assert learned.scope == "collection"


def test_half_a_fit_is_not_evaluated(sections):
    assert Learned(stop=True).complete(sections, COMPUTE).interrupted
    with pytest.raises(KeyboardInterrupt):
        Learned(stop=True).as_function(COMPUTE)(sections)
    assert not Learned().as_function(COMPUTE)(sections).interrupted


def test_a_completer_may_be_for_some_number_of_genes(sections):
    class Eight(Learned):
        n_genes = 8

    Eight().complete(sections, COMPUTE)
    fitted = Eight()
    fitted.fit(sections, None, COMPUTE)
    fitted.complete(sections, COMPUTE)
    few = replace(sections, values=sections.values[:, :5], known=sections.known[:, :5], counts=None)
    with pytest.raises(ValueError, match="8 genes, and here are 5: .*`mask_var=`"):
        fitted.complete(few, COMPUTE)


def test_what_is_no_completer_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Completer()
