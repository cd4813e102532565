"""Every Python block of the README and of the documentation runs, page by page, on small made-up sections."""

from __future__ import annotations

import json
import shutil
import webbrowser
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sps
from PIL import Image

import spared_sc as sp
from helpers.docs import DOCS, ROOT, blocks
from helpers.sdata import as_spatialdata
from spared_sc._models.completion.counts import CountsModel
from spared_sc._models.completion.paper import SpaCKLE

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

PAGES = [page for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if blocks(page)]
NAMES = ("A1", "B1", "C1")
FEW = {CountsModel: {"n_iterations": 1}, SpaCKLE: {"train_batch_size": 16}}


@pytest.fixture(scope="module")
def sections(collection) -> AnnData:
    """Three sections of human genes, DLK1 among them."""
    adata = collection(n_libraries=3, shape=(6, 6), n_genes=36, depth=400.0)
    adata.obs["library_id"] = adata.obs["library_id"].cat.rename_categories(list(NAMES))
    adata.uns["spatial"] = dict(zip(NAMES, adata.uns["spatial"].values(), strict=True))
    adata.var_names = ["DLK1", *adata.var_names[1:]]
    adata.var["gene_ids"] = [f"ENSG{number:011d}" for number in range(adata.n_vars)]
    adata.obs["subject"] = adata.obs["library_id"].astype(str)
    return adata


@pytest.fixture(scope="module")
def disk(sections, tmp_path_factory) -> Path:
    """A folder with what the pages read: section folders and an image."""
    folder = tmp_path_factory.mktemp("pages")
    for name in NAMES:
        write_visium(sections[sections.obs["library_id"] == name].copy(), name, folder / "sections" / name)
        shutil.copytree(folder / "sections" / name, folder / "villacampa" / f"V19D02-088_{name}")
    shutil.copytree(folder / "villacampa" / "V19D02-088_A1", folder / "villacampa" / "V19D02-088_D1")
    hires = sections.uns["spatial"]["A1"]["images"]["hires"]
    Image.fromarray(hires).resize((1200, 1200)).save(folder / "slide.tif")
    return folder


def write_visium(adata: AnnData, name: str, folder: Path) -> None:
    """One section as Space Ranger writes it."""
    (folder / "spatial").mkdir(parents=True)
    matrix = sps.csr_matrix(adata.X, dtype=np.int32)
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy(dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = np.array(matrix.T.shape, dtype=np.int32)
        features = group.create_group("features")
        features["id"], features["name"] = (
            column.to_numpy(dtype="S") for column in (adata.var["gene_ids"], adata.var_names)
        )
        features["feature_type"] = np.full(adata.n_vars, b"Gene Expression")
        features["genome"] = np.full(adata.n_vars, b"GRCh38")
    places = adata.obs[["in_tissue", "array_row", "array_col"]].assign(
        pxl_row_in_fullres=adata.obsm["spatial"][:, 1], pxl_col_in_fullres=adata.obsm["spatial"][:, 0]
    )
    places.to_csv(folder / "spatial" / "tissue_positions.csv", index_label="barcode")
    slide = adata.uns["spatial"][name]
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(slide["scalefactors"]))
    Image.fromarray(slide["images"]["hires"]).save(folder / "spatial" / "tissue_hires_image.png")


@pytest.fixture
def namespace(sections, disk, tmp_path, monkeypatch) -> dict[str, Any]:
    """What a page may use without making it, in a folder of its own."""
    for path in disk.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webbrowser, "open", lambda _: True)
    for model, params in FEW.items():  # the defaults take minutes
        for name, value in params.items():
            monkeypatch.setitem(model.__init__.__kwdefaults__, name, value)
    adata = sections.copy()
    sp.pp.recipe_spared(adata, library_key="library_id")
    return {"sp": sp, "np": np, "adata": adata, "other": adata.copy()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of far too little data
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, namespace, tmp_path):
    if page.stem == "explore":
        pytest.importorskip("bokeh")
    if page.stem == "spatialdata":
        sdata = as_spatialdata(namespace["adata"])
        sdata.tables["table"].var["gene_ids"] = namespace["adata"].var["gene_ids"]
        sdata.write(tmp_path / "sections.zarr")
    library_key = None if page.stem == "spatialdata" else "library_id"
    with sp.settings.override(data_dir=tmp_path, library_key=library_key, n_jobs=1, device="cpu"):
        for number, code in enumerate(blocks(page)):
            exec(compile(code, f"{page.name}, block {number + 1}", "exec"), namespace)


def test_all_code_is_run():
    """Code that cannot run is no `python` block: other languages are listed here."""
    kinds = {
        line.strip()[3:] for page in PAGES for line in page.read_text().splitlines() if line.strip().startswith("```")
    }
    allowed = {"", "python", "bash", "text", "{toctree}", "{eval-rst}", "{code-block} python"}
    assert {kind for kind in kinds if not kind.startswith(("{include}", "{results}"))} <= allowed
