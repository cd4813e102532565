"""The folder of a page: its size, and what it may replace."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from properties.calls import snapshot
from spared_sc._core.outputs import Unusable
from spared_sc._explorer import write

pytest.importorskip("bokeh")


@pytest.fixture(scope="module")
def adata(collection):
    return collection(n_libraries=2, shape=(8, 8), n_genes=30, recipe={"n_genes": 10})


def explore(adata, folder, **options):
    return sp.explore(adata, folder, open_browser=False, **{**KEY, **options})


def size(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_folder_holds_all_that_the_page_loads(adata, tmp_path):
    page = explore(adata, tmp_path / "site")
    loaded = re.findall(r'(?:src|href)="(assets/[^"]+)"', page.index.read_text())
    assert sorted(loaded) == sorted(path.relative_to(page.folder).as_posix() for path in page.folder.glob("assets/*"))
    assert len(list(page.folder.glob("data/gene-*.js"))) == 10
    assert not re.search(r"https?://", page.index.read_text())
    assert not list(tmp_path.glob(".*"))


def test_the_data_are_left_as_they_were(adata, tmp_path):
    before = snapshot(adata)
    explore(adata, tmp_path / "site")
    assert snapshot(adata) == before


def test_without_bokeh_the_error_says_what_to_install(adata, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.settings", None)
    with pytest.raises(ImportError, match=r"pip install \"spared-sc\[explore\]\""):
        explore(adata, tmp_path / "site")


def test_an_earlier_page_is_replaced_and_nothing_else(adata, tmp_path):
    folder = tmp_path / "site"
    explore(adata, folder)
    explore(adata, folder, genes=adata.var_names[:3])
    assert len(list(folder.glob("data/gene-*.js"))) == 3
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(Unusable, match=r"site exists: remove it, or give another name as `export=`"):
        explore(adata, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list(folder.glob("data/gene-*.js"))) == 3


@pytest.mark.parametrize("make", [lambda p: p.write_text("mine"), lambda p: (p / "data").mkdir(parents=True)])
def test_what_is_no_page_stays(adata, tmp_path, make):
    make(tmp_path / "site")
    with pytest.raises(Unusable, match="exists"):
        explore(adata, tmp_path / "site")
    assert (tmp_path / "site").exists()


def test_nothing_is_left_when_writing_fails(adata, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "_gene_piece", fail)
    with pytest.raises(OSError, match="free some space"):
        explore(adata, tmp_path / "site")
    assert not list(tmp_path.iterdir())


def test_a_page_that_is_too_large_is_refused_before_it_is_written(adata, tmp_path):
    rest = size(explore(adata, tmp_path / "all", genes=adata.var_names[:1]).folder) / 1e6
    with pytest.raises(ValueError, match=r"128 spots x 30 genes x 1 layers.*MB are allowed") as raised:
        explore(adata, tmp_path / "site", genes=adata.var_names, max_mb=rest + 0.005)
    assert [path.name for path in tmp_path.iterdir()] == ["all"]
    most = int(re.search(r"`genes=` with at most (\d+) genes", str(raised.value))[1])
    assert 5 < most < 25
    page = explore(adata, tmp_path / "site", genes=adata.var_names[:most], max_mb=rest + 0.005)
    assert size(page.folder) < 1e6 * rest + 5000


def test_the_expected_size_is_the_size(adata, tmp_path):
    """An upper bound, and no more than a hundredth above."""
    true = size(explore(adata, tmp_path / "site").folder) / 1e6
    explore(adata, tmp_path / "fits", max_mb=1.01 * true)
    with pytest.raises(ValueError, match="MB are allowed"):
        explore(adata, tmp_path / "refused", max_mb=0.999 * true)


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 255)])
def test_images_of_all_kinds_look_alike(dtype, scale):
    levels = np.linspace(0, 1, 256)[:, None, None] * np.ones((1, 4, 3))
    made = write._eight_bit((levels * scale).astype(dtype)).astype(int)
    assert np.abs(made[:, 0, 0] - np.arange(256)).max() <= 1
