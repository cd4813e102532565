"""get.compare_completions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.evaluation import QUICK, SECTIONS, fill
from spared_sc._kernels.comparison import library_weights


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


def test_compare_completions_by_hand():
    scores = table(
        {
            "counts": {"a": (0.4, 0.6), "b": (0.9, 0.9, 0.9)},  # 0.5 and 0.9: masks first, then libraries
            "kernel": {"a": (0.7, 0.7), "b": (1.0, 1.0, 1.0)},  # 0.85, the best
            "mean": {"a": (0.5, 0.5), "b": (1.6, 1.6, 1.6)},  # best in one library only
            "factor": {"a": (0.1, 0.1), "b": (0.1, 0.1, 0.1)},  # a model, no baseline
            "floor_low": {"a": (0.3, 0.3), "b": (0.4, 0.4, 0.4)},
            "floor_high": {"a": (0.5, 0.5), "b": (0.6, 0.6, 0.6)},
        }
    )
    sparse = scores.assign(genes="sparse", value=9.0)
    mae = scores.assign(metric="mae", value=9.0)
    pooled = scores.assign(library="all", value=9.0)
    found = sp.get.compare_completions(pd.concat([sparse, scores, mae, pooled]))
    assert len(found) == 1
    row = found.iloc[0]
    assert (row["method"], row["baseline"], row["n_libraries"], row["descriptive"]) == ("counts", "kernel", 2, False)
    expected = {
        "method_value": 0.7,
        "baseline_value": 0.85,
        "ratio": 0.7 / 0.85,
        "difference": -0.15,
        "excess_removed_floor_low": 0.15 / 0.5,
        "excess_removed_floor_high": 0.15 / 0.3,
        # resamples are aa, ab, bb with chances 1/4, 1/2, 1/4
        "ratio_lower": 0.5 / 0.7,
        "ratio_upper": 0.9,
        "difference_lower": -0.2,
        "difference_upper": -0.1,
        "excess_removed_floor_low_lower": 0.1 / 0.6,
        "excess_removed_floor_low_upper": 0.5,
        "excess_removed_floor_high_lower": 0.1 / 0.4,
        "excess_removed_floor_high_upper": 1.0,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value), name
    named = sp.get.compare_completions(scores, method="kernel", baselines=["factor", "mean"])
    assert named["baseline"].tolist() == ["factor"]


def test_more_is_better_for_correlations():
    scores = table({"counts": {"a": (0.6,)}, "kernel": {"a": (0.5,)}, "mean": {"a": (0.1,)}}, metric="pcc")
    row = sp.get.compare_completions(scores, metric="pcc").iloc[0]
    assert row["baseline"] == "kernel"
    assert row["ratio"] == pytest.approx(1.2)
    assert np.isnan(row["excess_removed_floor_low"])


def test_one_library_is_descriptive():
    scores = table({"counts": {"a": (0.6, 0.8)}, "kernel": {"a": (1.0, 1.0)}})
    row = sp.get.compare_completions(scores).iloc[0]
    assert row["descriptive"]
    assert row["ratio"] == pytest.approx(0.7)
    assert row[["ratio_lower", "ratio_upper", "difference_lower", "difference_upper"]].isna().all()


def test_the_bootstrap_keeps_subjects():
    rng = np.random.default_rng(0)
    subjects = ["x", "y", "x", "z", "y", "x", "w"]
    weights = library_weights(subjects, 4000, rng) * 7
    for subject, n in (("x", 3), ("y", 2)):
        members = np.array(subjects) == subject
        np.testing.assert_allclose(weights[:, members].sum(axis=1), n)
        assert set(np.unique(weights[:, members].round(9))) == set(range(n + 1))
    alone = np.isin(subjects, ["z", "w"])  # one library each: drawn from one another
    np.testing.assert_allclose(weights[:, alone].sum(axis=1), 2)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)
    # libraries of a subject that agree leave nothing to resample, however much the subjects differ
    values = {"a": (0.5,), "b": (0.5,), "c": (0.9,), "d": (0.9,)}
    scores = {"counts": values, "kernel": dict.fromkeys(values, (1.0,))}
    two_each = dict(zip("abcd", "xxyy", strict=True))
    row = sp.get.compare_completions(table(scores, two_each)).iloc[0]
    assert row["ratio_lower"] == pytest.approx(0.7)
    assert row["ratio_upper"] == pytest.approx(0.7)
    row = sp.get.compare_completions(table(scores)).iloc[0]
    assert row["ratio_lower"] < 0.6
    assert row["ratio_upper"] > 0.8


def test_all_sets_together():
    one = table({"counts": {"a": (0.8,), "b": (0.8,)}, "kernel": {"a": (1.0,), "b": (1.0,)}}, set="one")
    two = table({"counts": {"a": (20.0,)}, "ridge": {"a": (100.0,)}}, set="two")
    found = sp.get.compare_completions(pd.concat([one, two]))
    assert found["set"].tolist() == ["one", "two", "all"]
    assert found["baseline"].tolist() == ["kernel", "ridge", "best of each set"]
    assert found["descriptive"].tolist() == [False, True, False]
    assert found["n_libraries"].tolist() == [2, 1, 3]
    np.testing.assert_allclose(found["ratio"], [0.8, 0.2, 0.4])  # the root of 0.8 x 0.2
    np.testing.assert_allclose(found[["ratio_lower", "ratio_upper"]].iloc[2], 0.4)
    assert sp.get.compare_completions(one)["set"].tolist() == ["one"]
    same = sp.get.compare_completions(pd.concat([one, two]))
    pd.testing.assert_frame_equal(found, same)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "paper"}, KeyError, "no scores of 'paper'"),
        ({"baselines": ["ridge"]}, KeyError, "no scores of 'ridge'"),
        ({"baselines": ["counts"]}, ValueError, "no baseline to compare"),
        ({"metric": "coverage_90"}, KeyError, "'coverage_90' cannot be compared.*'mse'"),
        ({"metric": "mae"}, ValueError, "no set and regime has 'mae'"),
        ({"n_bootstrap": 0}, ValueError, "n_bootstrap=0"),
    ],
)
def test_arguments_of_the_comparison_are_checked(options, error, message):
    scores = table({"counts": {"a": (0.6,)}, "kernel": {"a": (1.0,)}})
    with pytest.raises(error, match=message):
        sp.get.compare_completions(scores, **options)
    with pytest.raises(KeyError, match="no column 'metric'"):
        sp.get.compare_completions(scores.drop(columns="metric"))


def test_an_evaluation_can_be_compared(ready):
    scores = sp.tl.evaluate_completion(ready, methods=["gene_mean", "kernel", fill], **{**QUICK, "n_masks": 2})
    found = sp.get.compare_completions(scores, method="kernel")
    assert found["regime"].tolist() == ["detected", "released"]
    assert set(found["baseline"]) <= {"gene_mean", "fill"}
    assert (found["ratio"] < 1).all()
    assert (found["excess_removed_floor_low"] < found["excess_removed_floor_high"]).all()
