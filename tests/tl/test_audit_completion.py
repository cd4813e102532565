"""tl.audit_completion."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY
from helpers.evaluation import registers
from spared_sc._core.compute import Compute
from spared_sc._kernels import audit
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.sections import Estimate
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc.tl._resolve import resolve

QUICK = {**KEY, "method": "soft_impute_kernel", "n_masks": 2, "device": "cpu", "show_progress_bar": False}


NUMBERS = [
    *("mse", "mse_depth_only", "mse_additive", "mse_gene_mean", "floor", "skill", "skill_low", "skill_high"),
    *("rate_skill", "missing", "reliability"),
]


def synthetic(n_genes=40, shape=(12, 12), depth=200, **options) -> ad.AnnData:
    return sp.datasets.synthetic(2, n_genes, shape=shape, depth=depth, image=False, **options)


def normalised(adata, counts=None) -> ad.AnnData:
    """With other counts, where some are given, and TPM of them; spots without counts are dropped."""
    adata = adata.copy()
    if counts is not None:
        adata.X = sps.csr_matrix(counts, dtype=np.float32)
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    sp.pp.normalize_tpm(adata)
    return adata


def audited(adata, **options) -> ad.AnnData:
    return sp.tl.audit_completion(adata, **{**QUICK, "copy": True, **options})


def table(adata, key="audit") -> pd.DataFrame:
    columns = {f"{key}_{name}": name for name in ("verdict", *NUMBERS)}
    return adata.var[list(columns)].rename(columns=columns)


def sections_of(adata, **options):
    return resolve(adata, **{"layer": "log2tpm", "mask_var": None, "spatial_key": "spatial", **KEY, **options}).sections


@pytest.fixture(scope="module")
def structured() -> ad.AnnData:
    return normalised(synthetic())


@pytest.fixture(scope="module")
def result(structured) -> ad.AnnData:
    return audited(structured)


@pytest.fixture
def fake(monkeypatch):
    """Registers a completion method; what it is given is kept."""
    return registers(monkeypatch)


def test_genes_with_structure_are_worth_completing():
    result = audited(normalised(synthetic(shape=(16, 16), depth=300)), method="factor")
    found = table(result)
    sparse = found["missing"].between(0.1, 0.7)
    assert sparse.sum() > 10
    assert (found["verdict"] == "complete")[sparse].mean() > 0.7
    assert result.uns["spared_sc"]["audit"]["harm"] is False
    assert result.uns["spared_sc"]["audit"]["skill_low"] > 0.3


def test_the_summary_says_what_was_found(result):
    found, record = table(result), result.uns["spared_sc"]["audit"]
    assert record["harm"] is False
    assert record["skill_low"] > 0.2
    share = f"{record['skill']:.0%}"
    assert record["summary"].startswith(f"Completion with 'soft_impute_kernel' removes {share} of the error of simple")
    for name, verdict in (("n_complete", "complete"), ("n_use_as_is", "use as is"), ("n_drop", "drop")):
        assert record[name] == (found["verdict"] == verdict).sum()
        assert f" {record[name]}" in record["summary"]
    # where nothing is missing there is nothing to complete
    assert (found["verdict"][found["missing"] < 0.01] == "use as is").all()
    assert (found["missing"] < 0.01).any()


def shuffled(adata, seed) -> ad.AnnData:
    """Counts of every gene shuffled over the spots of each library: no structure is left."""
    rng = np.random.default_rng(seed)
    counts = adata.X.toarray()
    for rows in adata.obs.groupby("library_id", observed=True).indices.values():
        for gene in range(adata.n_vars):
            counts[rows, gene] = counts[rng.permutation(rows), gene]
    return normalised(adata, counts)


def assert_not_blessed(adata):
    record, found = adata.uns["spared_sc"]["audit"], table(adata)
    assert record["n_complete"] <= 0.05 * (found["verdict"] != "not audited").sum()
    assert record["harm"] is True
    assert record["summary"].startswith("Do not complete these sections")


@pytest.mark.parametrize("method", ["soft_impute_kernel", "kernel", "ridge", "stack", "factor"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_counts_are_not_worth_completing(method, seed):
    assert_not_blessed(audited(shuffled(synthetic(random_state=seed), seed), method=method, n_masks=1))


@pytest.mark.slow
def test_the_default_is_not_blessed_on_shuffled_counts():
    # one on which better averages alone remove 2 % of the error of simple ones
    assert_not_blessed(audited(shuffled(synthetic(random_state=1), 1), method="counts", n_masks=1))


@pytest.mark.parametrize("method", ["soft_impute_kernel", "factor"])
def test_genes_of_noise_are_dropped(method):
    adata = synthetic(random_state=1)
    rng = np.random.default_rng(1)
    counts = adata.X.toarray()
    depth = adata.layers["rate"].sum(axis=1, keepdims=True)
    counts[:, :8] = rng.poisson(depth * np.geomspace(0.002, 0.03, 8))
    result = audited(normalised(adata, counts), method=method)
    verdict = result.var["audit_verdict"]
    assert (verdict.iloc[:8] == "drop").sum() >= 7
    assert (verdict.iloc[8:] == "complete").sum() >= 8
    assert result.uns["spared_sc"]["audit"]["harm"] is False
    assert abs(result.var["audit_reliability"].iloc[:8]).max() < 0.2


def test_a_method_that_is_worse_than_averages_would_do_harm(structured, fake):
    rng = np.random.default_rng(0)

    def wild(sections):
        values = np.where(sections.known, sections.values, 14 + rng.normal(0, 4, sections.values.shape))
        return Estimate(values.astype(np.float32))

    fake(wild)
    result = audited(structured, method="fake")
    record = result.uns["spared_sc"]["audit"]
    assert record["harm"] is True
    assert record["n_complete"] == 0
    assert record["skill_high"] < 0
    assert record["summary"].startswith(
        "Do not complete these sections with 'fake': filled values are not reliably nearer to the truth than simple "
        f"averages (error removed: {record['skill']:.0%}, 95 % interval"
    )
    assert set(result.var["audit_verdict"]) == {"use as is", "drop"}


def test_a_method_that_is_hardly_better_than_averages_is_left_alone(structured, result, monkeypatch):
    skill = result.uns["spared_sc"]["audit"]["skill"]
    for least, harm in ((skill - 0.01, False), (skill + 0.01, True)):
        monkeypatch.setattr(audit, "_LEAST_SKILL", least)
        record = audited(structured).uns["spared_sc"]["audit"]
        assert record["harm"] is harm
        assert ("filled values are hardly nearer to the truth" in record["summary"]) == harm
        assert record["n_complete"] > 0


def test_a_method_that_knows_the_truth_removes_all_of_the_error(structured, fake):
    whole = sections_of(structured)

    def oracle(sections):
        if (sections.counts.values != whole.counts.values)[sections.known].any():
            return Estimate(sections.values)  # one of the halves
        return Estimate(whole.renormalised(whole.known & ~sections.known))

    seen = fake(oracle)
    result = audited(structured, method="fake", n_masks=1)
    found = table(result)
    missing, reliable = found["missing"] >= 0.01, found["reliability"] > 0.3
    assert (found["verdict"][missing & reliable] == "complete").all()
    assert found["mse"].max() < 1e-6
    assert result.uns["spared_sc"]["audit"]["skill"] > 0.999
    # for want of expected counts, a gene must repeat itself to be believed
    assert found["rate_skill"].isna().all()
    assert not ((found["verdict"] == "complete") & (found["reliability"] < 0.05)).any()
    assert len(seen) == 2


def test_expected_counts_that_are_no_better_than_depth_alone_are_not_believed(structured, fake):
    def depth(sections):
        filled, by_depth = (
            COMPLETERS.make(name, {}).complete(sections, Compute()) for name in ("soft_impute_kernel", "depth_only")
        )
        return Estimate(filled.values, by_depth.rate)

    fake(depth)
    result = audited(structured, method="fake")
    np.testing.assert_allclose(result.var["audit_rate_skill"], 0, atol=1e-12)
    assert result.uns["spared_sc"]["audit"]["n_complete"] == 0
    assert result.uns["spared_sc"]["audit"]["skill"] > 0.2


def test_errors_are_those_on_hidden_entries(structured, fake):
    seen = fake(lambda sections: Estimate(np.full(sections.values.shape, 13, np.float32)))
    found = table(audited(structured, method="fake", random_state=4))
    whole = sections_of(structured)
    squares, of_mean, n = (np.zeros(whole.known.shape[1]) for _ in range(3))
    for mask in range(2):
        hidden = hide_detected(whole.known, 0.3, np.random.default_rng([4, 104, 1 + mask]))
        given = seen[mask]
        np.testing.assert_array_equal(given.known, whole.known & ~hidden)
        assert not given.values[hidden].any()
        assert not given.counts.values[hidden].any()
        truth = whole.renormalised(hidden).astype(float)
        for gene in range(whole.known.shape[1]):
            rows = hidden[:, gene]
            mean = given.values[given.known[:, gene], gene].astype(float).mean()
            squares[gene] += ((truth[rows, gene] - 13) ** 2).sum()
            of_mean[gene] += ((truth[rows, gene] - mean) ** 2).sum()
            n[gene] += rows.sum()
    enough = found["verdict"] != "not audited"
    np.testing.assert_array_equal(enough, n >= 30)
    np.testing.assert_allclose(found["mse"], squares / n, rtol=1e-5)
    np.testing.assert_allclose(found["mse_gene_mean"], of_mean / n, rtol=1e-5)
    better = found[["mse_depth_only", "mse_additive"]].min(axis=1)
    np.testing.assert_allclose(found["skill"], 1 - found["mse"] / better, rtol=1e-6)
    np.testing.assert_allclose(found["missing"], (structured.X.toarray() == 0).mean(axis=0))


def test_depth_alone_is_as_good_as_counts_without_structure_allow():
    """Negative binomial counts in proportion to depth: nothing is left to learn but the law itself."""
    adata = synthetic(random_state=3)
    rng = np.random.default_rng(0)
    depth = adata.layers["rate"].sum(axis=1, keepdims=True)
    rate = depth * np.geomspace(0.003, 0.05, adata.n_vars)
    adata = normalised(adata, rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, rate.shape)))
    found = table(audited(adata, method="factor"))
    assert (found["verdict"] == "complete").mean() <= 0.05
    ratio = found["mse"] / found["mse_depth_only"]
    assert 0.9 < ratio.median() < 1.1


def test_intervals_hold_the_estimate(result):
    found, record = table(result), result.uns["spared_sc"]["audit"]
    found = found[found["verdict"] != "not audited"]
    assert (found["skill_low"] <= found["skill"]).all()
    assert (found["skill"] <= found["skill_high"]).all()
    assert record["skill_low"] < record["skill"] < record["skill_high"]
    width = (found["skill_high"] - found["skill_low"]).median()
    assert record["skill_high"] - record["skill_low"] < 0.6 * width  # all genes together say more than one


def test_the_floor_is_below_the_errors_and_near_the_sampling_noise(structured):
    found = table(audited(structured, method="factor"))
    dense = found["missing"] < 0.5
    assert found["floor"].between(0.01, 1.5).all()
    assert (found["floor"] < 1.1 * found["mse"])[dense].mean() > 0.9


def test_reliability_is_the_correlation_of_halves(structured):
    whole = sections_of(structured)
    half, other = whole.thinned(np.random.default_rng([0, 105]))
    counts = half.counts
    other_depth = whole.counts.depth - counts.depth
    expected = []
    for gene in range(structured.n_vars):
        parts = [np.sqrt(counts.values[:, gene] / counts.depth), np.sqrt(other[:, gene] / other_depth)]
        for part in parts:
            for library in (0, 1):
                part[whole.library == library] -= part[whole.library == library].mean()
        expected.append(np.corrcoef(*parts)[0, 1])
    np.testing.assert_allclose(audited(structured).var["audit_reliability"], expected, rtol=1e-5)


def test_intervals_of_a_method_cover_what_they_say(structured, result):
    covered = audited(structured, method="factor").uns["spared_sc"]["audit"]["coverage_90"]
    assert 0.8 < covered < 0.97
    assert np.isnan(result.uns["spared_sc"]["audit"]["coverage_90"])


def test_only_the_genes_of_the_mask_are_audited(structured):
    adata = structured.copy()
    adata.var["mine"] = np.arange(adata.n_vars) % 3 == 0
    found = table(audited(adata, mask_var="mine", key_added="mine_audit"), "mine_audit")
    outside = ~adata.var["mine"]
    assert (found["verdict"][outside] == "not audited").all()
    assert found.loc[outside, NUMBERS].isna().all(axis=None)
    assert (found["verdict"][~outside] != "not audited").any()
    assert found.loc[~outside, ["mse", "skill", "missing", "reliability"]].notna().all(axis=None)


def test_genes_with_few_detected_entries_are_not_judged():
    adata = synthetic()
    counts = adata.X.toarray()
    counts[:, 0] = 0
    counts[:40, 0] = 1
    found = table(audited(normalised(adata, counts)))
    assert found["verdict"].iloc[0] == "not audited"
    assert found["mse"].iloc[0] > 0


def test_one_seed_one_result_whatever_the_order_of_spots_and_libraries(structured, result):
    rng = np.random.default_rng(0)
    other = structured[rng.permutation(structured.n_obs)].copy()
    other.obs["library_id"] = other.obs["library_id"].cat.reorder_categories(["library_2", "library_1"])
    for adata in (structured, other):
        again = audited(adata)
        pd.testing.assert_frame_equal(table(again), table(result))
        assert again.uns["spared_sc"]["audit"]["summary"] == result.uns["spared_sc"]["audit"]["summary"]
    assert (table(audited(structured, random_state=1))["mse"] != table(result)["mse"]).all()


def test_results_survive_files(result, tmp_path):
    result.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(table(back), table(result), check_dtype=False, check_categorical=False)
    one, other = (a.uns["spared_sc"]["audit"] for a in (back, result))
    assert one.keys() == other.keys()
    assert bool(one["harm"]) == other["harm"]
    assert one["summary"] == other["summary"]


def test_nothing_else_changes(structured):
    adata = structured.copy()
    assert sp.tl.audit_completion(adata, **QUICK) is None
    assert set(adata.layers) == set(structured.layers)
    assert (adata.X != structured.X).nnz == 0
    assert (adata.layers["log2tpm"] != structured.layers["log2tpm"]).nnz == 0
    assert set(adata.var) - set(structured.var) == {f"audit_{name}" for name in ("verdict", *NUMBERS)}


@pytest.mark.parametrize("name", ["log1p", "negative"])
def test_other_layers_are_audited_without_a_floor(structured, name):
    adata = structured.copy()
    counts = adata.X.toarray()
    log1p = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    adata.layers["mine"] = log1p if name == "log1p" else np.where(counts > 0, log1p - 6, 0)
    result = audited(adata, layer="mine")
    found = table(result)
    assert found["floor"].isna().all()
    assert found["skill"].notna().all()
    assert result.uns["spared_sc"]["audit"]["harm"] is False


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_masks": 0}, ValueError, "n_masks=0 cannot be used: give a whole number from 1"),
        ({"method": "nobody"}, KeyError, "no completion method 'nobody': choose among 'gene_mean', .*'counts'"),
        ({"layer": "other"}, KeyError, "no layer 'other'"),
        ({"mask_var": "other"}, KeyError, "no column 'other' in adata.var"),
        ({"library_key": None}, ValueError, "library_key="),
        ({"random_state": -1}, ValueError, "random_state=-1 cannot be used"),
        ({"n_jobs": 0}, ValueError, "n_jobs=0 cannot be used"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' cannot be used"),
    ],
)
def test_arguments_are_checked(structured, options, error, message):
    adata = structured.copy()
    with pytest.raises(error, match=message):
        sp.tl.audit_completion(adata, **{**QUICK, **options})
    assert list(adata.var) == list(structured.var)


@pytest.mark.filterwarnings("ignore:expected counts are not estimated")
def test_counts_are_needed(structured):
    adata = structured.copy()
    adata.layers["detected"] = adata.X > 0
    adata.X = adata.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match=r"needs raw counts: put them into adata.X or layers\['counts'\]"):
        sp.tl.audit_completion(adata, **QUICK)
