"""Manifests are read with all defaults, and an error names its place in the file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from helpers.benchmark import SMALL, write_manifest
from spared_sc.benchmark._manifest import PATCHES, Target, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

SET = {"name": "toy", "synthetic": {"n_libraries": 3}}


def test_defaults(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, {"datasets": ["VLO"], "models": ["gene_mean"]}))
    assert (manifest.name, manifest.threads, manifest.memory, manifest.device) == ("small", 1, None, "cpu")
    assert manifest.protocols == ("expression", "spared")
    (dataset,) = manifest.datasets
    assert (dataset.catalogue, dataset.path, dataset.source, dataset.organism) == ("VLO", None, "villacampa", "human")
    assert dataset.recipe == sp.datasets.catalogue()["recipe"]["VLO"]
    (model,) = manifest.models
    assert model.targets == (Target(target="expression", loss="mse", layer="log2tpm"),)
    assert (model.seeds, model.datasets, model.features) == ((0,), ("VLO",), ((),))
    assert manifest.methods == ()


def test_parameters_hold_their_defaults(tmp_path):
    """So that another default of the package is another cell."""
    manifest = read_manifest(write_manifest(tmp_path, models=[{"model": "ridge", "params": {"n_components": 8}}]))
    params = manifest.models[0].params
    assert params["n_components"] == 8
    assert params["standardize"] == "train"


def test_models_read_each_of_the_features(tmp_path):
    features = {"small": {"encoder": "classical", "size": 1}, "all": "classical"}
    models = ["ridge", {"model": "knn", "features": [["small", "all"]]}, "histogene", "stnet", "gene_mean"]
    manifest = read_manifest(write_manifest(tmp_path, features=features, models=models, patches={"size": 3}))
    assert [model.features for model in manifest.models] == [
        (("small",), ("all",)),
        (("small", "all"),),
        (("small",), ("all",)),
        ((PATCHES,),),
        ((),),
    ]


def test_steps_are_the_budget_of_networks(tmp_path):
    models = ["ridge", "head", {"model": "head", "label": "long", "steps": 7}]
    manifest = read_manifest(write_manifest(tmp_path, models=models, steps=5))
    assert [model.params.get("n_steps") for model in manifest.models] == [None, 5, 7]


def test_targets_and_losses_are_crossed(tmp_path):
    targets = [{"target": "log2tpm", "loss": ["detected", "all"]}, "expression"]
    manifest = read_manifest(write_manifest(tmp_path, targets=targets))
    found = [(one.target, one.loss) for one in manifest.models[0].targets]
    assert found == [("log2tpm", "detected"), ("log2tpm", "all"), ("expression", "mse")]


def test_methods_have_masks_and_regimes_of_their_own(tmp_path):
    methods = ["median", {"method": "paper", "masks": 3, "regimes": "released"}]
    manifest = read_manifest(write_manifest(tmp_path, completion={"methods": methods, "masks": 2}))
    assert [(len(one.seeds), one.regimes) for one in manifest.methods] == [(2, ("detected",)), (3, ("released",))]


def test_a_number_with_an_exponent_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-3 as text."""
    path = tmp_path / "small.yaml"
    path.write_text(
        "datasets: [VLO]\nfeatures: {c: classical}\nmodels: [{model: head, params: {learning_rate: 1e-3}}]\nmemory: 2 GiB\n"
    )
    manifest = read_manifest(path)
    assert manifest.models[0].params["learning_rate"] == 0.001
    assert manifest.memory == 2 * 2**30


def test_paths_are_relative_to_the_manifest(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, datasets=[{"name": "mine", "path": "data/mine.h5ad"}]))
    assert manifest.datasets[0].path == tmp_path / "data" / "mine.h5ad"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"datasets": None}, "the manifest: 'datasets' is missing"),
        ({"datasets": []}, "datasets: the list is empty"),
        ({"datasets": ["VLOO"]}, "datasets[0]: "),
        ({"modls": ["ridge"]}, "there is no 'modls' here: did you mean 'models'"),
        ({"models": ["rigde"]}, "models[0].model: there is no predictor 'rigde': did you mean 'ridge'"),
        (
            {"models": [{"model": "ridge", "params": {"n_component": 3}}]},
            "models[0].params: 'ridge' has no parameter 'n_component': did you mean 'n_components'",
        ),
        ({"models": [{"model": "ridge", "params": {"n_components": 0}}]}, "models[0].params: n_components=0"),
        ({"models": ["ridge", "ridge"]}, "models: 'ridge' occurs twice"),
        ({"models": [{"model": "ridge", "steps": 3}]}, "models[0]: 'ridge' is not fitted in steps"),
        ({"models": [{"model": "ridge", "datasets": ["toi"]}]}, "there is no data set 'toi': did you mean 'toy'"),
        ({"models": [{"model": "gene_mean", "features": "classical"}]}, "'gene_mean' reads no image"),
        ({"models": [{"model": "stnet", "features": "classical"}]}, "models[0].features: there is no input of 'stnet'"),
        ({"models": ["ridge"], "features": None}, "'ridge' reads an embedding: describe one under 'features'"),
        ({"targets": [{"target": "expression", "loss": "all"}]}, "targets[0].loss: there is no loss of 'expression'"),
        ({"targets": ["log2tpm", "log2tpm"]}, "targets: a target and loss occur twice"),
        ({"protocols": ["hes"]}, "protocols[0]: there is no protocol 'hes': did you mean 'hest'"),
        ({"threads": 0}, "threads: found 0, expected a whole number from 1"),
        ({"threads": True}, "threads: found True"),
        ({"seeds": [1, 1]}, "seeds: 1 occurs twice"),
        ({"memory": "much"}, "memory: found 'much', expected a size such as '8 GiB'"),
        (
            {"completion": {"methods": ["medain"]}},
            "completion.methods[0].method: there is no completion method 'medain'",
        ),
        ({"completion": {"methods": ["median"], "shares": [1.5]}}, "completion.shares[0]: found 1.5"),
        (
            {"completion": {"methods": ["median"], "regimes": ["spot"]}},
            "completion.regimes[0]: there is no regime 'spot'",
        ),
        ({"models": None, "completion": None}, "there is nothing to run"),
        ({"datasets": [{**SET, "path": "a.h5ad"}]}, "datasets[0]: 'path', 'synthetic' and 'catalogue' exclude"),
        ({"datasets": [SET, SET]}, "datasets: 'toy' occurs twice"),
        ({"datasets": [{**SET, "split": {"a": "trian"}}]}, "datasets[0].split.a: there is no part of a split 'trian'"),
        ({"datasets": [{**SET, "genes": 4, "recipe": False}]}, "datasets[0].genes: a number of genes needs a recipe"),
        ({"features": {"a+b": "classical"}}, "features.a+b: features cannot be called 'a+b'"),
        ({"features": {"a": {"encoder": "clasical"}}}, "features.a.encoder: there is no encoder 'clasical'"),
        ({"statistics": [1]}, "statistics: found [1], expected a table"),
    ],
)
def test_errors_name_their_place(changes, error, tmp_path):
    with pytest.raises(ValueError, match=re.escape(error)) as raised:
        read_manifest(write_manifest(tmp_path, **changes))
    assert str(raised.value).startswith("small.yaml: ")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("datasets: [VLO]\ndatasets: [VKO]\n", "the key 'datasets' occurs twice"),
        ("datasets: [VLO\n", "no YAML that can be read"),
        ("!!python/object/apply:os.system [ls]\n", "no YAML that can be read"),
        ("- 1\n", "expected a table of names and values"),
        ("", "expected a table of names and values"),
    ],
)
def test_files_that_are_no_manifest(text, error, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(error)):
        read_manifest(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_manifest(tmp_path / "no.yaml")


def test_the_small_manifest_is_read(tmp_path):
    assert len(read_manifest(write_manifest(tmp_path)).models) == len(SMALL["models"])
