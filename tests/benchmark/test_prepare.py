"""Data sets as cells read them: from files, folders and generators, with sections, splits and genes chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark import write_manifest
from spared_sc.benchmark._cells import make_plan
from spared_sc.benchmark._manifest import read_manifest
from spared_sc.benchmark._prepare import about, attach, content_of, prepare_data, prepare_features


@pytest.fixture
def adata(collection):
    return collection(n_libraries=3, shape=(6, 6), n_genes=40)


def jobs(folder, dataset):
    """The jobs that prepare a data set and its features."""
    plan = make_plan(read_manifest(write_manifest(folder, datasets=[{"name": "toy", **dataset}])), content_of)
    return {job.kind: job for job in plan.prepare.values()}


def prepared(folder, dataset):
    return prepare_data(jobs(folder, dataset)["data"])


def test_a_file_goes_through_the_recipe(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = prepared(tmp_path, {"path": "a.h5ad", "genes": 6, "recipe": {"gene_lengths": None}})
    expected = adata.copy()
    sp.pp.recipe_spared(expected, library_key="library_id", n_genes=6, gene_lengths=None)
    np.testing.assert_array_equal(found.var["spared_selected"], expected.var["spared_selected"])
    assert (found.layers["log2tpm"] != expected.layers["log2tpm"]).nnz == 0
    said = about(found)
    assert (said["n_spots"], said["n_libraries"]) == (found.n_obs, 3)
    assert said["keys"] == {"library_key": "library_id", "subject_key": None, "split_key": None}


def test_sections_split_and_genes_are_chosen(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    genes = sorted(adata.var_names[:5])
    split = {"library_1": "train", "library_3": "test"}
    found = prepared(
        tmp_path, {"path": "a.h5ad", "sections": ["library_3", "library_1"], "split": split, "genes": genes}
    )
    assert sorted(found.obs["library_id"].unique()) == ["library_1", "library_3"]
    assert found.obs.groupby("library_id", observed=True)["split"].first().to_dict() == split
    assert sorted(found.var_names[found.var["spared_selected"]]) == genes
    assert about(found)["keys"]["split_key"] == "split"


def test_the_same_content_has_the_same_hash(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    one, again = (about(prepared(tmp_path, {"path": "a.h5ad"}))["dataset_hash"] for _ in range(2))
    assert one == again
    adata.X.data[7] += 1
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert about(prepared(tmp_path, {"path": "a.h5ad"}))["dataset_hash"] != one


def test_a_set_of_the_catalogue_is_loaded_by_its_name(adata, tmp_path, monkeypatch):
    """With its own recipe, but for what the manifest says."""
    asked = []
    monkeypatch.setattr(sp.datasets, "load", lambda name, **options: asked.append((name, options)) or adata.copy())
    few = {"real_data_share": 0.1, "spot_counts": [1, 1000000], "gene_lengths": None}
    manifest = {"catalogue": "VLO", "sections": ["V19D02-088_A1"], "images": None, "genes": 5, "recipe": few}
    found = prepared(tmp_path, manifest)
    options = {"sections": ["V19D02-088_A1"], "images": None, "library_key": "library_id"}
    assert asked == [("VLO", options)]
    params = found.uns["spared_sc"]["spared_filter"]["params"]
    assert params["real_data_share"] == 0.1
    assert list(params["gene_counts"]) == sp.datasets.catalogue()["recipe"]["VLO"]["gene_counts"]
    assert found.var["spared_selected"].sum() == 5


@pytest.mark.parametrize(
    ("dataset", "error"),
    [
        ({"sections": ["librari_1"]}, "no section 'librari_1'.*did you mean 'library_1'"),
        ({"split": {"library_1": "train"}}, "differ in 'library_2', 'library_3'"),
        ({"genes": ["no"]}, "1 genes of the manifest are not there, such as 'no'"),
        ({"subject_key": "donor"}, "no column 'donor'"),
        ({"path": "b.h5ad"}, "nothing at b.h5ad"),
        ({"path": "small.yaml"}, "give an .h5ad, a .zarr or a folder"),
    ],
)
def test_what_is_not_there(dataset, error, adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises((KeyError, ValueError, FileNotFoundError), match=error):
        prepared(tmp_path, {"path": "a.h5ad", **dataset})


def test_features_are_those_of_embed_patches(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    work = jobs(tmp_path, {"path": "a.h5ad"})
    data = prepare_data(work["data"])
    data.write_h5ad(tmp_path / "data.h5ad")
    alone = prepare_features(work["features"], data.copy())
    assert alone.n_vars == 0
    said = attach(data, {"classical": alone})
    assert said == {"encoder": "classical", "encoder_revision": "none"}
    sp.tl.embed_patches(data, encoder="classical", size=1, library_key="library_id", key_added="again")
    np.testing.assert_array_equal(data.obsm["classical"], data.obsm["again"])
    sp.tl.evaluate_completion(  # refuses an embedding that is not recorded as that of an image
        data, methods="sme", regimes="detected", n_masks=1, use_rep="classical", library_key="library_id"
    )


def test_files_are_hashed_once(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / name).write_text(name)
    dataset = read_manifest(write_manifest(tmp_path, datasets=[{"name": "x", "path": "set"}])).datasets[0]
    known = tmp_path / "hashes.json"
    first = content_of(dataset, known)
    assert {Path(path).name for path in json.loads(known.read_text())} == {"a", "b"}
    assert content_of(dataset, known) == first == content_of(dataset)
    entries = {path: {**entry, "sha256": "kept"} for path, entry in json.loads(known.read_text()).items()}
    known.write_text(json.dumps(entries))
    assert content_of(dataset, known) != first  # the known hashes were taken, nothing was read
    known.unlink()
    (folder / "a").write_text("c")
    assert content_of(dataset, known) != first
    (folder / "a").write_text("a")
    assert content_of(dataset, known) == first
