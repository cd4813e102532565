"""Sections with known counts and positions, written in the layouts in which people have them."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sps
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
BIN_PX = 7.3  # pixels of the full image per bin


@dataclass
class Truth:
    """What the files of a section say: 6 x 5 places, of which the last six are off the tissue."""

    seed: int = 0
    n_genes: int = 12
    suffix: str = "-1"
    bin_um: int | None = None
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        row, col = (place.ravel() for place in np.indices((6, 5)))
        if self.bin_um is None:
            letters = ["".join("ACGT"[(i >> 2 * k) & 3] for k in range(12)) for i in rng.permutation(4**6)[: len(row)]]
            self.names = [name + self.suffix for name in letters]
            col = 2 * col + row % 2
            pixels = 150 + 86.6 * row, 150 + 50.0 * col
        else:
            self.names = [f"s_{self.bin_um:03d}um_{y:05d}_{x:05d}-1" for y, x in zip(row, col, strict=True)]
            pixels = 150 + BIN_PX * row, 150 + BIN_PX * col
        self.n_tissue = 24
        in_tissue = (np.arange(len(row)) < self.n_tissue).astype(int)
        values = zip(self.names, in_tissue, row, col, *(np.round(p, 2) for p in pixels), strict=True)
        self.positions = pd.DataFrame(list(values), columns=COLUMNS)
        self.counts = rng.poisson(1.5, (len(row), self.n_genes))
        self.ids = [f"ENSG{i:011d}" for i in range(1, self.n_genes + 1)]
        self.symbols = [f"G{i}" for i in range(1, self.n_genes + 1)]
        self.image = rng.integers(0, 255, (70, 60, 3), dtype=np.uint8)
        self.scalefactors = {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.1, "spot_diameter_fullres": 55.0}
        if self.bin_um is not None:
            self.scalefactors |= {"microns_per_pixel": self.bin_um / BIN_PX, "bin_size_um": float(self.bin_um)}

    def check(self, adata: ad.AnnData, library: str, *, raw: bool = False, images: bool = True) -> None:
        """The part `library` of an object is what the files said."""
        part = adata[adata.obs["library_id"] == library]
        n = len(self.names) if raw else self.n_tissue
        several = adata.obs["library_id"].nunique() > 1
        assert part.obs_names.tolist() == [f"{name}_{library}" if several else name for name in self.names[:n]]
        np.testing.assert_array_equal(part.X.toarray(), self.counts[:n])
        assert part.var_names.tolist() == self.symbols
        assert part.var["gene_ids"].tolist() == self.ids
        expected = self.positions[:n]
        for column in COLUMNS[1:4]:
            assert part.obs[column].tolist() == expected[column].tolist()
        np.testing.assert_array_equal(part.obsm["spatial"], expected[COLUMNS[:3:-1]].to_numpy(dtype=float))
        slot = adata.uns["spatial"][library]
        assert slot["scalefactors"] == self.scalefactors
        assert set(slot["images"]) == ({"hires", "lowres"} if images else set())
        for image in slot["images"].values():
            np.testing.assert_array_equal(image, self.image)
        assert slot["metadata"]["assay"] == ("visium" if self.bin_um is None else "visium_hd")


def put(path: Path, content: bytes, gz: bool = False) -> Path:
    """Write a file, compressed and with the ending .gz on request."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_name(f"{path.name}.gz") if gz else path
    path.write_bytes(gzip.compress(content) if gz else content)
    return path


def h5_bytes(truth: Truth, n: int, kind: str = "h5") -> bytes:
    """Counts of the first `n` spots as HDF5: `h5`, or `h5 v2` with a group per genome."""
    matrix = sps.csr_matrix(truth.counts[:n].astype(np.int32))
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("matrix" if kind == "h5" else "GRCh38")
        group["barcodes"] = np.array(truth.names[:n], dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = np.array([truth.n_genes, n], dtype=np.int32)
        if kind == "h5":
            group["features/id"] = np.array(truth.ids, dtype="S")
            group["features/name"] = np.array(truth.symbols, dtype="S")
            group["features/feature_type"] = np.array(["Gene Expression"] * truth.n_genes, dtype="S")
            group["features/genome"] = np.array(["GRCh38"] * truth.n_genes, dtype="S")
        else:
            group["genes"], group["gene_names"] = np.array(truth.ids, dtype="S"), np.array(truth.symbols, dtype="S")
    return content.getvalue()


def write_mtx(folder: Path, truth: Truth, n: int, *, prefix: str = "", gz: bool = True, columns: int = 3) -> None:
    """Counts of the first `n` spots as three files; genes.tsv where there are two columns."""
    content = io.BytesIO()
    scipy.io.mmwrite(content, sps.coo_matrix(truth.counts[:n].T.astype(np.int32)))
    put(folder / f"{prefix}matrix.mtx", content.getvalue(), gz)
    put(folder / f"{prefix}barcodes.tsv", ("\n".join(truth.names[:n]) + "\n").encode(), gz)
    rows = zip(truth.ids, truth.symbols, strict=True)
    lines = ["\t".join([*row, "Gene Expression"][:columns]) for row in rows]
    put(folder / f"{prefix}{'features' if columns == 3 else 'genes'}.tsv", "\n".join(lines).encode(), gz)


def write_section(
    folder: Path,
    truth: Truth,
    *,
    prefix: str = "",
    gz: bool = False,
    flat: bool = False,
    counts: str = "h5",
    raw: bool = False,
    positions: str = "tissue_positions.csv",
    header: bool = True,
) -> Path:
    """A section's folder; `counts` is h5, `h5 v2`, `mtx` or `mtx 2` (two columns)."""
    n = len(truth.names) if raw else truth.n_tissue
    name = f"{prefix}{'raw' if raw else 'filtered'}_feature_bc_matrix"
    if counts.startswith("h5"):
        put(folder / f"{name}.h5", h5_bytes(truth, n, counts), gz and flat)
    else:
        columns = 2 if counts == "mtx 2" else 3
        write_mtx(folder if flat else folder / name, truth, n, prefix=prefix if flat else "", gz=gz, columns=columns)
    spatial = folder if flat else folder / "spatial"
    if positions.endswith(".parquet"):
        content = io.BytesIO()
        truth.positions.to_parquet(content)
        put(spatial / f"{prefix}{positions}", content.getvalue())
    else:
        put(spatial / f"{prefix}{positions}", truth.positions.to_csv(index=False, header=header).encode(), gz)
    write_images(spatial, truth, prefix=prefix, gz=gz)
    return folder


def write_images(spatial: Path, truth: Truth, *, prefix: str = "", gz: bool = False) -> None:
    """Both images and the scale factors."""
    content = io.BytesIO()
    Image.fromarray(truth.image).save(content, "PNG")
    for resolution in ("hires", "lowres"):
        put(spatial / f"{prefix}tissue_{resolution}_image.png", content.getvalue(), gz)
    put(spatial / f"{prefix}scalefactors_json.json", json.dumps(truth.scalefactors).encode(), gz)
