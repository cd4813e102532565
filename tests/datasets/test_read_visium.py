"""datasets.read_visium."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sps
from PIL import Image

from helpers.files import assert_same
from spared_sc.datasets import read_visium

if TYPE_CHECKING:
    from pathlib import Path


# squidpy's docstring machinery warns when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.* is not a valid key:SyntaxWarning")


COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


GENES = pd.DataFrame(
    {
        "gene_ids": [f"ENSG{i:011d}" for i in range(1, 7)],
        "symbol": ["A", "B", "B", "C", "D", "protein"],
        "feature_types": ["Gene Expression"] * 5 + ["Antibody Capture"],
        "genome": ["GRCh38"] * 6,
    }
)


def barcodes(n: int) -> list[str]:
    return ["".join("ACGT"[(i >> 2 * k) & 3] for k in range(8)) + "-1" for i in range(n)]


def write_h5(path: Path, counts: np.ndarray, names: list[str], genes: pd.DataFrame) -> None:
    matrix = sps.csr_matrix(counts, dtype=np.int32)
    with h5py.File(path, "w") as file:
        file.attrs["chemistry_description"] = b"Visium V5"
        file.attrs["library_ids"] = np.array([b"lib"])
        group = file.create_group("matrix")
        group["barcodes"] = np.array(names, dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = np.array(counts.T.shape, dtype=np.int32)
        features = group.create_group("features")
        features["_all_tag_keys"] = np.array([b"genome"])
        for name, column in (
            ("id", "gene_ids"),
            ("name", "symbol"),
            ("feature_type", "feature_types"),
            ("genome", "genome"),
        ):
            features[name] = genes[column].to_numpy(dtype="S")


def write_mtx(folder: Path, counts: np.ndarray, names: list[str], genes: pd.DataFrame) -> None:
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, sps.coo_matrix(counts.T.astype(np.int32)))
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as file:
        file.write("\n".join(names) + "\n")
    columns = ["gene_ids", "symbol", "feature_types"]
    genes[columns].to_csv(folder / "features.tsv.gz", sep="\t", header=False, index=False)


class Section:
    """A small Space Ranger folder: 12 places on the array, of which the last three are off the tissue."""

    def __init__(self, folder: Path, genes: pd.DataFrame = GENES, seed: int = 0):
        self.folder, self.spatial, self.genes = folder, folder / "spatial", genes
        self.spatial.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        self.counts = rng.poisson(2.0, (12, len(genes)))
        self.names = barcodes(12)
        row, col = np.divmod(np.arange(12), 4)
        self.positions = pd.DataFrame(
            {
                "barcode": self.names,
                "in_tissue": [1] * 9 + [0] * 3,
                "array_row": row,
                "array_col": 2 * col + row % 2,
                "pxl_row_in_fullres": 100.5 * row + 50,
                "pxl_col_in_fullres": 80.25 * col + 60,
            }
        ).iloc[rng.permutation(12)]
        self.image = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
        self.write_h5()
        self.positions.to_csv(self.spatial / "tissue_positions.csv", index=False)
        self.write_image("hires")
        self.write_image("lowres")
        (self.spatial / "scalefactors_json.json").write_text(
            json.dumps({"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.03, "spot_diameter_fullres": 55})
        )

    def write_h5(self, name: str = "filtered_feature_bc_matrix.h5", n_spots: int = 9) -> Path:
        write_h5(self.folder / name, self.counts[:n_spots], self.names[:n_spots], self.genes)
        return self.folder / name

    def write_image(self, resolution: str, end: str = "png") -> None:
        Image.fromarray(self.image).save(self.spatial / f"tissue_{resolution}_image.{end}")

    def remove(self, *names: str) -> Section:
        for name in names:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self

    def check(self, adata: ad.AnnData, n_spots: int = 9) -> None:
        """Everything but the images is as written."""
        assert adata.obs_names.tolist() == self.names[:n_spots]
        assert sps.issparse(adata.X)
        assert adata.X.format == "csr"
        assert adata.X.dtype == np.float32
        expression = (self.genes["feature_types"] == "Gene Expression").to_numpy()
        np.testing.assert_array_equal(adata.X.toarray(), self.counts[:n_spots, expression])
        assert adata.var["gene_ids"].tolist() == self.genes["gene_ids"][expression].tolist()
        expected = self.positions.set_index("barcode").loc[self.names[:n_spots]]
        for column in COLUMNS[1:4]:
            assert adata.obs[column].dtype == np.int64
            assert adata.obs[column].tolist() == expected[column].tolist()
        assert adata.obsm["spatial"].dtype == np.float64
        np.testing.assert_array_equal(
            adata.obsm["spatial"], expected[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
        )


@pytest.fixture
def section(tmp_path: Path) -> Section:
    return Section(tmp_path / "run_1")


def test_default_folder(section: Section, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = read_visium(section.folder)
    section.check(adata)
    assert adata.var_names.tolist() == ["A", "B", "B-1", "C", "D"]
    assert "1 features that are not gene expression" in caplog.text
    assert adata.obs["library_id"].cat.categories.tolist() == ["run_1"]
    slot = adata.uns["spatial"]["run_1"]
    assert slot["scalefactors"] == {
        "tissue_hires_scalef": 0.1,
        "tissue_lowres_scalef": 0.03,
        "spot_diameter_fullres": 55.0,
    }
    assert slot["metadata"]["source"] == "run_1"
    assert slot["metadata"]["chemistry_description"] == "Visium V5"
    for resolution in ("hires", "lowres"):
        np.testing.assert_array_equal(slot["images"][resolution], section.image)
        assert slot["images"][resolution].dtype == np.uint8
    assert adata.uns["spared_sc"]["read_visium"]["function"] == "datasets.read_visium"


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    "name", ["tissue_positions.csv", "tissue_positions_list.csv", "GSM1_tissue_positions_list.csv"]
)
def test_positions_header_from_content(section: Section, name: str, header: bool):
    section.remove("spatial/tissue_positions.csv")
    section.positions.to_csv(section.spatial / name, index=False, header=header)
    section.check(read_visium(section.folder))


def test_positions_parquet(section: Section):
    section.remove("spatial/tissue_positions.csv")
    section.positions.to_parquet(section.spatial / "tissue_positions.parquet")
    section.check(read_visium(section.folder))


def test_positions_columns_by_name(section: Section):
    section.positions[COLUMNS[::-1]].to_csv(section.spatial / "tissue_positions.csv", index=False)
    section.check(read_visium(section.folder))


def test_counts_from_mtx_folder(section: Section):
    section.remove("filtered_feature_bc_matrix.h5")
    write_mtx(section.folder / "filtered_feature_bc_matrix", section.counts[:9], section.names[:9], section.genes)
    adata = read_visium(section.folder)
    section.check(adata)
    assert adata.var_names.tolist() == ["A", "B", "B-1", "C", "D"]


@pytest.mark.parametrize("as_folder", [False, True])
def test_raw_counts_are_filtered_by_tissue(section: Section, as_folder: bool, caplog: pytest.LogCaptureFixture):
    section.remove("filtered_feature_bc_matrix.h5")
    if as_folder:
        write_mtx(section.folder / "raw_feature_bc_matrix", section.counts, section.names, section.genes)
    else:
        section.write_h5("raw_feature_bc_matrix.h5", n_spots=12)
    with caplog.at_level(logging.INFO, "spared_sc"):
        section.check(read_visium(section.folder))
    assert "dropped 3 of 12 spots outside the tissue" in caplog.text
    section.check(read_visium(section.folder, in_tissue_only=False), n_spots=12)


def test_filtered_goes_before_raw_and_counts_file_chooses(section: Section):
    raw = section.write_h5("raw_feature_bc_matrix.h5", n_spots=12)
    assert read_visium(section.folder, in_tissue_only=False).n_obs == 9
    assert read_visium(section.folder, counts_file=raw.name, in_tissue_only=False).n_obs == 12


def test_prefixed_counts(section: Section):
    section.remove("filtered_feature_bc_matrix.h5")
    section.write_h5("V1_sample_filtered_feature_bc_matrix.h5")
    (section.folder / "._V1_sample_filtered_feature_bc_matrix.h5").write_bytes(b"macOS")
    section.check(read_visium(section.folder))


def test_outs_folder(tmp_path: Path):
    section = Section(tmp_path / "sample_7" / "outs")
    for path in (tmp_path / "sample_7", tmp_path / "sample_7" / "outs"):
        adata = read_visium(path)
        section.check(adata)
        assert list(adata.uns["spatial"]) == ["sample_7"]


def test_current_folder_has_a_name(section: Section, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(section.folder)
    assert list(read_visium(".").uns["spatial"]) == ["run_1"]


@pytest.mark.parametrize(("missing", "left"), [("hires", "lowres"), ("lowres", "hires")])
def test_one_image_missing(section: Section, missing: str, left: str, caplog: pytest.LogCaptureFixture):
    section.remove(f"spatial/tissue_{missing}_image.png")
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = read_visium(section.folder)
    assert list(adata.uns["spatial"]["run_1"]["images"]) == [left]
    assert f"there is no tissue_{missing}_image" in caplog.text


def test_image_types_and_alpha(section: Section):
    section.remove("spatial/tissue_hires_image.png", "spatial/tissue_lowres_image.png")
    section.write_image("hires", "tiff")
    opaque = np.concatenate([section.image, np.full((40, 30, 1), 255, dtype=np.uint8)], axis=2)
    Image.fromarray(opaque).save(section.spatial / "tissue_lowres_image.png")
    images = read_visium(section.folder).uns["spatial"]["run_1"]["images"]
    np.testing.assert_array_equal(images["hires"], section.image)
    np.testing.assert_array_equal(images["lowres"], section.image)


def test_without_images_nor_scalefactors(section: Section):
    section.remove("spatial/scalefactors_json.json")
    adata = read_visium(section.folder, load_images=False)
    section.check(adata)
    assert adata.uns["spatial"]["run_1"]["images"] == {}


def test_sections_are_joined_on_gene_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = Section(tmp_path / "a")
    # Another order, one gene less, one more, and another genome label.
    other = pd.concat(
        [
            GENES.iloc[[3, 0, 2, 1]],
            pd.DataFrame(
                {"gene_ids": ["ENSG9"], "symbol": ["E"], "feature_types": ["Gene Expression"], "genome": ["x"]}
            ),
        ]
    ).assign(genome="GRCh38-2024")
    second = Section(tmp_path / "b", genes=other, seed=1)
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = read_visium([first.folder, second.folder], library_key="slide")
    assert adata.var["gene_ids"].tolist() == GENES["gene_ids"][:4].tolist()
    assert adata.var_names.tolist() == ["A", "B", "B-1", "C"]
    assert adata.var.columns.tolist() == ["gene_ids", "feature_types"]  # the genome differs
    np.testing.assert_array_equal(adata.X[:9].toarray(), first.counts[:9, :4])
    np.testing.assert_array_equal(adata.X[9:].toarray(), second.counts[:9][:, [1, 3, 2, 0]])
    assert adata.obs["slide"].tolist() == ["a"] * 9 + ["b"] * 9
    assert adata.obs_names.tolist() == [f"{n}_a" for n in first.names[:9]] + [f"{n}_b" for n in second.names[:9]]
    assert adata.obs_names.is_unique
    assert "'a': left out 1 of 5 genes" in caplog.text
    assert "'b': left out 1 of 5 genes" in caplog.text
    assert list(adata.uns["spatial"]) == ["a", "b"]


def test_sections_are_joined_across_versions_of_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = Section(tmp_path / "a", genes=GENES.assign(gene_ids=GENES["gene_ids"] + ".3"))
    second = Section(tmp_path / "b", genes=GENES.assign(gene_ids="GRCh38_" + GENES["gene_ids"]), seed=1)
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = read_visium([first.folder, second.folder])
    assert adata.var["gene_ids"].tolist() == GENES["gene_ids"][:5].tolist()
    np.testing.assert_array_equal(adata.X.toarray(), np.concatenate([s.counts[:9, :5] for s in (first, second)]))
    assert "5 more genes are common to all libraries by ids without version and genome" in caplog.text
    assert read_visium(first.folder).var["gene_ids"].tolist() == [f"{i}.3" for i in GENES["gene_ids"][:5]]


def test_mapping_names_the_libraries(tmp_path: Path):
    for run in ("x", "y"):
        Section(tmp_path / run / "outs" / "same")
    paths = {run: tmp_path / run / "outs" / "same" for run in ("y", "x")}
    assert read_visium(paths).obs["library_id"].cat.categories.tolist() == ["y", "x"]
    with pytest.raises(ValueError, match=r"several folders give the library name 'same': pass a dictionary"):
        read_visium(list(paths.values()))


def test_sections_without_a_common_gene(tmp_path: Path):
    Section(tmp_path / "a")
    Section(tmp_path / "b", genes=GENES.assign(gene_ids=[f"ENSMUSG{i:011d}" for i in range(6)]))
    with pytest.raises(ValueError, match=r"no gene id in common \('a' has 'ENSG0.*'b' has 'ENSMUSG0"):
        read_visium([tmp_path / "a", tmp_path / "b"])


def test_differing_symbols_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    Section(tmp_path / "a")
    Section(tmp_path / "b", genes=GENES.assign(symbol=["A2", "B", "B", "C", "D", "protein"]))
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = read_visium([tmp_path / "a", tmp_path / "b"])
    assert adata.var_names[0] == "A"
    assert "symbols differ" in caplog.text


def test_missing_path_and_file_as_path(section: Section, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        read_visium(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"is a file: pass the Space Ranger folder"):
        read_visium(section.folder / "filtered_feature_bc_matrix.h5")
    with pytest.raises(ValueError, match="no folder was given"):
        read_visium([])
    with pytest.raises(ValueError, match="cannot be a library name"):
        read_visium({"a/b": section.folder})
    with pytest.raises(ValueError, match="library_key='array_row' is the name of another column"):
        read_visium(section.folder, library_key="array_row")


def test_folder_without_counts(section: Section, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no counts; it holds 'run_1'.*section folders inside: .*run_1"):
        read_visium(tmp_path)
    section.remove("filtered_feature_bc_matrix.h5")
    with pytest.raises(FileNotFoundError, match=r"no counts; it holds 'spatial'. Pass a Space Ranger folder"):
        read_visium(section.folder)


def test_unusable_counts_file(section: Section):
    with pytest.raises(FileNotFoundError, match=r"no counts_file='other.h5' in .*'filtered_feature_bc_matrix.h5'"):
        read_visium(section.folder, counts_file="other.h5")
    (section.folder / "counts.csv").write_text("1\n")
    with pytest.raises(ValueError, match=r"expected an .h5 file or a folder"):
        read_visium(section.folder, counts_file="counts.csv")
    section.remove("filtered_feature_bc_matrix.h5")
    section.write_h5("a_filtered_feature_bc_matrix.h5")
    section.write_h5("b_filtered_feature_bc_matrix.h5")
    with pytest.raises(ValueError, match=r"several files .*a_filtered.*b_filtered"):
        read_visium(section.folder)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_h5(section: Section, share: float):
    path = section.folder / "filtered_feature_bc_matrix.h5"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"filtered_feature_bc_matrix.h5 cannot be read .*download or copy it again"):
        read_visium(section.folder)


def test_h5_of_another_kind(section: Section):
    path = section.folder / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "a") as file:
        del file["matrix/indices"]
    with pytest.raises(ValueError, match=r"lacks 'indices'"):
        read_visium(section.folder)
    with h5py.File(path, "w") as file:
        file["X"] = [1]
    with pytest.raises(ValueError, match=r"found 'X' instead of the group 'matrix'"):
        read_visium(section.folder)


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"])
def test_truncated_and_missing_mtx(section: Section, name: str):
    section.remove("filtered_feature_bc_matrix.h5")
    folder = section.folder / "filtered_feature_bc_matrix"
    write_mtx(folder, section.counts[:9], section.names[:9], section.genes)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot be read .*expected matrix.mtx.gz.*download or copy it again"):
        read_visium(section.folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"(no matrix.mtx.gz|no file of).*expected matrix.mtx, features.tsv"):
        read_visium(section.folder)


def test_repeated_gene_ids(section: Section):
    section.genes = GENES.assign(gene_ids="ENSG1")
    section.write_h5()
    with pytest.raises(ValueError, match=r"gene ids occur more than once \(such as 'ENSG1'"):
        read_visium(section.folder)


def test_missing_spatial_and_positions(section: Section):
    section.remove("spatial/tissue_positions.csv")
    with pytest.raises(FileNotFoundError, match=r"no spot positions; it holds 'scalefactors_json.json'"):
        read_visium(section.folder)
    section.remove("spatial")
    with pytest.raises(FileNotFoundError, match=r"no folder `spatial` .*unpack"):
        read_visium(section.folder)


def test_barcodes_without_position(section: Section):
    section.positions.assign(barcode=section.positions["barcode"].str.replace("-1", "-2")).to_csv(
        section.spatial / "tissue_positions.csv", index=False
    )
    with pytest.raises(ValueError, match=r"9 of 9 barcodes .*have no position: the counts have '[ACGT]+-1'.*-2'.*same"):
        read_visium(section.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:, :5], "5 columns"),
        (lambda t: t.rename(columns={"array_row": "row"}), "lacks 'array_row'"),
        (lambda t: t.assign(array_col=t["array_col"] + 0.5), "whole numbers"),
        (lambda t: t.assign(in_tissue=2), "in_tissue must be 0 or 1"),
        (lambda t: t.assign(pxl_row_in_fullres="left"), "left"),
        (lambda t: t.assign(pxl_row_in_fullres=None), "12 rows have empty fields"),
        (lambda t: pd.concat([t, t.iloc[:2]]), "2 barcodes occur more than once"),
        (lambda t: t.iloc[:0].iloc[:, :0], "No columns"),
    ],
)
def test_malformed_positions(section: Section, change, message: str):
    change(section.positions).to_csv(section.spatial / "tissue_positions.csv", index=False)
    with pytest.raises(ValueError, match=rf"tissue_positions.csv cannot be read \(.*{message}"):
        read_visium(section.folder)


def test_truncated_parquet(section: Section):
    section.remove("spatial/tissue_positions.csv")
    path = section.spatial / "tissue_positions.parquet"
    section.positions.to_parquet(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"tissue_positions.parquet cannot be read"):
        read_visium(section.folder)


def test_no_spot_in_tissue(section: Section):
    section.positions.assign(in_tissue=0).to_csv(section.spatial / "tissue_positions.csv", index=False)
    with pytest.raises(ValueError, match=r"none of the 9 spots .*in_tissue_only=False"):
        read_visium(section.folder)


def test_scalefactors_missing_or_damaged(section: Section):
    path = section.spatial / "scalefactors_json.json"
    path.write_text('{"tissue_hires_scalef": 0.1}')
    with pytest.raises(ValueError, match=r"lacks 'tissue_lowres_scalef'"):
        read_visium(section.folder)
    path.write_text('{"tissue_hires_')
    with pytest.raises(ValueError, match=r"scalefactors_json.json cannot be read"):
        read_visium(section.folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"images but no scalefactors_json.json.*load_images=False"):
        read_visium(section.folder)


def test_truncated_image(section: Section):
    path = section.spatial / "tissue_hires_image.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"tissue_hires_image.png cannot be read"):
        read_visium(section.folder)


def test_agrees_with_squidpy(data_dir: Path):
    import squidpy as sq

    folder = data_dir / "villacampa" / "lung_organoid" / "V19D02-088_A1"
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        expected = sq.read.visium(folder)
    expected.var_names_make_unique()
    adata = read_visium(folder)
    assert adata.obs_names.equals(expected.obs_names)
    assert adata.var_names.equals(expected.var_names)
    assert (adata.X != expected.X).nnz == 0
    for column in ("in_tissue", "array_row", "array_col"):
        np.testing.assert_array_equal(adata.obs[column], expected.obs[column])
    np.testing.assert_array_equal(adata.obsm["spatial"], expected.obsm["spatial"])
    ours, theirs = adata.uns["spatial"]["V19D02-088_A1"], expected.uns["spatial"]["V19D02-088_A1"]
    assert ours["scalefactors"] == theirs["scalefactors"]
    for resolution in ("hires", "lowres"):
        np.testing.assert_array_equal(ours["images"][resolution], theirs["images"][resolution][..., :3])


def test_lung_organoids(data_dir: Path):
    folders = sorted((data_dir / "villacampa" / "lung_organoid").glob("V19*"))
    adata = read_visium(folders, load_images=False)
    assert adata.shape == (1832, 33538)
    lines = [(folder / "spatial" / "tissue_positions_list.csv").read_text().splitlines() for folder in folders]
    in_tissue = [sum(line.split(",")[1] == "1" for line in positions) for positions in lines]
    assert adata.obs["library_id"].value_counts(sort=False).tolist() == in_tissue
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert (adata.X.data == np.rint(adata.X.data)).all()


def test_cytassist_with_header_and_lowres_only(data_dir: Path):
    adata = read_visium(data_dir / "mouse_embryo_cytassist")
    assert adata.shape == (2898, 19465)
    assert list(adata.uns["spatial"]["mouse_embryo_cytassist"]["images"]) == ["lowres"]
    # On the hexagonal array rows and columns have the same parity, and pixels go along with both.
    assert ((adata.obs["array_row"] + adata.obs["array_col"]) % 2 == 0).all()
    x, y = adata.obsm["spatial"].T
    array = adata.obs[["array_col", "array_row"]].to_numpy(dtype=float).T
    assert abs(np.corrcoef(np.vstack([x, y, array]))[:2, 2:]).max(axis=0).min() > 0.999


@pytest.mark.parametrize("load_images", [True, False])
def test_read_visium_survives_h5ad(tmp_path: Path, load_images: bool):
    for name in ("a", "b"):
        Section(tmp_path / name)
    adata = read_visium([tmp_path / "a", tmp_path / "b"], load_images=load_images)
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert_same(adata, ad.read_h5ad(tmp_path / "x.h5ad"))
