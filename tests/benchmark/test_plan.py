"""A plan names every cell by what decides its result, and says what is done and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark import SMALL, write_manifest


def cells(folder, **changes) -> set[str]:
    return set(sp.benchmark.plan(write_manifest(folder, **changes))["cell"])


def test_one_row_per_cell(tmp_path):
    plan = sp.benchmark.plan(write_manifest(tmp_path, seeds=[0, 1]))
    assert plan["cell"].is_unique
    assert plan["status"].eq("not run").all()
    assert plan.groupby("label").size().to_dict() == {
        "gene_mean": 2 + 1,  # of prediction with two seeds, and of completion
        "head[classical]": 2,
        "median": 1,
        "position_only": 2,
        "ridge[classical]": 2,
    }


def test_a_plan_is_the_same_again(tmp_path):
    assert cells(tmp_path) == cells(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 2},
        {"device": "cuda"},
        {"seeds": [3], "completion": None},
        {"genes_scored": False, "completion": None},
        {"protocols": ["hest"], "completion": None},
        {"targets": [{"target": "log2tpm", "loss": "detected"}], "completion": None},
        {"datasets": [{**SMALL["datasets"][0], "genes": 9}]},
        {"datasets": [{**SMALL["datasets"][0], "synthetic": {"n_libraries": 4}}]},
    ],
)
def test_what_decides_a_result_changes_the_cell(changes, tmp_path):
    assert not cells(tmp_path) & cells(tmp_path, **changes)


def test_features_change_the_cells_that_read_them(tmp_path):
    plan = sp.benchmark.plan(write_manifest(tmp_path))
    other = sp.benchmark.plan(write_manifest(tmp_path, features={"classical": {"encoder": "classical", "size": 2}}))
    reads = plan["label"].str.contains("classical")
    np.testing.assert_array_equal(plan["cell"] != other["cell"], reads)


def test_names_and_sources_decide_nothing(tmp_path):
    named = [{**SMALL["datasets"][0], "name": "other", "source": "elsewhere", "organism": "mouse"}]
    assert cells(tmp_path) == cells(tmp_path, datasets=named, memory="1 GiB", statistics={"block": "source"})


def test_the_content_of_a_file_decides(tmp_path):
    adata = sp.datasets.synthetic(n_libraries=2, shape=(5, 5), n_genes=20, image=False)
    dataset = {"name": "mine", "path": "mine.h5ad"}
    missing = cells(tmp_path, datasets=[dataset])
    adata.write_h5ad(tmp_path / "mine.h5ad")
    first = cells(tmp_path, datasets=[dataset])
    adata.X.data[0] += 1
    adata.write_h5ad(tmp_path / "mine.h5ad")
    assert not first & cells(tmp_path, datasets=[dataset])
    assert not first & missing


def test_the_same_work_twice_is_refused(tmp_path):
    twice = [SMALL["datasets"][0], {**SMALL["datasets"][0], "name": "again"}]
    with pytest.raises(ValueError, match="are the same computation"):
        cells(tmp_path, datasets=twice)


def test_refusals_say_why(tmp_path):
    datasets = [{**SMALL["datasets"][0], "images": None}]
    targets = [{"target": "expression", "loss": ["mse", "nb"]}]
    completion = {"methods": ["sme", "median"], "masks": 1}
    plan = sp.benchmark.plan(write_manifest(tmp_path, datasets=datasets, targets=targets, completion=completion))
    refused = plan[plan["status"] == "refused"].set_index(["label", "loss"])["error"]
    assert "cannot be fitted to counts" in refused["gene_mean", "nb"]
    assert "read without (images: null)" in refused["head[classical]", "nb"]
    assert "needs an embedding" in refused["sme", ""]
    assert ("gene_mean", "mse") not in refused.index
    assert ("median", "") not in refused.index
