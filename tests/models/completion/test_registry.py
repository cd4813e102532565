"""All completion methods: what they say of themselves, poor data, rates, and their order on real sections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY, dense
from helpers.completion import SECTIONS, WITH_RATE, estimate_of, sections_of
from helpers.counts_model import with_silent_spots
from spared_sc._kernels.lattice import from_array
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.metrics import poisson_deviance
from spared_sc._models.completion.base import Completer, FittedCompleter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc.tl._resolve import resolve

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Sections


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


def spoiled(sections: Sections) -> dict[str, Sections]:
    def hidden(rows, genes) -> Sections:
        mask = np.zeros_like(sections.known)
        mask[rows, genes] = True
        return sections.without(mask & sections.known)

    def part(rows, genes=slice(None)) -> Sections:
        found = sections.of_spots(rows)
        counts = replace(found.counts, values=found.counts.values[:, genes])
        return replace(found, values=found.values[:, genes], known=found.known[:, genes], counts=counts, total=None)

    n, first = len(sections.values), np.argwhere(sections.known)[0]
    all_but_one = sections.known.copy()
    all_but_one[tuple(first)] = False
    no_spot = hidden(slice(4, 5), slice(None))
    everywhere = np.arange(n)
    alone = from_array(10 * np.column_stack([everywhere, everywhere]), sections.library, kind="grid")
    return {
        "gene of a library": hidden(sections.library == 0, 2),
        "gene": hidden(slice(None), 2),
        "spot": no_spot,
        "spot without counts": replace(
            no_spot, counts=replace(no_spot.counts, depth=np.where(everywhere == 4, 0, no_spot.counts.depth))
        ),
        "one library": part(np.flatnonzero(sections.library == 0)),
        "one gene": part(everywhere, slice(1)),
        "two spots": part(everywhere[:2]),
        "one spot": part(everywhere[:1]),
        "no neighbours": replace(sections, lattice=alone),
        "one known entry": sections.without(all_but_one),
        "one value": replace(sections, values=np.where(sections.known, np.float32(3), np.float32(0)), total=None),
        "below zero": replace(
            sections, values=np.where(sections.known, sections.values - 12, np.float32(0)), total=None
        ),
        "no counts": replace(sections, counts=None),
    }


SIMPLE = [name for name in COMPLETERS if name not in ("counts", "factor", "paper")]
CASES = [
    "gene of a library", "gene", "spot", "spot without counts", "one library", "one gene", "two spots", "one spot",
    "no neighbours", "one known entry", "one value", "below zero", "no counts",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPLETERS)
def test_what_a_method_says_of_itself(name, sections):
    cls = COMPLETERS.load(name)
    assert issubclass(cls, Completer)
    assert cls.about is COMPLETERS[name]
    assert cls.about.summary
    assert not cls.about.summary.endswith(".")
    assert set(cls.about.needs) <= {"counts", "embedding"}
    assert cls.uses_embedding >= ("embedding" in cls.about.needs)
    completer = cls()
    assert completer.name == name
    assert completer.scope == ("library" if name == "median" else "collection")
    assert isinstance(completer, FittedCompleter) == (name in ("counts", "paper"))
    table = COMPLETERS.params_table(name)
    assert list(table.index) == list(completer.params())
    assert table["meaning"].str.len().gt(5).all()
    assert (table["range"] != "").all()
    assert table["default"].tolist() == [repr(value) for value in completer.params().values()]
    for need, without in (("counts", {"counts": None}), ("embedding", {"embedding": None})):
        if need in cls.about.needs:
            with pytest.raises(ValueError, match=f"{name!r} needs .*{need.removesuffix('s')}"):
                completer.check(replace(sections, **without))
        else:
            completer.check(replace(sections, **without))


def test_parameters_are_tuned_where_they_have_a_grid():
    for name in COMPLETERS:
        grids, table = COMPLETERS.load(name)().grids(), COMPLETERS.params_table(name)
        assert list(grids) == list(table.index[table["tuned over"] != ""])
        for parameter, values in grids.items():
            assert table.loc[parameter, "default"] == "None"
            assert table.loc[parameter, "tuned over"] == ", ".join(map(str, values))
            for value in values:
                given = COMPLETERS.make(name, {parameter: value})
                assert given.grids()[parameter] == (value,)


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("case", CASES)
def test_poor_data_give_finite_estimates(sections, case, name):
    if name == "magic":
        pytest.importorskip("magic")
    data = spoiled(sections)[case]
    if case == "no counts" and name in ("depth_only", "counts_at_depth", "magic"):
        with pytest.raises(ValueError, match="needs raw counts"):
            estimate_of(name, data)
        return
    estimate = estimate_of(name, data)
    assert estimate.values.shape == data.values.shape
    assert estimate.values.dtype == np.float32
    assert np.isfinite(estimate.values).all()
    assert (estimate.rate is not None) == (name in WITH_RATE and data.counts is not None)
    if estimate.rate is not None:
        assert estimate.rate.dtype == np.float32
        assert np.isfinite(estimate.rate).all()
        assert (estimate.rate >= 0).all()
    if case == "one value" and name not in ("alra", "sme", "median", "magic", "counts_at_depth"):
        np.testing.assert_allclose(estimate.values, 3, atol=1e-3)


@pytest.mark.parametrize("name", [n for n in SIMPLE if n not in ("median", "sme", "alra", "magic")])
def test_a_gene_that_nobody_knows_has_the_mean_of_all(sections, name):
    data = spoiled(sections)["gene"]
    values = estimate_of(name, data).values[:, 2]
    spread = data.values[data.known].std()
    assert abs(values.mean() - data.values[data.known].mean()) < spread


@pytest.fixture(scope="module")
def with_truth() -> tuple[Sections, np.ndarray]:
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=40, shape=(14, 12), depth=300, image=False)
    adata.layers["log2cpm"] = adata.X.copy()
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.layers["log2cpm"].data = np.log2(1 + 1e6 * adata.X.data / np.repeat(depth, np.diff(adata.X.indptr)))
    found = resolve(adata, layer="log2cpm", mask_var=None, spatial_key="spatial", **KEY)
    return found.sections, dense(adata.layers["rate"])[found.order][:, found.genes]


@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_rates_are_near_the_truth(with_truth, name):
    sections, truth = with_truth
    rate = estimate_of(name, sections).rate.astype(float)
    assert rate.sum() == pytest.approx(truth.sum(), rel=0.03)
    # nearer than what one count tells, and than what the gene's share tells unless it is no more than this
    error = poisson_deviance(truth, rate).mean()
    assert error < 0.6 * poisson_deviance(truth, sections.counts.values).mean()
    simple = poisson_deviance(truth, estimate_of("gene_mean", sections).rate).mean()
    limit = {"gene_mean": 1.001, "depth_only": 1.1, "counts_at_depth": 1.1, "library_gene_mean": 1, "additive": 1}
    limit["neighbor_mean"] = 0.9
    assert error < limit.get(name, 0.6) * simple


@pytest.mark.parametrize("name", ["gene_mean", "depth_only", "kernel", "neighbor_mean", "factor"])
def test_whole_spots_are_filled_on_the_scale_that_they_had(name):
    sections, hidden, visible = with_silent_spots()
    error = (estimate_of(name, visible).values - sections.values)[hidden]
    assert abs(error.mean()) < 0.06
    lost = np.log2(sections.counts.depth / visible.counts.depth)[hidden.any(axis=1)]
    assert lost.mean() > 0.3  # an estimate at the visible depth would be off by about so much


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* genes have no length:UserWarning")
def test_order_of_the_methods_on_real_sections(data_dir):
    with sp.settings.override(data_dir=data_dir):
        adata = sp.datasets.her2st("C")
    sp.pp.recipe_spared(adata, **KEY)
    sections = resolve(adata, layer="log2tpm", mask_var="spared_selected", spatial_key="spatial", **KEY).sections
    hidden = hide_detected(sections.known, 0.3, np.random.default_rng(0))
    visible, truth = sections.without(hidden), sections.renormalised(hidden)

    def error(name):
        values = estimate_of(name, visible).values
        return np.mean((truth - values)[hidden].astype(float) ** 2)

    errors = {name: error(name) for name in SIMPLE if name not in ("sme", "magic")}
    assert errors["library_gene_mean"] < errors["gene_mean"] < errors["alra"]
    assert errors["gene_mean"] < 0.5 * errors["median"]
    assert errors["additive"] < errors["gene_mean"]
    assert max(errors["kernel"], errors["diffusion"]) < errors["additive"]
    assert errors["soft_impute_kernel"] < errors["soft_impute"] < 0.8 * errors["additive"]
    assert errors["ridge"] < errors["soft_impute"]
    assert errors["stack"] <= 1.02 * min(errors.values())
