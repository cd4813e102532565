"""get.compare_completions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import spared_sc as sp
from helpers.evaluation import QUICK, SECTIONS, fill


@pytest.fixture
def ready(collection):
    """Two libraries after the recipe, with 12 of the genes to complete."""
    return collection(**SECTIONS)


def table(values: dict[str, dict[str, tuple]], subjects: dict[str, str] | None = None, **columns) -> pd.DataFrame:
    """Rows from {method: {library: values of the masks}}."""
    rows = [
        (mask, method, library, (subjects or {}).get(library, library), value)
        for method, by_library in values.items()
        for library, masks in by_library.items()
        for mask, value in enumerate(masks)
    ]
    columns = {"regime": "detected", "share": 0.3, "genes": "all", "metric": "mse", **columns}
    return pd.DataFrame(rows, columns=["mask", "method", "library", "subject", "value"]).assign(**columns)


def check_interval(row: pd.Series, name: str, of_units, back=np.array) -> None:
    """Compare with the paired t interval of scipy."""
    interval = stats.ttest_1samp(of_units, 0).confidence_interval(0.95)
    expected = back([np.mean(of_units), interval.low, interval.high])
    assert row[[name, f"{name}_lower", f"{name}_upper"]].tolist() == pytest.approx(expected.tolist()), name


def test_compare_completions_by_hand():
    scores = table(
        {
            "counts": {"a": (0.4, 0.6), "b": (0.9, 0.9, 0.9), "c": (0.7,)},  # 0.5, 0.9, 0.7: masks first
            "kernel": {"a": (0.7, 0.7), "b": (1.0, 1.0, 1.0), "c": (1.0,)},  # 0.9, the best
            "mean": {"a": (0.5, 0.5), "b": (1.6, 1.6, 1.6), "c": (1.0,)},  # best in one library only
            "factor": {"a": (0.1, 0.1), "b": (0.1, 0.1, 0.1), "c": (0.1,)},  # a model, no baseline
            "floor_low": {"a": (0.3, 0.3), "b": (0.4, 0.4, 0.4), "c": (0.2,)},
            "floor_high": {"a": (0.5, 0.5), "b": (0.6, 0.6, 0.6), "c": (0.8,)},
        }
    )
    sparse = scores.assign(genes="sparse", value=9.0)
    mae = scores.assign(metric="mae", value=9.0)
    pooled = scores.assign(library="all", value=9.0)
    found = sp.get.compare_completions(pd.concat([sparse, scores, mae, pooled]))
    assert len(found) == 1
    row = found.iloc[0]
    assert (row["method"], row["baseline"]) == ("counts", "kernel")
    assert (row["n_libraries"], row["n_units"], row["unit"], row["note"]) == (3, 3, "library", "")
    assert row["method_value"] == pytest.approx(0.7)
    assert row["baseline_value"] == pytest.approx(0.9)
    expected = {
        "difference": [-0.2, -0.1, -0.3],
        "excess_removed_floor_low": [0.2 / 0.4, 0.1 / 0.6, 0.3 / 0.8],
        "excess_removed_floor_high": [0.2 / 0.2, 0.1 / 0.4, 0.3 / 0.2],
    }
    for name, values in expected.items():
        check_interval(row, name, values)
    check_interval(row, "ratio", np.log([0.5 / 0.7, 0.9, 0.7]), np.exp)
    named = sp.get.compare_completions(scores, method="kernel", baselines=["factor", "mean"])
    assert named["baseline"].tolist() == ["factor"]


def test_more_is_better_for_correlations():
    scores = table({"counts": {"a": (0.6,)}, "kernel": {"a": (0.5,)}, "mean": {"a": (0.1,)}}, metric="pcc")
    row = sp.get.compare_completions(scores, metric="pcc").iloc[0]
    assert row["baseline"] == "kernel"
    assert row["ratio"] == pytest.approx(1.2)
    assert np.isnan(row["excess_removed_floor_low"])


def test_one_library_has_no_interval():
    scores = table({"counts": {"a": (0.6, 0.8)}, "kernel": {"a": (1.0, 1.0)}})
    row = sp.get.compare_completions(scores).iloc[0]
    assert (row["n_units"], row["unit"], row["note"]) == (1, "library", "fewer than 3 libraries")
    assert row["ratio"] == pytest.approx(0.7)
    assert row[["ratio_lower", "ratio_upper", "difference_lower", "difference_upper"]].isna().all()


def test_donors_are_the_units():
    values = {"a": (0.5,), "b": (0.7,), "c": (0.9,), "d": (0.8,), "e": (0.4,)}
    scores = {"counts": values, "kernel": dict.fromkeys(values, (1.0,))}
    row = sp.get.compare_completions(table(scores, dict(zip("abcde", "xxyyz", strict=True)))).iloc[0]
    assert (row["n_libraries"], row["n_units"], row["unit"], row["note"]) == (5, 3, "subject", "")
    check_interval(row, "difference", [-0.4, -0.15, -0.6])
    check_interval(row, "ratio", np.log([0.6, 0.85, 0.4]), np.exp)
    row = sp.get.compare_completions(table(scores, dict(zip("abcde", "xxyyx", strict=True)))).iloc[0]
    assert (row["n_libraries"], row["n_units"], row["note"]) == (5, 2, "fewer than 3 subjects")
    assert row[["ratio_lower", "ratio_upper"]].isna().all()
    row = sp.get.compare_completions(table(scores)).iloc[0]
    assert (row["n_units"], row["unit"]) == (5, "library")


def test_all_sets_together():
    one = table({"counts": {"a": (0.8,), "b": (0.8,)}, "kernel": {"a": (1.0,), "b": (1.0,)}}, set="one")
    two = table({"counts": {"a": (20.0,)}, "ridge": {"a": (100.0,)}}, set="two")
    three = table({"counts": dict.fromkeys("abcd", (0.5,)), "ridge": dict.fromkeys("abcd", (1.0,))}, set="three")
    found = sp.get.compare_completions(pd.concat([one, two, three]))
    assert found["set"].tolist() == ["one", "three", "two", "all"]
    assert found["baseline"].tolist() == ["kernel", "ridge", "ridge", "best of each set"]
    assert found["n_libraries"].tolist() == [2, 4, 1, 7]
    assert found["n_units"].tolist() == [2, 4, 1, 3]
    assert found["unit"].tolist() == ["library"] * 3 + ["set"]
    assert found["note"].tolist() == ["fewer than 3 libraries", "", "fewer than 3 libraries", ""]
    np.testing.assert_allclose(found["ratio"][:3], [0.8, 0.5, 0.2])
    check_interval(found.iloc[3], "ratio", np.log([0.8, 0.5, 0.2]), np.exp)
    check_interval(found.iloc[3], "difference", [-0.2, -0.5, -80])
    assert sp.get.compare_completions(one)["set"].tolist() == ["one"]
    both = sp.get.compare_completions(pd.concat([one, two])).iloc[-1]
    assert (both["set"], both["n_units"], both["note"]) == ("all", 2, "fewer than 3 sets")
    assert np.isnan(both["ratio_lower"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "paper"}, KeyError, "no scores of 'paper'"),
        ({"baselines": ["ridge"]}, KeyError, "no scores of 'ridge'"),
        ({"baselines": ["counts"]}, ValueError, "no baseline to compare"),
        ({"metric": "coverage_90"}, KeyError, "'coverage_90' cannot be compared.*'mse'"),
        ({"metric": "mae"}, ValueError, "no set and regime has 'mae'"),
    ],
)
def test_arguments_of_the_comparison_are_checked(options, error, message):
    scores = table({"counts": {"a": (0.6,)}, "kernel": {"a": (1.0,)}})
    with pytest.raises(error, match=message):
        sp.get.compare_completions(scores, **options)
    with pytest.raises(KeyError, match="no column 'metric'"):
        sp.get.compare_completions(scores.drop(columns="metric"))


def test_controls_are_no_baselines(ready):
    scores = sp.tl.evaluate_completion(ready, methods=["gene_mean", "kernel"], regimes="thinning_90", **QUICK)
    for metric in ("mse_log", "deviance"):
        assert sp.get.compare_completions(scores, method="kernel", metric=metric)["baseline"].tolist() == ["gene_mean"]
    found = sp.get.compare_completions(scores, method="kernel", baselines="no_denoising", metric="mse_log").loc[0]
    means = scores[(scores["metric"] == "mse_log") & (scores["genes"] == "all")].groupby("method")["value"].mean()
    assert found["baseline_value"] == pytest.approx(means["no_denoising"])
    assert means["perfect_denoising"] == 0


def test_an_evaluation_can_be_compared(ready):
    scores = sp.tl.evaluate_completion(ready, methods=["gene_mean", "kernel", fill], **{**QUICK, "n_masks": 2})
    found = sp.get.compare_completions(scores, method="kernel")
    assert found["regime"].tolist() == ["detected", "released"]
    assert set(found["baseline"]) <= {"gene_mean", "fill"}
    assert (found["ratio"] < 1).all()
    assert (found["excess_removed_floor_low"] < found["excess_removed_floor_high"]).all()
