"""Sections of a data set in other forms than the usual one, and tables beside the counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.repositories import truth_of, zip_of
from helpers.visium import write_section

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = """
[MINE]
name = "mine"
title = "x"
organism = "human"
tissue = "x"
technology = "visium"
folder = "mine"
files = { normalized = "{section}_table.tsv" }
[MINE.sections]
one = { subject = "A" }
two = { subject = "B" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a data set without a source."""
    (tmp_path / "own.toml").write_text(BLOCK)
    with sp.settings.override(data_dir=tmp_path, cache_dir=tmp_path / "cache"):
        yield tmp_path / "mine"


def load(folder: Path, **options):
    return sp.datasets.load("MINE", catalogue=folder.parent / "own.toml", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"counts": "h5"},
        {"counts": "mtx"},
        {"counts": "mtx", "gz": True},
        {"counts": "mtx", "raw": True},
        {"raw": True},
        {"counts": "h5 v2"},
        {"positions": "tissue_positions.parquet"},
        {"gz": True, "flat": True},
        {"counts": "mtx", "gz": True, "flat": True},
    ],
    ids=str,
)
def test_layouts(folder: Path, options: dict):
    for name in ("one", "two"):
        prefix = f"GSM1_{name}_" if options.get("flat") else ""
        write_section(folder if options.get("flat") else folder / name, truth_of(name), prefix=prefix, **options)
    adata = load(folder)
    for name in ("one", "two"):
        truth_of(name).check(adata, name)


@pytest.mark.parametrize("raw", [False, True])
def test_a_matrix_of_several_files_in_an_archive(folder: Path, tmp_path: Path, raw: bool):
    for name in ("one", "two"):
        write_section(tmp_path / "elsewhere" / name, truth_of(name), counts="mtx", gz=True, raw=raw)
    files = {str(path.relative_to(tmp_path / "elsewhere")): path for path in (tmp_path / "elsewhere").rglob("*.*")}
    folder.mkdir()
    (folder / "all.zip").write_bytes(
        zip_of({name: path.read_bytes() for name, path in files.items() if path.is_file()})
    )
    adata = load(folder)
    for name in ("one", "two"):
        truth_of(name).check(adata, name)
    kind = "raw" if raw else "filtered"
    assert (tmp_path / "cache" / "mine" / "one" / f"{kind}_feature_bc_matrix" / "matrix.mtx.gz").is_file()
    (folder / "all.zip").unlink()
    truth_of("two").check(load(folder), "two")


def table_of(name: str) -> pd.DataFrame:
    truth = truth_of(name)
    return pd.DataFrame(truth.counts[:24] / 7, index=truth.names[:24], columns=truth.symbols)


def write_tables(folder: Path, **changed: pd.DataFrame) -> None:
    for name in ("one", "two"):
        write_section(folder / name, truth_of(name))
        changed.get(name, table_of(name)).to_csv(folder / f"{name}_table.tsv", sep="\t")


@pytest.mark.parametrize("form", ["spots x genes", "genes x spots", "ids", "other order", "without number", "fewer"])
def test_tables_are_joined_by_name(folder: Path, form: str):
    truth, table = truth_of("one"), table_of("one")
    expected = table.to_numpy()
    if form == "genes x spots":
        table = table.T
    elif form == "ids":
        table.columns = truth.ids
    elif form == "other order":
        table = table.iloc[::-1, ::-1]
    elif form == "without number":
        table.index = table.index.str.removesuffix("-1")
    elif form == "fewer":
        table, expected = table.iloc[:20, :50], expected * (np.arange(24) < 20)[:, None] * (np.arange(60) < 50)
    write_tables(folder, one=table)
    adata = load(folder, layers="normalized")
    part = adata[adata.obs["library_id"] == "one"]
    np.testing.assert_allclose(part.layers["normalized"].toarray(), expected, rtol=1e-6)
    np.testing.assert_array_equal(part.X.toarray(), truth.counts[:24])


def test_a_table_of_another_section_is_refused(folder: Path):
    write_tables(folder, one=table_of("two"))
    with pytest.raises(
        ValueError, match=r"one_table.tsv cannot be read \(neither its rows .* nor its columns are the spots"
    ):
        load(folder, layers=["normalized"])
    assert load(folder).n_obs == 48


def test_missing_hires_images_are_named(folder: Path, caplog: pytest.LogCaptureFixture):
    for name in ("one", "two"):
        write_section(folder / name, truth_of(name))
        for path in (folder / name).rglob("tissue_*res_image.png"):
            path.unlink()
    adata = load(folder)
    assert "library 'one': its source has no hires image" in caplog.text
    assert adata.uns["spatial"]["one"]["images"] == {}
    caplog.clear()
    load(folder, images=None)
    assert "hires" not in caplog.text
