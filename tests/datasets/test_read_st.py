"""datasets.read_st."""

from __future__ import annotations

import gzip
import logging
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps
from PIL import Image

import spared_sc as sp

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


# squidpy's docstring machinery warns when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.* is not a valid key:SyntaxWarning")


GENES = ["TP53", "NKX2-1", "AC243756.1", "NA"]


class Files:
    """A section of 4 x 5 places: all have counts and a position, the first two are off the tissue."""

    def __init__(self, folder: Path):
        self.folder = folder
        rng = np.random.default_rng(0)
        x, y = (values.ravel() + 3 for values in np.meshgrid(np.arange(4), np.arange(5), indexing="ij"))
        self.names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
        self.counts = pd.DataFrame(rng.poisson(1.5, (20, 4)), index=self.names, columns=GENES)
        self.spots = pd.DataFrame(
            {
                "x": x,
                "y": y,
                "new_x": x + 0.01,
                "new_y": y - 0.02,
                "pixel_x": 50.0 * x + rng.normal(0, 0.5, 20),
                "pixel_y": 50.0 * y + rng.normal(0, 0.5, 20),
                "selected": [0, 0] + [1] * 18,
            }
        ).iloc[rng.permutation(20)]
        self.pixels = rng.integers(0, 255, (450, 400, 3), dtype=np.uint8)

    @property
    def image(self) -> Path:
        Image.fromarray(self.pixels).save(self.folder / "he.png")
        return self.folder / "he.png"

    def write(self, counts: str = "S1.tsv.gz", spots: str = "S1_selection.tsv") -> tuple[Path, Path]:
        for table, name, index in ((self.counts, counts, True), (self.spots, spots, False)):
            table.to_csv(self.folder / name, sep="," if ".csv" in name else "\t", index=index)
        return self.folder / counts, self.folder / spots

    def check(self, adata: ad.AnnData, names: list[str]) -> None:
        assert adata.obs_names.tolist() == names
        assert adata.var_names.tolist() == GENES
        assert isinstance(adata.X, sps.csr_matrix)
        assert adata.X.dtype == np.float32
        np.testing.assert_array_equal(adata.X.toarray(), self.counts.loc[names])
        place = [tuple(map(int, name.split("x"))) for name in names]
        rows = self.spots.set_index(["x", "y"]).loc[place]
        for column, expected in (
            ("array_col", [x for x, _ in place]),
            ("array_row", [y for _, y in place]),
            ("in_tissue", rows["selected"].tolist()),
        ):
            assert adata.obs[column].dtype == np.int64
            assert adata.obs[column].tolist() == expected
        assert adata.obsm["spatial"].dtype == np.float64
        np.testing.assert_array_equal(adata.obsm["spatial"], rows[["pixel_x", "pixel_y"]])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("counts", ["S1.tsv.gz", "S1.tsv", "S1.csv", "S1.csv.gz", "S1.txt"])
@pytest.mark.parametrize("transposed", [False, True])
def test_count_tables(files: Files, counts: str, transposed: bool, caplog: pytest.LogCaptureFixture):
    paths = files.write(counts)
    if transposed:
        files.counts.T.to_csv(paths[0], sep="," if ".csv" in counts else "\t")
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = sp.datasets.read_st(*paths)
    files.check(adata, files.names[2:])
    assert f"the {'columns' if transposed else 'rows'} of {counts} are spots" in caplog.text
    assert "dropped 2 of 20 spots outside the tissue" in caplog.text
    assert adata.obs["library_id"].cat.categories.tolist() == ["S1"]
    metadata = adata.uns["spatial"]["S1"]["metadata"]
    assert metadata == {"assay": "st", "counts_file": counts, "spots_file": "S1_selection.tsv"}
    assert adata.uns["spared_sc"]["read_st"]["function"] == "datasets.read_st"


def test_tables_as_r_writes_them(files: Files):
    """Quoted, no name for the first column, and an X before names of columns that begin with a digit."""
    paths = files.write("S1.tsv", "spots.csv")
    spots = files.counts.T
    header = "\t".join(f'"X{name}"' for name in spots)
    rows = [f'"{gene}"\t' + "\t".join(map(str, values)) for gene, values in zip(GENES, spots.to_numpy(), strict=True)]
    paths[0].write_text("\r\n".join([header, *rows]) + "\r\n\r\n", encoding="utf-8-sig")
    adata = sp.datasets.read_st(*paths)
    assert adata.obs_names.tolist() == [f"X{name}" for name in files.names[2:]]
    np.testing.assert_array_equal(adata.X.toarray(), files.counts[2:])


def test_places_are_rounded(files: Files):
    rng = np.random.default_rng(1)
    shift = rng.uniform(-0.4, 0.4, (20, 2)).round(3)
    files.spots[["x", "y"]] += rng.uniform(-0.4, 0.4, (20, 2))
    files.counts.index = [
        f"{int(name.split('x')[0]) + a:.3f}x{int(name.split('x')[1]) + b:.3f}"
        for name, (a, b) in zip(files.names, shift, strict=True)
    ]
    adata = sp.datasets.read_st(*files.write())
    assert adata.obs_names.tolist() == files.counts.index[2:].tolist()
    place = [f"{x}x{y}" for x, y in zip(adata.obs["array_col"], adata.obs["array_row"], strict=True)]
    assert place == files.names[2:]


def test_all_spots(files: Files):
    adata = sp.datasets.read_st(*files.write(), in_tissue_only=False, library_key="slide", library_id="S7")
    files.check(adata, files.names)
    assert adata.obs["slide"].tolist() == ["S7"] * 20
    assert list(adata.uns["spatial"]) == ["S7"]


def test_spot_file_without_selected(files: Files):
    files.spots = files.spots.drop(columns=["selected", "new_x", "new_y"])
    adata = sp.datasets.read_st(*files.write())
    assert adata.n_obs == 20
    assert (adata.obs["in_tissue"] == 1).all()


def test_repeated_genes_are_made_unique(files: Files, caplog: pytest.LogCaptureFixture):
    files.counts.columns = ["A", "B", "A", "A"]
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = sp.datasets.read_st(*files.write())
    assert adata.var_names.tolist() == ["A", "B", "A-1", "A-2"]
    assert "2 gene names occur more than once" in caplog.text


def test_without_spot_file(files: Files, caplog: pytest.LogCaptureFixture):
    path, _ = files.write()
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = sp.datasets.read_st(path)
    assert "positions are the places on the array" in caplog.text
    np.testing.assert_array_equal(adata.obsm["spatial"], adata.obs[["array_col", "array_row"]])
    assert adata.uns["spatial"]["S1"]["scalefactors"]["spot_diameter_fullres"] == pytest.approx(0.5)


def test_image_is_made_smaller(files: Files, caplog: pytest.LogCaptureFixture):
    factor = 10
    files.spots[["pixel_x", "pixel_y"]] *= factor
    shade = np.tile(np.linspace(0, 255, 450 * factor).astype(np.uint8)[:, None, None], (1, 400 * factor, 3))
    Image.fromarray(shade).save(files.folder / "he.jpg")
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = sp.datasets.read_st(*files.write(), image=files.folder / "he.jpg")
    slot = adata.uns["spatial"]["S1"]
    hires, scale = slot["images"]["hires"], slot["scalefactors"]["tissue_hires_scalef"]
    assert hires.shape == (2000, 1778, 3)
    assert hires.dtype == np.uint8
    assert scale == pytest.approx(2000 / 4500)
    for x, y in adata.obsm["spatial"]:
        assert abs(int(hires[round(y * scale), round(x * scale), 0]) - int(shade[round(y), round(x), 0])) <= 4
    diameter = slot["scalefactors"]["spot_diameter_fullres"]
    assert diameter == pytest.approx(0.5 * 50 * factor, rel=0.01)
    assert f"{diameter:.1f} pixels wide, half the distance" in caplog.text
    assert slot["metadata"]["source_image_path"] == str(files.folder / "he.jpg")


@pytest.mark.parametrize("ending", ["png", "tiff", "jpg"])
def test_small_image_stays_as_it_is(files: Files, ending: str):
    path = files.image.with_suffix(f".{ending}")
    Image.fromarray(files.pixels).save(path)
    slot = sp.datasets.read_st(*files.write(), image=path, spot_diameter=33).uns["spatial"]["S1"]
    assert slot["scalefactors"] == {"spot_diameter_fullres": 33.0, "tissue_hires_scalef": 1.0}
    with Image.open(path) as image:
        np.testing.assert_array_equal(slot["images"]["hires"], image)


def test_pillow_settings_stay(files: Files, monkeypatch: pytest.MonkeyPatch):
    """A large image is no attack, and no warning; Pillow's limit is as before."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    sp.datasets.read_st(*files.write(), image=files.image)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_spot_diameter_of_a_rotated_lattice_with_gaps(files: Files):
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    files.spots[["pixel_x", "pixel_y"]] = 300 + files.spots[["x", "y"]].to_numpy() @ turn * 70
    files.spots = files.spots.iloc[:12]
    adata = sp.datasets.read_st(*files.write(), in_tissue_only=True)
    assert adata.uns["spatial"]["S1"]["scalefactors"]["spot_diameter_fullres"] == pytest.approx(35)


def test_spots_outside_the_image(files: Files, caplog: pytest.LogCaptureFixture):
    paths = files.write()
    Image.fromarray(files.pixels[:200]).save(files.folder / "he.png")
    with pytest.raises(ValueError, match=r"\d+ of 18 spots .* lie outside .*he.png \(400 x 200.*full resolution"):
        sp.datasets.read_st(*paths, image=files.folder / "he.png")


def test_spots_without_counts_are_logged(files: Files, caplog: pytest.LogCaptureFixture):
    files.counts = files.counts.drop(index=["3x3", "6x7"])  # off and on the tissue
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = sp.datasets.read_st(*files.write())
    files.check(adata, [name for name in files.names[2:] if name != "6x7"])
    assert "left out 1 selected spots that have no counts" in caplog.text


def test_spot_file_of_the_selected_spots_only(files: Files, caplog: pytest.LogCaptureFixture):
    """Many counts without a position, but all selected spots have counts: the others are off the tissue."""
    files.spots = files.spots[files.spots["x"] > 3]
    paths = files.write()
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = sp.datasets.read_st(*paths)
    files.check(adata, files.names[5:])
    assert "left out 5 of 20 spots with counts that have no position in S1_selection.tsv (such as '3x3'" in caplog.text
    with pytest.raises(ValueError, match=r"5 of 20 spots .*no position in .*pass in_tissue_only=True"):
        sp.datasets.read_st(*paths, in_tissue_only=False)


def test_files_of_two_sections(files: Files):
    files.spots["x"] += 2
    with pytest.raises(ValueError, match=r"10 of 20 spots .*S1.tsv.gz .*'3x3'.* 10 of 18 .* are of the same section"):
        sp.datasets.read_st(*files.write())


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_counts(files: Files, share: float):
    path, spots = files.write()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"S1.tsv.gz cannot be read .*download or copy it again"):
        sp.datasets.read_st(path, spots)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("\tA\tB\n", "no rows"),
        ("\tA\tB\n1x1\t1\n", "3 names for 1 columns"),
        ("\tA\tB\n1x1\t1\t2\n1x2\t3\n", "number of columns"),
        ("\tA\tB\n1x1\t1\tmany\n", "many"),
        ("\tA\tB\n1x1\t1\t-2\n", "negative or missing"),
        ("\tA\tB\n1x1\t1\tnan\n", "negative or missing"),
        ("\tA\tB\nAAAC-1\t1\t2\n", r"neither its rows \('AAAC-1'\) nor its columns \('A', 'B'\).*'10x13'"),
        ("\tA\tB\n1x1\t1\t2\n1.2x1\t1\t2\n", "1 spots share their place .*such as x, y = .*1.*1"),
    ],
)
def test_malformed_counts(files: Files, text: str, message: str):
    path, spots = files.write("S1.tsv")
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"S1.tsv.*({message})"):
        sp.datasets.read_st(path, spots)


def test_values_that_are_no_counts_are_logged(files: Files, caplog: pytest.LogCaptureFixture):
    files.counts = files.counts / 2
    with caplog.at_level(logging.WARNING, "spared_sc"):
        sp.datasets.read_st(*files.write())
    assert "no raw counts" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["pixel_x", "y"]), "lacks 'y', 'pixel_x' and has 'x', 'new_x'"),
        (lambda t: t.assign(pixel_x="left"), "left"),
        (lambda t: t.assign(selected=2), "'selected' holds '2'; expected 0 or 1"),
        (lambda t: pd.concat([t, t.iloc[:2]]), "2 spots share their place"),
        (lambda t: t.assign(selected=0), "none of the 20 spots .*in_tissue_only=False"),
    ],
)
def test_malformed_spots(files: Files, change, message: str):
    files.spots = change(files.spots)
    with pytest.raises(ValueError, match=message):
        sp.datasets.read_st(*files.write())


def test_spots_with_empty_positions_have_none(files: Files, caplog: pytest.LogCaptureFixture):
    files.spots.loc[files.spots.index[-1], "pixel_x"] = np.nan
    with caplog.at_level(logging.INFO, "spared_sc"):
        assert sp.datasets.read_st(*files.write(), in_tissue_only=False).n_obs == 19
    assert "S1_selection.tsv: left out 1 rows without a position" in caplog.text


def test_bad_arguments(files: Files):
    paths = files.write()
    with pytest.raises(FileNotFoundError, match=r"no file counts=.*nothing.tsv.*its folder holds 'S1.tsv.gz'"):
        sp.datasets.read_st(files.folder / "nothing.tsv")
    with pytest.raises(FileNotFoundError, match=r"no file image='here/no.jpg'; its folder holds no folder"):
        sp.datasets.read_st(*paths, image="here/no.jpg")
    with pytest.raises(ValueError, match="an image needs spots="):
        sp.datasets.read_st(paths[0], image=files.image)
    for diameter in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="spot_diameter="):
            sp.datasets.read_st(*paths, spot_diameter=diameter)
    with pytest.raises(ValueError, match="library_key='array_row'"):
        sp.datasets.read_st(*paths, library_key="array_row")
    with pytest.raises(ValueError, match="cannot be a library name"):
        sp.datasets.read_st(*paths, library_id="a/b")
    (files.folder / "he.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"he.png cannot be read"):
        sp.datasets.read_st(*paths, image=files.folder / "he.png")


def test_one_row_of_spots_needs_a_diameter(files: Files):
    files.counts = files.counts.loc[[name for name in files.names if name.startswith("4x")]]
    files.spots = files.spots[files.spots["x"] == 4]
    paths = files.write()
    with pytest.raises(ValueError, match=r"5 spots .* lie on one line.*spot_diameter="):
        sp.datasets.read_st(*paths)
    assert sp.datasets.read_st(*paths, spot_diameter=25).n_obs == 5


def test_olfactory_bulb(data_dir: Path, caplog: pytest.LogCaptureFixture):
    folder = data_dir / "olfactory_bulb"
    for number, n_selected in enumerate([379, 407, 438, 403], start=1):
        caplog.clear()
        with caplog.at_level(logging.INFO, "spared_sc"):
            adata = sp.datasets.read_st(
                folder / f"MOB{number}.tsv.gz",
                folder / f"alignment_table_MOB{number}.tsv",
                image=folder / f"MOB{number}.jpg",
            )
        assert adata.shape == (n_selected, 1000)
        table = pd.read_csv(folder / f"alignment_table_MOB{number}.tsv", sep="\t").query("selected == 1")
        table.index = table["x"].astype(str) + "x" + table["y"].astype(str)
        table = table.loc[adata.obs_names]
        np.testing.assert_array_equal(adata.obsm["spatial"], table[["pixel_x", "pixel_y"]])
        assert re.search(r"left out (8|9|11) of 193[34] spots with counts that have no position", caplog.text)
        slot = adata.uns["spatial"][f"MOB{number}"]
        assert slot["images"]["hires"].shape == (1905, 1905, 3)
        assert slot["scalefactors"]["spot_diameter_fullres"] == pytest.approx(16, abs=0.3)
    everywhere = sp.datasets.read_st(folder / "MOB1.tsv.gz", folder / "alignment_table_MOB1.tsv", in_tissue_only=False)
    assert everywhere.n_obs == 1923
    assert everywhere.obs["in_tissue"].sum() == 379


def test_real_counts_cut_short(data_dir: Path, tmp_path: Path):
    """A table that lost its last rows is told by its gzip end; without gzip the log shows what is missing."""
    content = (data_dir / "her2st" / "ST-cnts" / "C2.tsv.gz").read_bytes()
    (tmp_path / "C2.tsv.gz").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=r"C2.tsv.gz cannot be read"):
        sp.datasets.read_st(tmp_path / "C2.tsv.gz", data_dir / "her2st" / "ST-spotfiles" / "C2_selection.tsv")
    lines = gzip.decompress(content).splitlines(keepends=True)
    (tmp_path / "C2.tsv").write_bytes(b"".join(lines[:5]) + lines[5][:2000])
    with pytest.raises(ValueError, match=r"C2.tsv cannot be read"):
        sp.datasets.read_st(tmp_path / "C2.tsv", data_dir / "her2st" / "ST-spotfiles" / "C2_selection.tsv")


def test_assay_is_that_of_the_array(files: Files):
    paths = files.write()
    assert sp.datasets.read_st(*paths).uns["spatial"]["S1"]["metadata"]["assay"] == "st"
    denser = files.counts[[sum(map(int, name.split("x"))) % 2 == 0 for name in files.names]]
    denser.to_csv(paths[0], sep="\t")
    slot = sp.datasets.read_st(*paths, spot_diameter=20, in_tissue_only=False).uns["spatial"]["S1"]
    assert "assay" not in slot["metadata"]  # every other place: an array with another pitch


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("pixel_x", 1e300, "pixel_x goes from .* to 1e\\+300, and no array or image reaches so far"),
        ("pixel_y", -1e300, "pixel_y goes from -1e\\+300"),
        ("x", 1e18, "x goes from .* to 1e\\+18"),
        ("selected", 5, "'selected' holds '5'"),
        ("pixel_x", "left", "selection.tsv cannot be read"),
    ],
)
def test_spots_that_no_array_has(files: Files, column: str, value, message: str):
    paths = files.write()
    table = files.spots.astype({column: object})
    table.loc[3, column] = value
    table.to_csv(paths[1], sep="\t", index=False)
    with pytest.raises(ValueError, match=message):
        sp.datasets.read_st(*paths)


def test_place_with_hundreds_of_digits(files: Files):
    paths = files.write()
    files.counts.rename(index={files.names[0]: "9" * 400 + "x1"}).to_csv(paths[0], sep="\t")
    with pytest.raises(ValueError, match=r"x goes from 3 to inf, and no array"):
        sp.datasets.read_st(*paths)


def test_counts_unpacked_by_a_browser(files: Files):
    paths = files.write()
    paths[0].write_bytes(gzip.decompress(paths[0].read_bytes()))
    files.check(sp.datasets.read_st(*paths), files.names[2:])


def test_small_table_that_expands_to_much(files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("spared_sc.datasets._files._FREE", 2**22)
    paths = files.write()
    with gzip.open(paths[0], "wb") as file:
        file.write(b"\t" + b"\t".join(b"G%d" % i for i in range(2**14)) + b"\n")
        for row in range(1200):
            file.write(b"%dx%d" % (row, row) + b"\t0" * 2**14 + b"\n")
    with pytest.raises(ValueError, match=r"S1.tsv.gz cannot be read \(\d+ bytes expand to more than"):
        sp.datasets.read_st(*paths)
