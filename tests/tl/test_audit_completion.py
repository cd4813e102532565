"""tl.audit_completion."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY
from helpers.evaluation import registers
from spared_sc._core.compute import Compute
from spared_sc._kernels.audit import conclude, evidence_of
from spared_sc._kernels.sections import Estimate
from spared_sc._models.completion.counts import CountsModel
from spared_sc._models.completion.kernel import Kernel
from spared_sc.tl._resolve import resolve

QUICK = {**KEY, "method": "soft_impute_kernel", "quick": True, "device": "cpu", "show_progress_bar": False}
NUMBERS = ["skill", "skill_low", "skill_high", "gain", "gain_low", "gain_high", "missing", "n_molecules"]
NULL = 20  # genes of noise of 60
NOTHING = "nothing is gained with '{}'".format


def synthetic(n_genes=60, shape=(14, 14), depth=300, **options) -> ad.AnnData:
    return sp.datasets.synthetic(2, n_genes, shape=shape, depth=depth, image=False, **options)


def with_noise(adata, noisy, seed=0) -> ad.AnnData:
    """TPM of counts in which some genes are Poisson counts in proportion to those of the others."""
    rate = adata.layers["rate"].astype(float)
    rate = rate.toarray() if sps.issparse(rate) else np.asarray(rate)
    others = rate if len(noisy) == rate.shape[1] else np.delete(rate, noisy, axis=1)
    depth = others.sum(axis=1, keepdims=True)
    counts = adata.X.toarray()
    expected = depth * rate.sum(axis=0) / depth.sum()
    counts[:, noisy] = np.random.default_rng(seed).poisson(expected[:, noisy])
    adata = adata.copy()
    adata.X = sps.csr_matrix(counts, dtype=np.float32)
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    sp.pp.normalize_tpm(adata)
    return adata


def audited(adata, **options) -> ad.AnnData:
    return sp.tl.audit_completion(adata, **{**QUICK, "copy": True, **options})


def table(adata, key="audit") -> pd.DataFrame:
    columns = {f"{key}_{name}": name for name in ("verdict", *NUMBERS)}
    return adata.var[list(columns)].rename(columns=columns)


def record_of(adata) -> dict:
    return adata.uns["spared_sc"]["audit"]


@pytest.fixture(scope="module")
def mixed() -> ad.AnnData:
    """Genes that vary over the tissue, after some that do not."""
    adata = synthetic()
    share = adata.layers["rate"] / adata.layers["rate"].sum(axis=1, keepdims=True)
    low, high = np.quantile(np.asarray(share), [0.05, 0.95], axis=0)
    order = np.argsort(high / low, kind="stable")  # those that vary most come last
    return with_noise(adata[:, order].copy(), np.arange(NULL))


@pytest.fixture(scope="module")
def result(mixed) -> ad.AnnData:
    return audited(mixed)


@pytest.fixture
def fake(monkeypatch):
    """Registers a completion method; what it is given is kept."""
    return registers(monkeypatch)


@pytest.mark.parametrize("method", ["soft_impute_kernel", "factor"])
def test_genes_that_vary_are_found_and_noise_is_not(mixed, method):
    found = table(audited(mixed, method=method))
    assert (found["verdict"].iloc[:NULL] != "undecided").sum() <= 1
    counted = found.iloc[NULL:][lambda t: t["n_molecules"] > 300]
    assert (counted["verdict"] != "undecided").mean() > 0.9
    assert (counted["verdict"] == "complete").sum() >= 5
    assert (counted["skill_low"] > 0).mean() > 0.8


@pytest.mark.slow
def test_the_default_finds_them_too(mixed):
    result = audited(mixed, method="counts")
    found = table(result)
    assert (found["verdict"].iloc[:NULL] != "undecided").sum() <= 1
    assert (found["verdict"].iloc[NULL:] != "undecided").mean() > 0.8
    assert record_of(result)["harm"] is False


@pytest.mark.parametrize("method", ["soft_impute_kernel", "kernel", "ridge", "factor"])
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_alone_gets_no_verdict_and_a_warning(method, seed):
    adata = with_noise(synthetic(random_state=seed), np.arange(60), seed)
    with pytest.warns(UserWarning, match=NOTHING(method)):
        result = audited(adata, method=method)
    assert record_of(result)["harm"] is True
    assert (table(result)["verdict"] != "undecided").sum() <= 1
    assert record_of(result)["summary"].startswith("Nothing is gained")


def test_a_method_without_rates_is_audited_by_its_values(mixed):
    result = audited(mixed, method="ridge")
    found = table(result)
    assert found[["skill", "skill_low", "skill_high"]].isna().all(axis=None)
    assert np.isnan(record_of(result)["skill"])
    assert set(found["verdict"]) == {"complete", "undecided"}
    assert (found["verdict"].iloc[:NULL] == "undecided").all()
    assert (found["verdict"] == "complete").sum() >= 5


def test_the_numbers_are_those_of_the_splits(mixed, fake):
    def method(sections):
        spot = np.arange(len(sections.known))[:, None] / len(sections.known)
        values = np.full(sections.values.shape, 12, np.float32) + spot.astype(np.float32)
        return Estimate(values, (sections.counts.depth[:, None] * (1 + spot) / 90).astype(np.float32))

    seen = fake(method)
    with pytest.warns(UserWarning, match=NOTHING("fake")):
        result = audited(mixed, method="fake", random_state=4, quick=False, n_splits=3)
    assert len(seen) == 3
    whole = resolve(mixed, layer="log2tpm", mask_var=None, spatial_key="spatial", **KEY).sections
    splits = [evidence_of(whole, method, np.random.default_rng([4, 7, number])) for number in range(3)]
    expected = conclude(splits[0] + splits[1] + splits[2], 3)
    found = table(result)
    order = np.argsort(mixed.var_names, kind="stable")
    np.testing.assert_array_equal(found["verdict"].iloc[order], expected.verdict)
    np.testing.assert_allclose(found["skill"].iloc[order], expected.skill.value)
    np.testing.assert_allclose(found["gain_low"].iloc[order], expected.gain.low)
    np.testing.assert_allclose(found["missing"], (mixed.X.toarray() == 0).mean(axis=0))
    np.testing.assert_allclose(found["n_molecules"], mixed.X.toarray().sum(axis=0))
    assert record_of(result)["n_splits"] == 3
    # The two halves that a method gets have nothing to do with one another.
    assert not np.array_equal(seen[0].counts.values, seen[1].counts.values)


def test_more_splits_decide_more_surely(mixed):
    few, many = (table(audited(mixed, method="kernel", quick=False, n_splits=n)) for n in (2, 8))
    width = [one["skill_high"] - one["skill_low"] for one in (few, many)]
    assert (width[1] / width[0]).median() == pytest.approx(np.sqrt((1 / 2 + 1 / 16) / (1 / 2 + 1 / 4)), rel=0.08)


def test_intervals_hold_the_long_run_mean(mixed):
    """Over sections drawn again, nine tenths and more of the intervals hold the mean skill."""
    draws = []
    for seed in range(8):
        rate = np.asarray(mixed.layers["rate"]).astype(float)
        adata = mixed.copy()
        adata.X = sps.csr_matrix(np.random.default_rng(seed).poisson(rate).astype(np.float32))
        sp.pp.normalize_tpm(adata)
        draws.append(table(audited(adata, method="kernel")))
    mean = np.mean([one["skill"] for one in draws], axis=0)
    held = np.mean([(one["skill_low"] <= mean) & (mean <= one["skill_high"]) for one in draws])
    assert held > 0.9


def test_the_summary_is_printed(mixed, capsys):
    result = audited(mixed)
    found, record = table(result)["verdict"], record_of(result)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "audit of 'soft_impute_kernel': 2 fits, each to half of the molecules."
    assert printed[-1] == record["summary"]
    kinds = {kind: int((found == kind).sum()) for kind in ("complete", "denoise", "undecided")}
    words = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    assert record["summary"].startswith(f"'soft_impute_kernel' on 60 genes: {words}.")
    assert (
        f"explain {record['skill']:.1%} ({record['skill_low']:.1%} to {record['skill_high']:.1%})" in record["summary"]
    )
    assert [record[f"n_{kind}"] for kind in kinds] == list(kinds.values())
    assert record["harm"] is False


def test_a_long_audit_says_how_long(mixed, fake, capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("spared_sc.tl._audit_completion.time.perf_counter", lambda: float(next(clock)))
    fake(lambda sections: Kernel(bandwidth=1.0).complete(sections, Compute()))
    audited(mixed, method="fake", quick=False, n_splits=4)
    assert "audit of 'fake': at most 60 s more." in capsys.readouterr().out


@pytest.mark.parametrize("finished", [1, 2, 3])
def test_an_interrupt_keeps_what_is_finished(mixed, fake, finished):
    calls = []

    def method(sections):
        calls.append(1)
        if len(calls) > finished:
            raise KeyboardInterrupt
        return Kernel(bandwidth=1.0).complete(sections, Compute())

    fake(method)
    adata = mixed.copy()
    options = {**QUICK, "method": "fake", "quick": False, "n_splits": 5}
    if finished < 2:
        with pytest.raises(KeyboardInterrupt):
            sp.tl.audit_completion(adata, **options)
        assert list(adata.var) == list(mixed.var)
        return
    with pytest.warns(UserWarning, match=f"interrupted: the results are those of {finished} of 5 splits"):
        sp.tl.audit_completion(adata, **options)
    assert record_of(adata)["n_splits"] == finished
    expected = audited(mixed, method=Kernel(bandwidth=1.0), quick=False, n_splits=finished)
    pd.testing.assert_frame_equal(table(adata), table(expected))


def test_a_method_may_be_an_object(mixed):
    result = audited(mixed, method=Kernel(bandwidth=1.5))
    assert record_of(result)["params"]["method"] == "kernel"
    assert record_of(result)["params"]["method_params"]["bandwidth"] == 1.5


def test_a_fitted_method_has_seen_both_halves(mixed):
    fitted = CountsModel()
    fitted.learned = object()
    with pytest.raises(ValueError, match="'counts' is fitted and may have seen both halves"):
        audited(mixed, method=fitted)


def test_only_the_genes_of_the_mask_are_audited(mixed):
    adata = mixed.copy()
    adata.var["mine"] = np.arange(adata.n_vars) % 2 == 0
    found = table(audited(adata, mask_var="mine", key_added="mine_audit"), "mine_audit")
    outside = ~adata.var["mine"]
    assert (found["verdict"][outside] == "not audited").all()
    assert found.loc[outside, NUMBERS].isna().all(axis=None)
    assert (found["verdict"][~outside] != "not audited").all()
    assert found.loc[~outside, ["skill", "missing", "n_molecules"]].notna().all(axis=None)


def test_one_seed_one_result_whatever_the_order_of_spots_and_libraries(mixed, result):
    rng = np.random.default_rng(0)
    other = mixed[rng.permutation(mixed.n_obs)].copy()
    other.obs["library_id"] = other.obs["library_id"].cat.reorder_categories(["library_2", "library_1"])
    for adata in (mixed, other):
        again = audited(adata)
        pd.testing.assert_frame_equal(table(again), table(result))
        assert record_of(again)["summary"] == record_of(result)["summary"]
    assert (table(audited(mixed, random_state=1))["skill"] != table(result)["skill"]).all()


def test_results_survive_files(result, tmp_path):
    result.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(table(back), table(result), check_dtype=False, check_categorical=False)
    one, other = record_of(back), record_of(result)
    assert one.keys() == other.keys()
    assert bool(one["harm"]) == other["harm"]
    assert one["summary"] == other["summary"]


def test_nothing_else_changes(mixed):
    adata = mixed.copy()
    assert sp.tl.audit_completion(adata, **QUICK) is None
    assert set(adata.layers) == set(mixed.layers)
    assert (adata.X != mixed.X).nnz == 0
    assert (adata.layers["log2tpm"] != mixed.layers["log2tpm"]).nnz == 0
    assert set(adata.var) - set(mixed.var) == {f"audit_{name}" for name in ("verdict", *NUMBERS)}


def test_a_layer_of_another_logarithm_is_audited(mixed):
    adata = mixed.copy()
    counts = adata.X.toarray()
    adata.layers["mine"] = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    result = audited(adata, layer="mine")
    found = table(result)
    assert found["skill"].notna().all()
    assert record_of(result)["harm"] is False
    assert (found["verdict"].iloc[:NULL] != "undecided").sum() <= 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_splits": 1}, ValueError, "n_splits=1 cannot be used: give a whole number from 2"),
        ({"method": "nobody"}, KeyError, "no completion method 'nobody': choose among 'gene_mean', .*'counts'"),
        ({"method": 3}, TypeError, "method is a int: give a name or a Completer"),
        ({"method": "sme"}, ValueError, "'sme' needs an embedding"),
        ({"use_rep": "programs"}, ValueError, "'soft_impute_kernel' uses no embedding"),
        ({"layer": "other"}, KeyError, "no layer 'other'"),
        ({"mask_var": "other"}, KeyError, "no column 'other' in adata.var"),
        ({"library_key": None}, ValueError, "library_key="),
        ({"random_state": -1}, ValueError, "random_state=-1 cannot be used"),
        ({"n_jobs": 0}, ValueError, "n_jobs=0 cannot be used"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' cannot be used"),
    ],
)
def test_arguments_are_checked(mixed, options, error, message):
    adata = mixed.copy()
    with pytest.raises(error, match=message):
        sp.tl.audit_completion(adata, **{**QUICK, **options})
    assert list(adata.var) == list(mixed.var)


def test_an_embedding_is_passed_on(mixed):
    options = {"method": "sme", "use_rep": "programs"}
    with pytest.raises(ValueError, match="programs"):
        audited(mixed, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="nothing is gained")
        result = audited(mixed, allow_unrecorded_rep=True, **options)
    assert record_of(result)["params"]["use_rep"] == "programs"


@pytest.mark.filterwarnings("ignore:expected counts are not estimated")
def test_counts_are_needed(mixed):
    adata = mixed.copy()
    adata.layers["detected"] = adata.X > 0
    adata.X = adata.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match=r"needs raw counts: put them into adata.X or layers\['counts'\]"):
        sp.tl.audit_completion(adata, **QUICK)
