"""benchmark.compare, against scikit-posthocs, scipy and the paper."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs as posthocs
from scipy import stats

import spared_sc as sp
from helpers.benchmark_tables import made_results
from spared_sc._core.benchmark_tables import Choice, data_set_means

# Pairs in bold in Table 4 of the paper, without those of Hist2ST and HGGEP, which have no published scores to test.
TABLE_4 = {
    *(frozenset((model, "HisToGene")) for model in ("ShuffleNet", "STNet", "EGN", "EGGN", "ViT-B", "ViT-B+D", "SEPAL")),
    *(frozenset((model, "BLEEP")) for model in ("ShuffleNet", "STNet", "EGN", "EGGN", "ViT-B", "ViT-B+D", "SEPAL")),
}


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return sp.benchmark.reference_external()


def test_published_scores_by_every_test(published):
    found = sp.benchmark.compare(published, "mse", published=True)
    assert found.values.shape == (25, 9)  # without VMB, where HisToGene has no score, and Hist2ST, on two data sets
    assert set(found.left_out) == {"VMB", "Hist2ST"}
    assert found.ranks.index[0] == "ViT-B+D"
    names, dunn = found.dunn.columns, found.dunn.to_numpy()
    differ = {
        frozenset((names[i], names[j])) for i, j in itertools.combinations(range(9), 2) if dunn[i, j] < found.alpha
    }
    assert differ == TABLE_4
    assert len(found.pairs) == 36
    assert (found.pairs["nemenyi"] < 0.05).sum() == 15
    assert (found.pairs["holm"] < 0.05).sum() == 16
    of_sources = sp.benchmark.compare(published, "mse", published=True, blocks="source")
    assert of_sources.values.shape == (8, 9)
    assert (of_sources.pairs["nemenyi"] < 0.05).sum() == 6
    counts = found.sensitivity[["n_blocks", "n_methods", "nemenyi"]]
    assert counts.loc["data sets"].tolist() == [25, 9, 15]
    assert counts.loc["sources"].tolist() == [8, 9, 6]
    assert counts.loc["data sets without a test split"].tolist()[:2] == [15, 9]
    assert counts.loc["all data sets and methods, failures last"].tolist()[:2] == [26, 10]
    text = str(found)
    assert "15 of 36 pairs" in text
    assert "16 of 36 pairs" in text
    assert "8 sources as blocks: 6 of 36 pairs" in text
    assert "left out: Hist2ST (a value in 2 of 26 data sets)" in text


def test_numbers_are_those_of_independent_packages(published):
    found = sp.benchmark.compare(published, "mse", published=True)
    wide = published[published["metric"] == "mse"].pivot(index="dataset", columns="model", values="value")
    wide = wide.drop(columns="Hist2ST").dropna()[found.values.columns]
    assert found.friedman.chi_squared == pytest.approx(stats.friedmanchisquare(*wide.to_numpy().T).statistic)
    nemenyi = posthocs.posthoc_nemenyi_friedman(wide.to_numpy()).to_numpy()
    relative = wide.div(wide.min(axis=1), axis=0).melt(var_name="model", value_name="value")
    dunn = posthocs.posthoc_dunn(relative, val_col="value", group_col="model", p_adjust="bonferroni")
    pd.testing.assert_frame_equal(found.dunn, dunn.loc[found.dunn.index, found.dunn.columns], check_names=False)
    for row in found.pairs.itertuples():
        i, j = (wide.columns.get_loc(name) for name in (row.method_1, row.method_2))
        difference = (wide[row.method_1] - wide[row.method_2]).to_numpy()
        assert row.nemenyi == pytest.approx(nemenyi[i, j], abs=1e-6)
        assert row.wilcoxon == pytest.approx(stats.wilcoxon(difference).pvalue)
        interval = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
        assert (row.lower, row.upper) == pytest.approx((interval.low, interval.high))
        assert row.hl_lower <= row.hodges_lehmann <= row.hl_upper
        assert row.rank_difference >= 0


def test_sources_are_blocks_of_mean_ranks(published):
    found = sp.benchmark.compare(published, "mse", published=True, blocks="source")
    wide = published[published["metric"] == "mse"].pivot(index="dataset", columns="model", values="value")
    wide = wide.drop(columns="Hist2ST").dropna()[found.values.columns]
    source = published.drop_duplicates("dataset").set_index("dataset")["source"]
    ranks = wide.rank(axis=1).groupby(source).mean().rank(axis=1).mean()
    np.testing.assert_allclose(found.ranks, ranks)
    np.testing.assert_allclose(found.values, wide.groupby(source).mean())
    assert "sources" in found.generalises_to
    assert set(found.pairs["n_blocks"]) == {8}


def test_made_up_differences_are_found_in_their_direction():
    for metric in ("mse", "pcc"):
        found = sp.benchmark.compare(made_results(n_sets=10), metric)
        assert found.ranks.index.tolist() == ["good", "middle", "poor"]
        assert found.ranks.tolist() == [1, 2, 3]
        assert (np.sign(found.pairs["difference"]) == (1 if metric == "pcc" else -1)).all()
        assert (found.dunn is None) == (metric == "pcc")
    # all blocks agree: chi-squared is at its largest, n (k - 1)
    assert found.friedman.chi_squared == pytest.approx(20)
    assert "not defined, all blocks agree" in str(found)


def test_failures_are_left_out_or_last():
    scores = made_results(n_sets=8, failed=(("set_0", "good"), *((f"set_{i}", "poor") for i in range(5))))
    found = sp.benchmark.compare(scores, "mse")
    assert list(found.values.columns) == ["good", "middle"]
    assert found.left_out == {"poor": "a value in 3 of 8 data sets", "set_0": "no value of 'good'"}
    last = found.sensitivity.loc["all data sets and methods, failures last"]
    assert (last["n_blocks"], last["n_methods"]) == (8, 3)
    values = data_set_means(scores, Choice("mse")).values.fillna(np.inf)
    expected = posthocs.posthoc_nemenyi_friedman(stats.rankdata(values, axis=1))
    assert last["nemenyi"] == (expected.to_numpy()[np.triu_indices(3, 1)] < 0.05).sum()
    assert np.isnan(last["wilcoxon_holm"])


def test_few_blocks_have_no_interval_and_say_so():
    found = sp.benchmark.compare(made_results(n_sets=4), "mse")
    assert np.isfinite(found.pairs["lower"]).all()
    assert found.pairs["hl_lower"].isna().all()
    assert set(found.pairs["note"]) == {"fewer than six blocks"}
    with pytest.raises(ValueError, match=r"3 methods and 2 blocks.*at least 2 and 3"):
        sp.benchmark.compare(made_results(n_sets=2), "mse")
    with pytest.raises(ValueError, match=r"1 methods.*models="):
        sp.benchmark.compare(made_results(), "mse", models=["good"])
    with pytest.raises(ValueError, match="blocks='slide'"):
        sp.benchmark.compare(made_results(), "mse", blocks="slide")


def test_validation_and_test_sets_are_compared_apart():
    scores = made_results(n_sets=9)
    scores["role"] = np.where(scores["dataset"].isin(["set_0", "set_1", "set_2"]), "val", "test")
    counts = sp.benchmark.compare(scores, "mse").sensitivity["n_blocks"]
    assert counts["data sets with a test split"] == 6
    assert counts["data sets without a test split"] == 3
    completed = sp.benchmark.compare(scores.assign(role=""), "mse").sensitivity.index
    assert not any("test split" in name for name in completed)
