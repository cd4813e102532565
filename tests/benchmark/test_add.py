"""benchmark.add: predictions of other tools in the tables of a benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.benchmark import write_manifest

KEY = {"library_key": "library_id"}


@pytest.fixture(scope="module")
def truth():
    adata = sp.datasets.synthetic(n_libraries=3, shape=(7, 7), n_genes=50, image=False)
    sp.pp.recipe_spared(adata, n_genes=8, gene_lengths=None, **KEY)
    return adata


def predicted(truth, noise: float = 0.5) -> pd.DataFrame:
    table = truth.to_df("log2tpm").loc[:, truth.var["spared_selected"].to_numpy()]
    return table + np.random.default_rng(0).normal(0, noise, size=table.shape)


def tool_scores(scores: pd.DataFrame, label: str = "tool") -> pd.DataFrame:
    rows = scores[(scores["label"] == label) & (scores["limit"] == "")]
    return rows.sort_values(["library", "metric"], ignore_index=True)


def test_rows_are_those_of_the_score(truth, tmp_path):
    options = {"unit": "log2tpm", **KEY}
    cells = sp.benchmark.add(
        predicted(truth), truth, out=tmp_path, dataset="toy", name="tool", protocols=["expression", "hest"], **options
    )
    assert set(cells["label"]) == {"tool", "gene_mean", "depth_only", "position_only"}
    assert set(cells["status"]) == {"done"}
    scores = sp.benchmark.results(tmp_path)
    for protocol in ("expression", "hest"):
        direct = sp.benchmark.score(predicted(truth), truth, protocol=protocol, **options)
        for label, prediction in (("tool", "predicted_external"), ("depth_only", "depth_only")):
            expected = direct[
                (direct["prediction"] == prediction) & (direct["gene"] == "all") & (direct["library"] != "all")
            ].sort_values(["library", "metric"], ignore_index=True)
            found = tool_scores(scores[scores["protocol"] == protocol], label)
            pd.testing.assert_series_equal(found["value"], expected["value"])
            assert found["metric"].tolist() == expected["metric"].tolist()
    assert set(scores.loc[scores["limit"] != "", "limit"]) == {"ceiling"}
    assert set(scores.loc[scores["protocol"] == "expression", "n"]) == {49}


def test_a_benchmark_keeps_what_was_added_and_the_name_of_a_model_is_taken(truth, tmp_path):
    manifest = write_manifest(tmp_path, models=["gene_mean"], features=None, completion=None)
    run = {"show_progress_bar": False}
    sp.benchmark.run(manifest, tmp_path / "out", **run)
    options = {"out": tmp_path / "out", "dataset": "toy", "unit": "log2tpm", **KEY}
    with pytest.raises(ValueError, match=r"has a model called 'gene_mean' on 'toy'.*name="):
        sp.benchmark.add(predicted(truth), truth, name="gene_mean", **options)
    cells = sp.benchmark.add(predicted(truth), truth, name="tool", **options)
    labels = cells["label"].tolist()
    assert labels.count("gene_mean") == 1  # that of the benchmark
    assert set(cells["source"]) == {"drawn"}
    before = (tmp_path / "out" / "scores.parquet").read_bytes()
    again = sp.benchmark.run(manifest, tmp_path / "out", **run)
    assert sorted(again["label"]) == sorted(labels)
    assert (tmp_path / "out" / "scores.parquet").read_bytes() == before


def test_predictions_that_are_added_again_replace_the_former(truth, tmp_path):
    options = {"out": tmp_path, "dataset": "toy", "name": "tool", "unit": "log2tpm", **KEY}
    sp.benchmark.add(predicted(truth), truth, **options)
    worse = sp.benchmark.results(tmp_path)
    cells = sp.benchmark.add(predicted(truth, 0.1), truth, **options)
    better = sp.benchmark.results(tmp_path)
    assert len(cells) == 4
    assert len(better) == len(worse)
    pcc = [tool_scores(one[one["metric"] == "pcc"])["value"].mean() for one in (worse, better)]
    assert pcc[1] > pcc[0]


def test_bad_input_leaves_the_folder_as_it_was(truth, tmp_path):
    options = {"out": tmp_path / "out", "dataset": "toy", "name": "tool", **KEY}
    with pytest.raises(ValueError, match="predicted genes are among"):
        sp.benchmark.add(predicted(truth).add_prefix("other_"), truth, **options)
    with pytest.raises(ValueError, match=r"protocols=\['mine'\]"):
        sp.benchmark.add(predicted(truth), truth, protocols=["mine"], **options)
    assert not (tmp_path / "out").exists()
