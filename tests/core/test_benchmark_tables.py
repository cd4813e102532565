"""One value per data set and method, from rows of seeds, libraries and donors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers.benchmark_tables import cell, joined, made_results, score
from spared_sc._core.benchmark_tables import Choice, data_set_means


def results_of(*rows: tuple[str, str, int, str, str, float], metric: str = "mse") -> pd.DataFrame:
    """Rows (data set, method, seed, library, subject, value)."""
    cells = {
        f"{row[0]}-{row[1]}-{row[2]}": cell(
            f"{row[0]}-{row[1]}-{row[2]}", dataset=row[0], label=row[1], seed=row[2], task="prediction"
        )
        for row in rows
    }
    scores = [
        score(f"{name}-{method}-{seed}", value, library=library, subject=subject, metric=metric)
        for name, method, seed, library, subject, value in rows
    ]
    return joined(pd.DataFrame(cells.values()), pd.DataFrame(scores))


def test_seeds_then_libraries_then_donors():
    scores = results_of(
        ("set", "m", 0, "a1", "a", 1.0),
        ("set", "m", 1, "a1", "a", 3.0),  # a1: 2
        ("set", "m", 0, "a2", "a", 4.0),  # donor a: (2 + 4) / 2 = 3
        ("set", "m", 0, "b", "b", 7.0),  # (3 + 7) / 2 = 5; the plain mean of the rows is 3.75
    )
    means = data_set_means(scores, Choice("mse"))
    assert means.values.loc["set", "m"] == 5
    assert means.facts.loc["set", ["n_libraries", "n_subjects"]].tolist() == [3, 2]
    assert not means.higher_is_better


def test_a_method_without_a_library_of_the_others_has_no_value():
    scores = results_of(
        ("set", "m", 0, "a", "a", 1.0), ("set", "m", 0, "b", "b", 2.0), ("set", "k", 0, "a", "a", 1.0)
    )  # fmt: skip
    means = data_set_means(scores, Choice("mse"))
    assert means.values.loc["set"].isna().to_dict() == {"m": False, "k": True}
    assert "fewer libraries" in means.why["set", "k"]
    undefined = scores.assign(value=scores["value"].where(scores["library"] == "a"))  # of no method: it does not count
    assert data_set_means(undefined, Choice("mse")).values.loc["set"].tolist() == [1, 1]


def test_limits_genes_and_other_metrics_are_left_out():
    scores = made_results()
    further = pd.concat([
        scores,
        scores.assign(limit="ceiling", value=99.0),
        scores.assign(gene="ACTB", value=99.0),
        scores.assign(library="all", value=99.0),
    ])  # fmt: skip
    expected = data_set_means(scores, Choice("mse")).values
    pd.testing.assert_frame_equal(data_set_means(further, Choice("mse")).values, expected)
    together = scores[scores["library"] == "b"].assign(library="all", metric="pcc_pooled", higher_is_better=True)
    means = data_set_means(pd.concat([scores, together]), Choice("pcc_pooled"))
    assert means.values.notna().all(axis=None)


def test_failures_have_no_value_and_a_reason():
    scores = made_results(failed=(("set_1", "poor"),))
    means = data_set_means(scores, Choice("mse"))
    assert means.values.isna().sum().to_dict() == {"good": 0, "middle": 0, "poor": 1}
    assert means.why == {("set_1", "poor"): "failed"}
    assert means.missing() == "no value, data sets: poor (1 of 6)"
    assert means.best_first == ["good", "middle", "poor"]


def test_a_set_that_no_model_finished_stays_in_the_table():
    means = data_set_means(made_results(failed=tuple(("set_0", m) for m in ("good", "middle", "poor"))), Choice("mse"))
    assert means.values.loc["set_0"].isna().all()
    assert means.facts.loc["set_0", "n_libraries"] == 0


def test_means_of_fewer_seeds_are_named():
    scores = made_results(n_sets=2)
    lost = (scores["dataset"] == "set_0") & (scores["label"] == "good") & (scores["seed"] == 1)
    failed = scores[lost].drop_duplicates("cell").assign(metric="", value=np.nan, gene="", library="", status="killed")
    means = data_set_means(pd.concat([scores[~lost], failed]), Choice("mse"))
    assert np.isfinite(means.values.loc["set_0", "good"])
    assert means.missing() == "means of fewer seeds: good on set_0"


def test_targets_tell_methods_apart_unless_one_is_chosen():
    scores = made_results(targets=("expression", "log2tpm"))
    both = data_set_means(scores, Choice("pcc"))
    assert list(both.values.columns[:2]) == ["good (expression)", "good (log2tpm)"]
    one = data_set_means(scores, Choice("pcc", target="log2tpm"))
    assert list(one.values.columns) == ["good", "middle", "poor"]
    np.testing.assert_allclose(one.values["good"], both.values["good (log2tpm)"])


def test_direction_and_best():
    means = data_set_means(made_results(), Choice("pcc"))
    assert means.higher_is_better
    assert means.best_first == ["good", "middle", "poor"]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"metric": "msee"}, ["no metric 'msee'", "'mse'", "metric="]),
        ({}, {"metric": "mse", "target": "rates"}, ["no target 'rates'", "'expression'", "target="]),
        ({}, {"metric": "mse", "models": ["best"]}, ["no model 'best'", "'good'", "models="]),
        ({}, {"metric": "mse", "published": True}, ["no published scores"]),
        ({"status": "published"}, {"metric": "mse"}, ["published scores only", "published=True"]),
        ({"higher_is_better": None}, {"metric": "mse"}, ["no direction"]),
    ],
)
def test_refusals_name_the_remedy(change, options, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words follow
        data_set_means(made_results().assign(**change), Choice(**options))
    assert all(word in str(error.value) for word in words), error.value


def test_what_must_not_be_mixed_is_asked_for():
    scores = made_results()
    two = pd.concat([scores, scores.assign(protocol="hest")])
    with pytest.raises(ValueError, match=r"several values of 'protocol'.*'hest'.*protocol="):
        data_set_means(two, Choice("mse"))
    pd.testing.assert_frame_equal(
        data_set_means(two, Choice("mse", protocol="hest")).values, data_set_means(scores, Choice("mse")).values
    )
    hidden = pd.concat([scores.assign(share=share, regime="detected", task="completion") for share in (0.3, 0.5)])
    with pytest.raises(ValueError, match=r"several values of 'share'.*share="):
        data_set_means(hidden, Choice("mse"))
    assert data_set_means(hidden, Choice("mse", share=0.1 + 0.2)).values.notna().all(axis=None)
    with pytest.raises(KeyError, match=r"no column 'label'.*sp.benchmark.results"):
        data_set_means(scores.drop(columns="label"), Choice("mse"))
