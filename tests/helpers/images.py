"""Images, sections on them, and their patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from spared_sc._core.validate import get_libraries
from spared_sc._images.patches import Patches
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.source import open_image

if TYPE_CHECKING:
    from pathlib import Path


RECIPE = {
    "size": 1.0,
    "unit": "pixel",
    "output_size": 16,
    "stain": None,
    "sources": {"library": {"patch_px": 1.0, "um_per_px": np.nan}},
}


def smooth(height=300, width=400, seed=0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).random((height, width, 3)), (3, 3, 0))
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def tiff(path: Path, array: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, array, photometric="rgb", **options)
    return path


def pyramid(path: Path, array: np.ndarray) -> Path:
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(array, subifds=1, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}, **options)
        half = np.asarray(Image.fromarray(array).reduce(2))
        writer.write(half, subfiletype=1, **options)
    return path


def pillow(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


WRITERS = {
    "png": lambda folder, a: pillow(folder / "a.png", a),
    "opaque": lambda folder, a: pillow(folder / "a.png", np.dstack([a, np.full(a.shape[:2], 255, np.uint8)])),
    "tiled": lambda folder, a: tiff(folder / "a.tif", a, tile=(64, 96), compression="zlib"),
    "strips": lambda folder, a: tiff(folder / "a.tif", a, rowsperstrip=7, compression="zlib"),
    "plain": lambda folder, a: tiff(folder / "a.tif", a),
    "planes": lambda folder, a: tiff(
        folder / "a.tif", np.moveaxis(a, 2, 0), planarconfig="separate", tile=(64, 64), compression="zlib"
    ),
    "pages": lambda folder, a: (
        tifffile.imwrite(
            folder / "a.ome.tif",
            np.moveaxis(a, 2, 0),
            photometric="minisblack",
            tile=(64, 64),
            metadata={"axes": "CYX"},
        )
        or folder / "a.ome.tif"
    ),
    "ome": lambda folder, a: pyramid(folder / "a.ome.tif", a),
    "opaque tiff": lambda folder, a: tiff(
        folder / "a.tif", np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]), tile=(64, 64), extrasamples=[2]
    ),
    "array": lambda folder, a: a,
    "channels first": lambda folder, a: np.moveaxis(a, 2, 0),
    "fractions": lambda folder, a: (a / 255).astype(np.float32),
}


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def patches_of(image: np.ndarray, centres, side_px: float, side: int, **options) -> Patches:
    centres = np.asarray(centres, dtype=float)
    return Patches([open_image(image)], np.zeros(len(centres), int), centres, [side_px], side, RECIPE, **options)


def one_section(kind="hex", *, diameter=None, places=True, scale=2.0, jitter=0.0) -> ad.AnnData:
    """Spots 100 (hexagonal) or 200 um (square) apart, at `scale` pixels per um, on a grey image."""
    row, column = (index.ravel() for index in np.indices((8, 9)))
    if kind == "hex":
        column = 2 * column + row % 2
        xy = np.column_stack([50 * column, 50 * np.sqrt(3) * row])
    elif kind == "dense":  # every other place of a square grid
        column = 2 * column + row % 2
        xy = np.column_stack([100 * column, 100 * row])
    else:
        xy = np.column_stack([200 * column, 200 * row])
    xy = scale * (xy + 150) + np.random.default_rng(0).normal(0, jitter, (len(row), 2))
    adata = ad.AnnData(np.ones((len(row), 2), np.float32), obsm={"spatial": xy})
    if places:
        adata.obs["array_row"], adata.obs["array_col"] = row, column
    image = np.full((int(xy[:, 1].max() + 300), int(xy[:, 0].max() + 300), 3), 200, np.uint8)
    scalefactors = {"tissue_hires_scalef": 1.0} | ({} if diameter is None else {"spot_diameter_fullres": diameter})
    adata.uns["spatial"] = {"A": {"images": {"hires": image}, "scalefactors": scalefactors, "metadata": {}}}
    return adata


def resolve(adata, **options):
    return resolve_patches(adata, get_libraries(adata, "library_id"), **options)


def factors(adata, library="library_1") -> dict:
    return adata.uns["spatial"][library]["scalefactors"]


PINK = (205, 120, 170)


def slide(seed=0) -> tuple[np.ndarray, np.ndarray]:
    """An image with tissue of a shape without symmetry, black fiducials and specks; and where the tissue is."""
    y, x = np.mgrid[:500, :560]
    tissue = ((x - 200) / 120) ** 2 + ((y - 180) / 70) ** 2 < 1
    tissue |= (abs(x - 130) < 40) & (abs(y - 300) < 90)
    tissue |= ((x - 330) / 40) ** 2 + ((y - 350) / 25) ** 2 < 1
    tissue &= ~(((x - 220) / 30) ** 2 + ((y - 170) / 15) ** 2 < 1)  # a hole
    image = np.full((500, 560, 3), (240, 236, 240), float)
    image[tissue] = PINK
    image += np.random.default_rng(seed).normal(0, 6, image.shape)
    image[20:30, 20:540:20] = 40  # fiducials
    image[450:453, 300:303] = PINK  # a speck
    return np.clip(image, 0, 255).astype(np.uint8), tissue


def section(library="A", seed=0, pitch=20.0) -> ad.AnnData:
    """Visium-like spots on the tissue of the slide; the full resolution has four times as many pixels."""
    image, tissue = slide(seed)
    row, column = (index.ravel() for index in np.indices((25, 28)))
    column = 2 * column + row % 2
    xy = np.column_stack([15 + column * pitch / 2, 30 + row * pitch * np.sqrt(3) / 2])
    inside = (xy < (555, 495)).all(axis=1)
    row, column, xy = row[inside], column[inside], xy[inside]
    keep = tissue[xy[:, 1].astype(int), xy[:, 0].astype(int)]
    obs = pd.DataFrame({"array_row": row[keep], "array_col": column[keep], "library_id": library})
    obs.index = [f"{library}{i}" for i in range(keep.sum())]
    adata = ad.AnnData(np.ones((keep.sum(), 2), np.float32), obs=obs, obsm={"spatial": 4 * xy[keep]})
    scale = {"tissue_hires_scalef": 0.25, "tissue_lowres_scalef": 0.075, "spot_diameter_fullres": 4 * 0.65 * pitch}
    adata.uns["spatial"] = {library: {"images": {"hires": image}, "scalefactors": scale, "metadata": {}}}
    return adata


SECTIONS = {"n_libraries": 2, "n_genes": 20, "shape": (8, 8), "lattice": "hex"}
