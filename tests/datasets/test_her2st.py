"""datasets.her2st."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.repositories import picture, play, st_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helpers.server import Server


@pytest.fixture
def sources(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The collection on a server, which knows the checksums of the patients A to D, and an empty cache."""
    play(server, monkeypatch, "HER2ST")
    with sp.settings.override(data_dir=None, cache_dir=tmp_path / "cache"):
        yield server


def test_her2st_is_downloaded_once(sources: Server, tmp_path: Path):
    adata = sp.datasets.her2st(["E1", "E2"])
    assert adata.shape == (50, 60)
    truth = st_files("E1", "E")["ST-cnts/E1.tsv.gz"]
    expected = pd.read_csv(io.BytesIO(gzip.decompress(truth)), sep="\t", index_col=0)
    np.testing.assert_array_equal(adata[adata.obs["library_id"] == "E1"].X.toarray(), expected[adata.var_names])
    assert adata.obs["label"].tolist()[:25] == ["stroma"] * 5 + ["tumour"] * 20
    assert adata.obs["label"].isna().sum() == 25
    assert set(adata.obs["subject"]) == {"E"}
    assert "split" not in adata.obs
    n_asked = len(sources.asked)
    assert n_asked == 5
    sources.files.clear()  # offline from here on
    again = sp.datasets.her2st("E1")
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"][:25])
    outer = sp.datasets.her2st(["E1", "E2"], join="outer", labels=False)
    assert outer.var_names.tolist() == [*adata.var_names, "onlyE1", "onlyE2"]
    assert "label" not in outer.obs
    assert len(sources.asked) == n_asked
    folder = tmp_path / "cache" / "her2st"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "SHA256SUMS",
        "ST-cnts/E1.tsv.gz",
        "ST-cnts/E2.tsv.gz",
        "ST-pat/lbl/E1_labeled_coordinates.tsv",
        "ST-spotfiles/E1_selection.tsv",
        "ST-spotfiles/E2_selection.tsv",
    ]


def test_her2st_images_are_found_on_the_server(sources: Server):
    adata = sp.datasets.her2st("E1", images=True)
    slot = adata.uns["spatial"]["E1"]
    assert slot["images"]["hires"].shape == (700, 600, 3)
    assert slot["metadata"]["source_image_path"].endswith("slide 7_E1.jpg")
    sources.files.clear()
    sp.datasets.her2st("E1", images=True)
    with pytest.raises(ConnectionError, match=r"3 files of HER2ST .*image.* of E2.*SPARED_SC_DATA_DIR"):
        sp.datasets.her2st("E2", images=True)


def test_her2st_image_folder_of_the_user(sources: Server, tmp_path: Path):
    for name in ("one.jpg", "._one.jpg", "two.jpg"):
        path = tmp_path / "data" / "her2st" / "data" / "ST-imgs" / "E" / "E1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture("JPEG"))
    with sp.settings.override(data_dir=tmp_path / "data"):
        with pytest.raises(ValueError, match=r"several files that may be the image of section E1 .*one.jpg.*two.jpg"):
            sp.datasets.her2st("E1", images=True)
        path.unlink()
        adata = sp.datasets.her2st("E1", images=True)
    assert adata.uns["spatial"]["E1"]["metadata"]["source_image_path"] == str(path.with_name("one.jpg"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"[]", "lists nothing instead of one file"), (b"<html>", "does not list"), (b'{"message": 1}', "does not list")],
)
def test_her2st_server_without_an_image(sources: Server, answer: bytes, reason: str):
    sources.files["/api.github.com/repos/almaan/her2st/contents/data/ST-imgs/E/E1"] = answer
    with pytest.raises(ConnectionError, match=rf"4 files .*{reason}"):
        sp.datasets.her2st("E1", images=True)


@pytest.mark.parametrize("name", ["../../../../../../outside/evil.jpg", "/evil.jpg", "a\\evil.jpg", "a\0.jpg"])
def test_her2st_image_name_that_leads_out_of_the_cache(sources: Server, tmp_path: Path, name: str):
    where = "/api.github.com/repos/almaan/her2st/contents/data/ST-imgs/E/E1"
    sources.files[where] = json.dumps([{"name": name}]).encode()
    with pytest.raises(ValueError, match=r"ST-imgs/E/E1.* names the file .*not a plain file name"):
        sp.datasets.her2st("E1", images=True)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".jpg"]


def test_her2st_offline_names_files_and_folder(sources: Server, tmp_path: Path):
    sources.files.clear()
    with pytest.raises(ConnectionError) as caught:
        sp.datasets.her2st("E")
    for part in ("counts, labels, spots of E1", "of E3", str(tmp_path), "SPARED_SC_DATA_DIR", "7 files", "github.com"):
        assert part in str(caught.value)


def test_her2st_with_the_wrong_content(sources: Server, tmp_path: Path):
    base = "/raw.githubusercontent.com/almaan/her2st/9f2260c6aa8347996955d53f0a5f06ac14c93470/data/ST-cnts"
    sources.files[f"{base}/A2.tsv.gz"] = b"<html>log in</html>"
    with pytest.raises(ConnectionError, match=r"A2.tsv.gz is not the expected file"):
        sp.datasets.her2st("A2")
    sources.files[f"{base}/E2.tsv.gz"] = b"<html>log in</html>"  # no hash
    with pytest.raises(ConnectionError, match=r"E2.tsv.gz could not be downloaded: it is a web page"):
        sp.datasets.her2st("E2")
    # Put there by somebody else.
    for name in ("A2", "E2"):
        path = tmp_path / "cache" / "her2st" / "ST-cnts" / f"{name}.tsv.gz"
        assert not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"<html>log in</html>")
    with pytest.raises(ValueError, match=r"E2.tsv.gz cannot be read .*download or copy it again"):
        sp.datasets.her2st("E2")


def test_her2st_with_a_cache_that_cannot_be_written(
    sources: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from spared_sc._core import download

    monkeypatch.setattr(download, "_temporary", {})
    (tmp_path / "file").write_bytes(b"x")
    with sp.settings.override(cache_dir=tmp_path / "file" / "cache"):
        assert sp.datasets.her2st("E1").n_obs == 25
        n_asked = len(sources.asked)
        assert sp.datasets.her2st("E1").n_obs == 25  # found again by this process
    assert len(sources.asked) == n_asked
    assert "cannot be written" in caplog.text


# squidpy's docstring machinery warns when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.* is not a valid key:SyntaxWarning")


N_SPOTS = {
    "A": [346, 325, 359, 343, 332, 360],
    "B": [295, 270, 298, 283, 289, 277],
    "C": [176, 187, 180, 184, 181, 178],
    "D": [306, 303, 301, 302, 306, 315],
}


@pytest.fixture(scope="module")
def her2_plus(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ad.AnnData:
    with sp.settings.override(data_dir=data_dir, cache_dir=tmp_path_factory.mktemp("cache")):
        adata = sp.datasets.her2st(list(N_SPOTS))
        assert not list(sp.settings.cache_dir.iterdir())
    return adata


def test_her2st_sections(her2_plus: ad.AnnData, data_dir: Path):
    sizes = her2_plus.obs["library_id"].value_counts(sort=False).to_dict()
    assert sizes == {f"{p}{i}": n for p, counts in N_SPOTS.items() for i, n in enumerate(counts, start=1)}
    assert (her2_plus.obs["subject"].astype(str) == her2_plus.obs["library_id"].astype(str).str[0]).all()
    assert her2_plus.obs_names.is_unique
    assert her2_plus.var_names.is_unique
    listed = (data_dir / "her2st" / "genes_785.txt").read_text().split()
    assert set(listed) <= set(her2_plus.var_names)
    # One section against the table, read in another way.
    table = pd.read_csv(data_dir / "her2st" / "ST-cnts" / "C4.tsv.gz", sep="\t", index_col=0)
    section = her2_plus[her2_plus.obs["library_id"] == "C4"]
    np.testing.assert_array_equal(section.X.toarray(), table[her2_plus.var_names])
    assert section.obs_names.tolist() == [f"{name}_C4" for name in table.index]
    spots = pd.read_csv(data_dir / "her2st" / "ST-spotfiles" / "C4_selection.tsv", sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    np.testing.assert_array_equal(section.obsm["spatial"], spots.loc[table.index, ["pixel_x", "pixel_y"]])


def test_her2st_labels(her2_plus: ad.AnnData, data_dir: Path):
    labels = her2_plus.obs["label"]
    labelled = her2_plus.obs["library_id"][labels.notna()].value_counts()
    assert labelled[labelled > 0].to_dict() == {"A1": 346, "B1": 295, "C1": 176, "D1": 306}
    assert labels.cat.categories.tolist() == [
        "adipose tissue",
        "breast glands",
        "cancer in situ",
        "connective tissue",
        "immune infiltrate",
        "invasive cancer",
        "undetermined",
    ]
    # All labels of the file but those of spots without counts.
    table = pd.read_csv(data_dir / "her2st" / "ST-pat" / "lbl" / "D1_labeled_coordinates.tsv", sep="\t")
    place = table["x"].round().astype(int).astype(str) + "x" + table["y"].round().astype(int).astype(str) + "_D1"
    expected = table["label"].set_axis(place)
    found = labels[her2_plus.obs["library_id"] == "D1"]
    assert found.tolist() == expected[found.index].tolist()
    assert len(expected) == 309


def test_her2st_lattice(her2_plus: ad.AnnData):
    adata = her2_plus.copy()
    sp.pp.lattice_neighbors(adata, library_key="library_id")
    assert adata.uns["spatial_neighbors"]["params"]["kind"] == "grid"
    n_neighbors = np.asarray(adata.obsp["spatial_connectivities"].sum(axis=1)).ravel()
    assert n_neighbors.max() == 8
    assert np.median(n_neighbors) >= 7
    # Neighbours on the array are neighbours in the image: at most a diagonal apart.
    one, other = adata.obsp["spatial_connectivities"].nonzero()
    distance = np.linalg.norm(adata.obsm["spatial"][one] - adata.obsm["spatial"][other], axis=1)
    diameter = {name: slot["scalefactors"]["spot_diameter_fullres"] for name, slot in adata.uns["spatial"].items()}
    pitch = 2 * adata.obs["library_id"].astype(str).map(diameter).to_numpy()[one]
    assert (distance / pitch).max() < 1.9
    assert 0.95 < np.median(distance / pitch) < 1.45


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # squidpy's way with colour maps
def test_her2st_images(data_dir: Path, tmp_path: Path):
    import matplotlib.pyplot as plt
    import squidpy as sq

    with sp.settings.override(data_dir=data_dir, cache_dir=tmp_path):
        adata = sp.datasets.her2st(["C4", "B4"], images=True)
    assert adata.obs["library_id"].cat.categories.tolist() == ["C4", "B4"]
    for name, slot in adata.uns["spatial"].items():
        hires, scale = slot["images"]["hires"], slot["scalefactors"]["tissue_hires_scalef"]
        size = np.array({"C4": (9278, 9916), "B4": (9272, 9923)}[name])
        assert size * scale == pytest.approx(hires.shape[1::-1], abs=1)
        path = data_dir / "her2st" / "ST-imgs" / name[0] / name
        assert slot["metadata"]["source_image_path"].startswith(str(path))
        # Tissue is darker than the glass at the edge of the image.
        at = np.rint(adata.obsm["spatial"][(adata.obs["library_id"] == name).to_numpy()] * scale).astype(int)
        assert hires[at[:, 1], at[:, 0]].mean() < hires[:20].mean() - 10
    path = tmp_path / "x.h5ad"
    adata.write_h5ad(path)
    again = ad.read_h5ad(path)
    pd.testing.assert_frame_equal(adata.obs, again.obs)
    axes = sq.pl.spatial_scatter(again, color="subject", library_key="library_id", return_ax=True)
    assert len(axes) == 2
    plt.close("all")


def test_her2st_choice_of_sections(data_dir: Path, tmp_path: Path):
    with sp.settings.override(data_dir=data_dir, cache_dir=tmp_path):
        one = sp.datasets.her2st("C2", labels=False)
        assert one.shape == (187, 15706)
        assert "label" not in one.obs
        two = sp.datasets.her2st(["C2", "C1", "C2"], library_key="slide")
        assert two.obs["slide"].cat.categories.tolist() == ["C2", "C1"]
        outer = sp.datasets.her2st(["C2", "C1"], join="outer")
        assert outer.n_vars > 15706 > two.n_vars
        assert outer.X.sum() > two.X.sum()
        assert (outer[:187, one.var_names].X != one.X).nnz == 0
        for wrong in ("E4", "I", "a1", ""):
            with pytest.raises(ValueError, match=rf"no section '{wrong}' in HER2ST: choose from 'A1', 'A2'"):
                sp.datasets.her2st(wrong)
        with pytest.raises(ValueError, match="no section of HER2ST was given"):
            sp.datasets.her2st([])
        with pytest.raises(ValueError, match="join='left' is unknown"):
            sp.datasets.her2st("A1", join="left")
        with pytest.raises(ValueError, match="library_key='subject'"):
            sp.datasets.her2st("A1", library_key="subject")


def test_her2st_in_a_clone_of_the_repository(data_dir: Path, tmp_path: Path):
    for relative in ("ST-cnts/C2.tsv.gz", "ST-spotfiles/C2_selection.tsv"):
        path = tmp_path / "her2st" / "data" / relative
        path.parent.mkdir(parents=True)
        path.write_bytes((data_dir / "her2st" / relative).read_bytes())
    with sp.settings.override(data_dir=tmp_path, cache_dir=tmp_path / "cache"):
        assert sp.datasets.her2st("C2").n_obs == 187
        path.write_bytes(path.read_bytes() + b"\n")
        with pytest.raises(ValueError, match=r"C2_selection.tsv is not the file of HER2ST: its checksum is not"):
            sp.datasets.her2st("C2")


def test_checksums_are_those_of_the_files(data_dir: Path):
    import hashlib

    from spared_sc.datasets._catalogue import entry_of

    known = entry_of("HER2ST").sha256
    assert len(known) == 24 + 24 + 4 + 5
    for relative, digest in known.items():
        assert hashlib.sha256((data_dir / "her2st" / relative).read_bytes()).hexdigest() == digest
