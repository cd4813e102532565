"""datasets.read_visium: folders as repositories and other programs deliver them."""

from __future__ import annotations

import gzip
import json
import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers.visium import Truth, h5_bytes, put, write_images, write_mtx, write_section
from spared_sc.datasets import read_visium

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("counts", ["h5", "h5 v2", "mtx", "mtx 2"])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("prefix", "gz"), [("", False), ("GSM1_S1_", False), ("", True), ("GSM1_S1_", True)])
def test_prefixed_compressed_and_flat_folders(tmp_path: Path, prefix: str, gz: bool, flat: bool, counts: str):
    truth = Truth()
    write_section(tmp_path / "run", truth, prefix=prefix, gz=gz, flat=flat, counts=counts)
    truth.check(read_visium(tmp_path / "run"), "run")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("positions", "header"),
    [
        ("tissue_positions_list.csv", False),
        ("tissue_positions_list.txt", False),
        ("tissue_positions_S1.csv", True),
        ("tissue_positions.parquet", True),
    ],
)
def test_names_of_positions(tmp_path: Path, positions: str, header: bool, flat: bool):
    truth = Truth()
    write_section(tmp_path / "run", truth, prefix="S1_", flat=flat, positions=positions, header=header)
    if "_S1" in positions:  # the name of the sample behind, not in front
        found = next((tmp_path / "run").rglob("*tissue_positions*"))
        found.rename(found.with_name(positions))
    truth.check(read_visium(tmp_path / "run"), "run")


def test_prefix_of_the_spatial_folder_and_of_some_files(tmp_path: Path):
    truth = Truth()
    write_section(tmp_path / "a", truth)
    (tmp_path / "a" / "spatial").rename(tmp_path / "a" / "GSM1_S1_spatial")
    (tmp_path / "a" / "filtered_feature_bc_matrix.h5").rename(tmp_path / "a" / "GSM1_S1_filtered_feature_bc_matrix.h5")
    truth.check(read_visium(tmp_path / "a"), "a")
    write_section(tmp_path / "b", truth)
    for name in ("tissue_hires_image.png", "scalefactors_json.json"):
        (tmp_path / "b" / "spatial" / name).rename(tmp_path / "b" / "spatial" / f"S1_{name}")
    truth.check(read_visium(tmp_path / "b"), "b")


def test_names_that_say_the_wrong_compression(tmp_path: Path):
    """A browser unpacks a file and keeps its name, and the other way round."""
    truth = Truth()
    folder = write_section(tmp_path / "run", truth, gz=True, counts="mtx")
    for path in [*folder.rglob("*.gz")]:
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(content)
    truth.check(read_visium(folder), "run")
    folder = write_section(tmp_path / "other", truth)
    path = folder / "spatial" / "tissue_positions.csv"
    path.write_bytes(gzip.compress(path.read_bytes()))
    truth.check(read_visium(folder), "other")


def test_samples_side_by_side(tmp_path: Path):
    truths = {f"GSM{i}_S{i}": Truth(seed=i) for i in (1, 2)}
    for prefix, truth in truths.items():
        write_section(tmp_path / "geo", truth, prefix=f"{prefix}_", gz=True, flat=True)
    with pytest.raises(
        ValueError, match=r"several files of counts.*'GSM1_S1', 'GSM2_S2'.*counts_file='GSM1_S1_filtered"
    ):
        read_visium(tmp_path / "geo")
    files = {prefix: f"{prefix}_filtered_feature_bc_matrix.h5.gz" for prefix in truths}
    truths["GSM2_S2"].check(read_visium(tmp_path / "geo", counts_file=files["GSM2_S2"]), "geo")
    adata = read_visium(dict.fromkeys(files, tmp_path / "geo"), counts_file=files)
    for prefix, truth in truths.items():
        truth.check(adata, prefix)
    with pytest.raises(ValueError, match=r"counts_file= names 'other'; the libraries are 'x'"):
        read_visium({"x": tmp_path / "geo"}, counts_file={"other": files["GSM1_S1"]})


def test_samples_side_by_side_as_matrix_market(tmp_path: Path):
    truths = {f"S{i}": Truth(seed=i) for i in (1, 2)}
    for prefix, truth in truths.items():
        write_section(tmp_path / "geo", truth, prefix=f"{prefix}_", gz=True, flat=True, counts="mtx")
    with pytest.raises(ValueError, match=r"counts_file='S1_matrix.mtx.gz'"):
        read_visium(tmp_path / "geo")
    truths["S2"].check(read_visium(tmp_path / "geo", counts_file="S2_matrix.mtx.gz"), "geo")


def test_files_of_different_samples_are_not_mixed(tmp_path: Path):
    write_section(tmp_path / "run", Truth(), prefix="S1_", flat=True)
    for path in (tmp_path / "run").glob("S1_tissue_*"):
        path.rename(path.with_name(path.name.replace("S1", "S2")))
    with pytest.raises(ValueError, match=r"the counts S1_filtered.*sample 'S1'.*S2_tissue_.*other samples"):
        read_visium(tmp_path / "run")


def test_images_with_other_names_are_not_left_out_silently(tmp_path: Path):
    folder = write_section(tmp_path / "run", Truth())
    for resolution in ("hires", "lowres"):
        path = folder / "spatial" / f"tissue_{resolution}_image.png"
        path.rename(path.with_name(f"{resolution}.png"))
    with pytest.raises(ValueError, match=r"images 'hires.png', 'lowres.png'.*rename them to tissue_hires_image.png"):
        read_visium(folder)
    assert read_visium(folder, load_images=False).n_obs == 24


def test_counts_of_a_genome_inside_the_folder(tmp_path: Path):
    truth = Truth()
    folder = write_section(tmp_path / "run", truth)
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    write_mtx(folder / "filtered_gene_bc_matrices" / "GRCh38", truth, 24, gz=False, columns=2)
    truth.check(read_visium(folder), "run")


# ---- content ----


def change(path: Path, edit) -> None:
    """Replace the table in a csv file by another one."""
    table = edit(pd.read_csv(path))
    table.to_csv(path, index=False)


def test_endings_of_barcodes(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    truth, bare = Truth(), Truth(suffix="")
    folder = write_section(tmp_path / "a", truth)
    bare.positions.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    with caplog.at_level(logging.INFO, "spared_sc"):
        truth.check(read_visium(folder), "a")
    assert "differ by the ending '-1', which is ignored" in caplog.text
    folder = write_section(tmp_path / "b", bare)
    truth.positions.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    bare.check(read_visium(folder), "b")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.assign(array_row=0, array_col=t["array_col"] % 2), "spots share their place on the array"),
        (lambda t: t.assign(pxl_row_in_fullres=5.0, pxl_col_in_fullres=5.0), "23 of 24 spots share their position"),
        (
            lambda t: t.assign(pxl_row_in_fullres=5.0, pxl_col_in_fullres=5.0).assign(in_tissue=1),
            "share their position",
        ),
        (
            lambda t: t.assign(pxl_row_in_fullres=t["pxl_row_in_fullres"] * 10),
            r"lie outside of its hires image.*y = 4\d\d.*60 x 70",
        ),
        (lambda t: t.assign(pxl_col_in_fullres="1e400"), "pxl_col_in_fullres goes from inf to inf"),
        (lambda t: t.assign(pxl_col_in_fullres="inf"), "pxl_col_in_fullres goes from inf to inf"),
        (lambda t: t.assign(array_row=-1 - t["array_row"]), "array_row goes from -6 to -1"),
        (lambda t: t.assign(array_col=10**9 + t["array_col"]), "array_col goes from 1e"),
        (lambda t: t.assign(array_row="9" * 400), "array_row goes from inf to inf"),
        (lambda t: t.assign(array_row="nan"), "30 rows have empty fields"),
        (lambda t: t.assign(in_tissue="TRUE"), "TRUE"),
        (lambda t: t.assign(barcode=t["barcode"].iloc[0]), "29 barcodes occur more than once"),
        (lambda t: t.iloc[5:], "5 of 24 barcodes .*have no position"),
        (lambda t: t.reset_index().drop(columns="barcode"), "lacks 'barcode'"),
        (lambda t: t.iloc[:0], "no rows"),
        (
            lambda t: t.assign(in_tissue=1 - t["in_tissue"]).assign(in_tissue=(np.arange(30) > 8).astype(int)),
            "9 of 24 spots of filtered.*outside of the tissue.*6 of 21",
        ),
    ],
)
def test_positions_that_do_not_fit(tmp_path: Path, edit, message: str):
    folder = write_section(tmp_path / "run", Truth())
    change(folder / "spatial" / "tissue_positions.csv", edit)
    with pytest.raises(ValueError, match=message):
        read_visium(folder)


def test_more_columns_and_spaces_are_read_by_name(tmp_path: Path):
    truth = Truth()
    folder = write_section(tmp_path / "run", truth)
    path = folder / "spatial" / "tissue_positions.csv"
    change(path, lambda t: t[t.columns[::-1]].reset_index())
    path.write_text(path.read_text().replace(",", ", ").replace("\n", "\r\n"))
    truth.check(read_visium(folder), "run")


def test_separator_is_named(tmp_path: Path):
    folder = write_section(tmp_path / "run", Truth())
    path = folder / "spatial" / "tissue_positions.csv"
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(ValueError, match=r"it has 1 columns.*separated by commas"):
        read_visium(folder)


def test_scale_factors_of_different_images_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    truth = Truth()
    truth.scalefactors["tissue_lowres_scalef"] = 0.05
    with caplog.at_level(logging.WARNING, "spared_sc"):
        read_visium(write_section(tmp_path / "run", truth))
    assert "the hires image shows 700 pixels of the full image and the lowres image 1400" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"tissue_hires_scalef": 0.1, "spot_diameter_fullres": null}', "spot_diameter_fullres is None"),
        ('{"tissue_hires_scalef": "0.1"}', "tissue_hires_scalef is '0.1'"),
        ('{"tissue_hires_scalef": [0.1]}', r"tissue_hires_scalef is \[0.1\]"),
        ('{"tissue_hires_scalef": {"a": 1}}', "tissue_hires_scalef is {'a': 1}"),
        ('{"tissue_hires_scalef": true}', "tissue_hires_scalef is True"),
        ('{"tissue_hires_scalef": NaN}', "tissue_hires_scalef is nan"),
        ('{"tissue_hires_scalef": Infinity}', "tissue_hires_scalef is inf"),
        ('{"tissue_hires_scalef": 1e400}', "tissue_hires_scalef is inf"),
        ('{"tissue_hires_scalef": 1' + "0" * 400 + "}", "tissue_hires_scalef is 1000"),
        ('{"tissue_hires_scalef": 1' + "0" * 5000 + "}", "Exceeds the limit"),
        ('{"tissue_hires_scalef": -0.1}', "tissue_hires_scalef is -0.1"),
        ('{"tissue_hires_scalef": 0}', "tissue_hires_scalef is 0"),
        ("[1, 2]", r"holds \[1, 2\], which is no table"),
        ("5", "holds 5, which is no table"),
        ("null", "holds None, which is no table"),
        ("", "The file is empty"),
        ("{", "cut short or damaged"),
        ("\ufeffnot json", "cut short or damaged"),
        ("<!DOCTYPE html><html>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1", "pointer of Git LFS"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (" " * 2**24 + "{}", "holds more than 16777216 bytes"),
    ],
    ids=lambda text: text[:24],
)
def test_scale_factors_that_are_none(tmp_path: Path, text: str, message: str):
    folder = write_section(tmp_path / "run", Truth())
    (folder / "spatial" / "scalefactors_json.json").write_text(text)
    for load_images in (True, False):
        with pytest.raises(ValueError, match=rf"scalefactors_json.json cannot be read.*{message}"):
            read_visium(folder, load_images=load_images)


def test_scale_factors_of_space_ranger_4(tmp_path: Path):
    """Without the diameter of a spot."""
    truth = Truth()
    del truth.scalefactors["spot_diameter_fullres"]
    truth.check(read_visium(write_section(tmp_path / "run", truth)), "run")


# ---- Visium HD ----


def write_hd(outs: Path, sizes: tuple[int, ...]) -> dict[int, Truth]:
    truths = {size: Truth(seed=size, bin_um=size) for size in sizes}
    for size, truth in truths.items():
        folder = outs / "binned_outputs" / f"square_{size:03d}um"
        write_section(folder, truth, positions="tissue_positions.parquet")
    put(outs / "feature_slice.h5", b"x")
    write_images(outs / "spatial", truth)
    return truths


def test_visium_hd_by_bin_size(tmp_path: Path):
    truths = write_hd(tmp_path / "hd" / "outs", (2, 8, 16))
    for path in (tmp_path / "hd", tmp_path / "hd" / "outs"):
        for size, truth in truths.items():
            truth.check(read_visium(path, bin_size=size), "hd")
        with pytest.raises(ValueError, match=r"bins of 2 um, 8 um, 16 um: choose with bin_size=8"):
            read_visium(path)
        with pytest.raises(ValueError, match=r"bin_size=4 is not in .*'2', '8', '16'"):
            read_visium(path, bin_size=4)
    square = tmp_path / "hd" / "outs" / "binned_outputs" / "square_008um"
    truths[8].check(read_visium(square), "square_008um")
    with pytest.raises(ValueError, match=r"bin_size=16 does not fit the folder"):
        read_visium(square, bin_size=16)
    adata = read_visium({"a": tmp_path / "hd", "b": tmp_path / "hd"}, bin_size=8)
    truths[8].check(adata, "a")
    slot = adata.uns["spatial"]["a"]["scalefactors"]
    assert slot["microns_per_pixel"] == pytest.approx(8 / 7.3)
    assert slot["bin_size_um"] == 8


def test_visium_hd_with_one_bin_size(tmp_path: Path):
    truths = write_hd(tmp_path / "hd" / "outs", (16,))
    truths[16].check(read_visium(tmp_path / "hd"), "hd")


def test_visium_hd_lattice_is_square(tmp_path: Path):
    import spared_sc as sp

    write_hd(tmp_path / "hd" / "outs", (8,))
    adata = read_visium(tmp_path / "hd")
    sp.pp.lattice_neighbors(adata)
    place = adata.obs[["array_row", "array_col"]].to_numpy()
    step = np.abs(place[:, None] - place[None]).max(axis=2)
    np.testing.assert_array_equal(adata.obsp["spatial_connectivities"].toarray() > 0, step == 1)


def test_bins_of_different_sizes_are_refused(tmp_path: Path):
    truth = Truth(bin_um=8)
    truth.scalefactors["bin_size_um"] = 16.0
    folder = write_section(tmp_path / "square_008um", truth)
    with pytest.raises(
        ValueError, match=r"bins of different sizes: 8 um by the folder square_008um, 16 um by bin_size_um"
    ):
        read_visium(folder)


def test_bin_size_without_bins(tmp_path: Path):
    folder = write_section(tmp_path / "run", Truth())
    with pytest.raises(ValueError, match=r"bin_size=8 is for Visium HD.*leave bin_size out"):
        read_visium(folder, bin_size=8)


def test_segmented_outputs_name_the_bins(tmp_path: Path):
    segmented = tmp_path / "hd" / "outs" / "segmented_outputs"
    put(segmented / "filtered_feature_cell_matrix.h5", h5_bytes(Truth(), 24))
    put(segmented / "cell_segmentations.geojson", b"{}")
    for path in (segmented, segmented.parent, tmp_path / "hd"):
        with pytest.raises(
            FileNotFoundError, match=r"have no lattice and are not read: .*binned_outputs, and bin_size=8"
        ):
            read_visium(path)


@pytest.mark.parametrize("bin_size", ["8", [8], True])
def test_bin_size_that_is_no_number(tmp_path: Path, bin_size):
    write_hd(tmp_path / "hd" / "outs", (8,))
    with pytest.raises(TypeError, match=r"bin_size=.* is no number: pass the side of a bin in um"):
        read_visium(tmp_path / "hd", bin_size=bin_size)


# ---- aggregated runs ----


def write_aggregated(outs: Path, *, joint: bool, names: bool = True, prefix: str = "") -> dict[str, Truth]:
    """Two sections, the second with barcodes of the first among its own."""
    truths = {"LV123": Truth(seed=1, suffix="-1"), "LB456": Truth(seed=2, suffix="-2")}
    both = Truth()
    both.names = [name for truth in truths.values() for name in truth.names[:24]]
    both.counts = np.concatenate([truth.counts[:24] for truth in truths.values()])
    put(outs / f"{prefix}filtered_feature_bc_matrix.h5", h5_bytes(both, 48))
    if names:
        rows = [f"{name},/runs/{name}/molecule_info.h5,/runs/{name}/cloupe.cloupe" for name in truths]
        put(outs / f"{prefix}aggregation.csv", "\n".join(["library_id,molecule_h5,cloupe_file", *rows]).encode())
    if joint:
        table = pd.concat([truth.positions for truth in truths.values()])
        put(outs / f"{prefix}aggr_tissue_positions.csv", table.to_csv(index=False).encode())
    for at, (name, truth) in enumerate(truths.items(), start=1):
        folder = outs / "spatial" / (name if names else str(at))
        write_images(folder, truth)
        if not joint:
            own = truth.positions.assign(barcode=truth.positions["barcode"].str.replace(r"-\d$", "-1", regex=True))
            put(folder / "tissue_positions.csv", own.to_csv(index=False).encode())
    return truths


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("prefix", ["", "GSE1_"])
def test_aggregated_run_becomes_its_sections(tmp_path: Path, joint: bool, names: bool, prefix: str):
    truths = write_aggregated(tmp_path / "agg" / "outs", joint=joint, names=names, prefix=prefix)
    adata = read_visium(tmp_path / "agg")
    assert adata.n_obs == 48
    for at, (name, truth) in enumerate(truths.items(), start=1):
        truth.check(adata, name if names else f"agg_{at}")


def test_aggregated_run_with_folders_of_its_sections(tmp_path: Path):
    """The folders that aggregation.csv names, and positions of each section only there."""
    truths = write_aggregated(tmp_path / "agg" / "outs", joint=False)
    lines = ["library_id,spatial_folder"]
    for name in truths:
        (tmp_path / "agg" / "outs" / "spatial" / name).rename(tmp_path / f"run of {name}")
        lines.append(f"{name},{tmp_path / f'run of {name}'}")
    (tmp_path / "agg" / "outs" / "aggregation.csv").write_text("\n".join(lines))
    adata = read_visium(tmp_path / "agg")
    for name, truth in truths.items():
        truth.check(adata, name)


def test_aggregated_run_with_positions_of_one_section(tmp_path: Path):
    truths = write_aggregated(tmp_path / "agg", joint=False)
    (tmp_path / "agg" / "spatial" / "LB456" / "tissue_positions.csv").unlink()
    with pytest.raises(
        ValueError, match=r"2 sections .*-1: 24 spots, -2: 24 spots.*positions of '-1': pass .*of each section"
    ):
        read_visium(tmp_path / "agg")
    # One table, for which nothing says whose it is.
    folder = tmp_path / "agg" / "spatial"
    for name in truths:
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()
    truths["LV123"].positions.to_csv(folder / "tissue_positions.csv", index=False)
    with pytest.raises(ValueError, match=r"2 sections .*positions of nothing: pass"):
        read_visium(tmp_path / "agg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("library_id,molecule_h5\nA,x\n", "1 complete lines, and barcodes end in -2"),
        ("library_id\nA\nA\n", "not unique"),
        ("name\nA\nB\n", "no library_id"),
        ("library_id\n../../A\nB\n", "cannot be a library name"),
        ("", "no lines"),
    ],
)
def test_aggregation_csv_that_does_not_fit(tmp_path: Path, text: str, message: str):
    write_aggregated(tmp_path / "agg", joint=True)
    (tmp_path / "agg" / "aggregation.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_visium(tmp_path / "agg")


# ---- names and arguments ----


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\0b", "x" * 300, " a", "a "])
def test_library_names(tmp_path: Path, name: str):
    folder = write_section(tmp_path / "run", Truth())
    with pytest.raises(ValueError, match="cannot be a library name"):
        read_visium({name: folder})


@pytest.mark.parametrize("paths", [5, None, [None], [5], {"a": 5}, "x" * 300, "a\0b", "a" + "/b" * 3000])
def test_paths_that_are_none(paths):
    with pytest.raises((TypeError, FileNotFoundError), match=r"pass (a|the) path"):
        read_visium(paths)


@pytest.mark.parametrize("library_key", [None, 5, "", "a/b", "in_tissue"])
def test_library_keys(tmp_path: Path, library_key):
    folder = write_section(tmp_path / "run", Truth())
    with pytest.raises(ValueError, match=r"library_key=.*pass (a|another)"):
        read_visium(folder, library_key=library_key)


def test_other_files_as_path_and_counts(tmp_path: Path):
    path = put(tmp_path / "a.h5ad", b"x")
    with pytest.raises(NotADirectoryError, match=r"read it with anndata.read_h5ad"):
        read_visium(path)
    folder = write_section(tmp_path / "run", Truth())
    put(folder / "b.h5ad", b"x")
    with pytest.raises(ValueError, match=r"is an AnnData: read it with anndata.read_h5ad"):
        read_visium(folder, counts_file="b.h5ad")
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"no counts; it holds 'b.h5ad'.*anndata.read_h5ad"):
        read_visium(folder)
    put(tmp_path / "x.zarr" / "zarr.json", json.dumps({}).encode())
    with pytest.raises(FileNotFoundError, match=r"spatialdata.read_zarr"):
        read_visium(tmp_path / "x.zarr")
    put(tmp_path / "packed" / "spatial.tar.gz", b"x")
    with pytest.raises(FileNotFoundError, match=r"Unpack its archives first"):
        read_visium(tmp_path / "packed")
