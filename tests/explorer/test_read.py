"""Files that are shown on one page."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY, dense
from spared_sc._explorer.read import read_files


@pytest.fixture
def parts(collection):
    """Two sections as two objects, with different genes selected."""
    adata = collection(n_libraries=2, shape=(6, 6), n_genes=30, recipe={"n_genes": 10})
    sections = [adata[adata.obs["library_id"] == name].copy() for name in ("library_1", "library_2")]
    for section, name in zip(sections, ("library_1", "library_2"), strict=True):
        section.uns["spatial"] = {name: section.uns["spatial"][name]}
    sections[1].var["spared_selected"] = np.arange(30) < 5
    return sections


def written(parts, folder, **names):
    paths = []
    for part, name in zip(parts, names.get("names", ("a", "b")), strict=True):
        part.write_h5ad(folder / f"{name}.h5ad")
        paths.append(folder / f"{name}.h5ad")
    return paths


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_one_file_is_shown_as_it_is(parts, tmp_path):
    (path, _) = written(parts, tmp_path)
    read, key = read_files([path], None)
    assert key == "library_id"
    assert read.var["spared_selected"].tolist() == parts[0].var["spared_selected"].tolist()
    parts[0].write_zarr(tmp_path / "a.zarr")
    assert read_files([tmp_path / "a.zarr"], None)[0].shape == parts[0].shape


def test_sections_of_several_files_stand_side_by_side(parts, tmp_path):
    parts[1] = parts[1][:, 3:].copy()
    joined, key = read_files(written(parts, tmp_path), None)
    assert joined.obs[key].value_counts().to_dict() == {"library_1": 36, "library_2": 36}
    assert set(joined.uns["spatial"]) == {"library_1", "library_2"}
    genes = parts[0].var_names[3:]
    assert joined.var_names.tolist() == genes.tolist()
    for i, part in enumerate(parts):
        rows = joined.obs[key] == f"library_{i + 1}"
        np.testing.assert_array_equal(dense(joined[rows].layers["log2tpm"]), dense(part[:, genes].layers["log2tpm"]))
    either = set(genes[parts[0].var["spared_selected"][3:]]) | set(parts[0].var_names[3:5])
    either |= set(parts[1].var_names[parts[1].var["spared_selected"]])
    assert set(joined.var_names[joined.var["spared_selected"]]) == either


def test_sections_of_one_name_are_told_apart_by_their_files(parts, tmp_path):
    joined, key = read_files(written([parts[0], parts[0]], tmp_path), None)
    assert sorted(joined.obs[key].unique()) == ["library_1 (a)", "library_1 (b)"]
    assert set(joined.uns["spatial"]) == {"library_1 (a)", "library_1 (b)"}
    assert joined.obs_names.is_unique
    page = pytest.importorskip("bokeh") and sp.explore(joined, tmp_path / "site", open_browser=False, **KEY)
    assert len(list(page.folder.glob("data/image-*.js"))) == 2


def test_a_file_without_sections_is_one_of_its_own_name(parts, tmp_path):
    for part in parts:
        del part.obs["library_id"], part.uns["spatial"]
    joined, key = read_files(written(parts, tmp_path), None)
    assert sorted(joined.obs[key].unique()) == ["a", "b"]


def test_what_cannot_be_joined_or_read_is_refused(parts, tmp_path):
    parts[1].var_names = [f"other {i}" for i in range(30)]
    with pytest.raises(ValueError, match="'a', 'b' have no gene in common"):
        read_files(written(parts, tmp_path), None)
    with pytest.raises(ValueError, match=r"ends in \.h5ad or \.zarr"):
        read_files([tmp_path / "a.csv"], None)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_files([tmp_path / "c.h5ad"], None)
