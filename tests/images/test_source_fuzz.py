"""Random image files, whole and damaged: every reader gives the same pixels, or the same refusal.

`helpers.fuzz` says how to try more of them, and how to repeat one.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import tifffile
from PIL import Image

import spared_sc as sp
from helpers.fuzz import numbers
from helpers.images import resolve
from spared_sc._images.source import open_image
from spared_sc.datasets._join import read_image

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = str(Path(sp.__file__).parent)
FILES = 60
PARTS = 3
SIDE = 8  # of a patch
REFUSED = (ValueError, FileNotFoundError, PermissionError)


class Case:
    """A file, and its pixels (y, x, 3) as they were written, or None where no reader may take it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = np.random.default_rng(seed)
        self.folder = folder
        self.array = self.random.integers(0, 256, (*self.random.integers(24, 90, 2), 3), dtype=np.uint8)
        make = self.random.choice([self.png, self.jpeg, self.lossless, self.tiff, self.tiff, self.ome, self.many])
        self.name = make.__name__
        self.path, self.expected = make()

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def pick(self, *values):
        return values[self.random.integers(len(values))]

    def alpha(self) -> np.ndarray:
        """A fourth channel that is opaque half of the time."""
        alpha = np.full(self.array.shape[:2], 255, np.uint8)
        if self.chance(0.5):
            alpha[self.random.integers(len(alpha))] = self.random.integers(0, 255)
        return alpha

    def save(self, ending: str, image: Image.Image, expected, **options) -> tuple[Path, np.ndarray | None]:
        path = self.folder / f"a.{ending}"
        if self.chance(0.3):
            exif = Image.Exif()
            exif[274] = int(self.random.integers(1, 9))
            options["exif"] = exif
        image.save(path, dpi=(300, 300), **options)
        return path, expected

    def modes(self) -> tuple[Image.Image, np.ndarray | None]:
        """The image in a mode of Pillow's, and what is to be read."""
        image, alpha = Image.fromarray(self.array), self.alpha()
        mode = self.pick("RGB", "RGB", "RGB", "RGBA", "P", "L", "LA", "1", "I;16")
        if mode == "RGBA":
            image.putalpha(Image.fromarray(alpha))
            return image, self.array if alpha.min() == 255 else None
        if mode == "P":
            image = image.quantize(int(self.random.integers(2, 257)))
            return image, np.asarray(image.convert("RGB"))
        if mode == "I;16":
            return Image.fromarray(self.array[..., 0].astype(np.uint16) * 257), None
        return (image, self.array) if mode == "RGB" else (image.convert(mode), None)

    def png(self):
        image, expected = self.modes()
        options = {}
        if image.mode == "P" and self.chance(0.3):
            options["transparency"], expected = int(np.asarray(image)[0, 0]), None
        if image.mode == "RGB" and self.chance(0.2):
            options["transparency"], expected = tuple(map(int, self.array[0, 0])), None
        return self.save("png", image, expected, **options)

    def jpeg(self):
        mode = self.pick("RGB", "RGB", "L", "CMYK")
        options = {"quality": int(self.random.integers(30, 96)), "progressive": self.chance(0.3)}
        path, _ = self.save("jpg", Image.fromarray(self.array).convert(mode), None, **options)
        return path, np.asarray(Image.open(path)) if mode == "RGB" else None

    def lossless(self):
        image, expected = self.modes()
        ending = self.pick("bmp", "webp")
        if image.mode not in ("RGB", "RGBA") or (ending == "bmp" and image.mode != "RGB"):
            image, expected = Image.fromarray(self.array), self.array
        if ending == "webp":
            return self.save(ending, image, expected, lossless=True, exact=True)
        path = self.folder / "a.bmp"
        image.save(path)
        return path, expected

    def layout(self) -> dict:
        """How a TIFF holds its pixels."""
        compression = self.pick(None, "zlib", "lzw", "packbits", "zstd", "lzma")
        options: dict = {"compression": compression}
        if compression in ("zlib", "lzw", "zstd") and self.chance(0.4):
            options["predictor"] = True
        if self.chance(0.5):
            options["tile"] = tuple(16 * int(n) for n in self.random.integers(1, 5, 2))
        else:
            options["rowsperstrip"] = int(self.random.integers(1, len(self.array) + 1))
        if self.chance(0.4):
            options["extratags"] = [(274, "H", 1, int(self.random.integers(1, 9)), True)]
        return options

    def write(self, array: np.ndarray, **options) -> Path:
        path = self.folder / "a.tif"
        file = {"byteorder": self.pick("<", ">"), "bigtiff": self.chance(0.3)}
        tifffile.imwrite(path, array, **file, **self.layout(), **options)
        return path

    def tiff(self):
        array, kind = (
            self.array,
            self.pick("rgb", "rgb", "alpha", "grey", "16 bits", "float", "palette", "cmyk", "white"),
        )
        if kind == "alpha":
            alpha = self.alpha()
            extra = self.pick("unspecified", "assocalpha", "unassalpha")
            path = self.write(np.dstack([array, alpha]), photometric="rgb", extrasamples=[extra])
            return path, array if alpha.min() == 255 else None
        if kind == "palette":
            colours = self.random.integers(0, 256, (3, 256), dtype=np.uint16)
            path = self.write(array[..., 0], photometric="palette", colormap=257 * colours)
            return path, colours.T[array[..., 0]].astype(np.uint8)
        if kind == "rgb":
            planes = self.chance(0.4)
            planar = {"planarconfig": "separate"} if planes else {}
            return self.write(np.moveaxis(array, 2, 0) if planes else array, photometric="rgb", **planar), array
        others = {
            "grey": (array[..., 0], "minisblack"),
            "white": (array[..., 0], "miniswhite"),
            "16 bits": (array.astype(np.uint16) * 257, "rgb"),
            "float": ((array / 255).astype(np.float32), "rgb"),
            "cmyk": (np.dstack([array, array[..., 0]]), "separated"),
        }
        values, photometric = others[kind]
        options = {"compression": "zlib", "tile": (16, 32)} if self.chance(0.5) else {}
        path = self.folder / "a.tif"
        tifffile.imwrite(path, values, photometric=photometric, **options)
        return path, None

    def ome(self):
        """Channels as pages, and pyramids."""
        path = self.folder / "a.ome.tif"
        if self.chance(0.5):
            tile = {"tile": (16, 32)} if self.chance(0.5) else {}
            planes = np.moveaxis(self.array, 2, 0)
            tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"}, **tile)
            return path, self.array
        with tifffile.TiffWriter(path, ome=True) as writer:
            options = {"photometric": "rgb", "tile": (16, 16), "compression": self.pick(None, "zlib")}
            writer.write(self.array, subifds=1, **options)
            writer.write(np.ascontiguousarray(self.array[::2, ::2]), subfiletype=1, **options)
        return path, self.array

    def many(self):
        """Several images in a file: the slide and its label, two slides, a stack."""
        path, kind = self.folder / "a.tif", self.pick("label", "two", "stack")
        with tifffile.TiffWriter(path, ome=self.chance(0.5)) as writer:
            if kind == "stack":
                writer.write(np.stack([self.array, self.array[::-1]]), photometric="rgb")
                return path, None
            second = self.array[: len(self.array) // 2] if kind == "label" else self.array[::-1]
            writer.write(self.array, photometric="rgb", metadata={"Name": "slide"})
            writer.write(second, photometric="rgb", metadata={"Name": "other"})
        return path, self.array if kind == "label" else None


def opened(path: Path) -> np.ndarray:
    source = open_image(path)
    height, width = source.shape
    whole = np.array(source.read(0, height, 0, width))
    top, left = height // 3, width // 4
    assert np.array_equal(source.read(top, height, left, width), whole[top:, left:])
    return whole


def hires(path: Path) -> np.ndarray:
    image, size = read_image(path)
    assert size == image.shape[1::-1]
    return image


def tiled(path: Path) -> np.ndarray:
    adata = sp.pp.tile_slide(path, mpp=1.0, pitch=10, spot_diameter=5, min_tissue=0)
    return adata.uns["spatial"]["slide"]["images"]["hires"]


def patched(path: Path) -> np.ndarray:
    """The image as its patches, put together again."""
    height, width = open_image(path).shape
    y, x = (index.ravel() for index in np.mgrid[: height // SIDE, : width // SIDE])
    adata = ad.AnnData(np.ones((len(x), 1), np.float32), obsm={"spatial": SIDE * np.column_stack([x, y]) + SIDE / 2})
    adata.obs["library_id"] = "A"
    patches = resolve(adata, image=path, size=SIDE, unit="pixel", output_size=SIDE).read(np.arange(len(x)))
    rows = patches.reshape(height // SIDE, width // SIDE, SIDE, SIDE, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(height // SIDE * SIDE, -1, 3)


READERS: tuple[Callable[[Path], np.ndarray], ...] = (opened, hires, tiled, patched)


def read(path: Path) -> dict[str, np.ndarray | str]:
    """What every reader gives: pixels, or the text of an error that this package raised on purpose."""
    results: dict[str, np.ndarray | str] = {}
    for reader in READERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of decoders, on damaged files
                results[reader.__name__] = reader(path)
        except REFUSED as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            if not last.filename.startswith(SOURCE):
                raise
            results[reader.__name__] = str(error)
    return results


def agree(results: dict[str, np.ndarray | str], expected: np.ndarray | None) -> bool:
    """Whether all readers give the same pixels, or the same error; a patch may lie beside what is damaged."""
    whole = results["opened"]
    if isinstance(whole, str):
        return all(
            one[:60] == whole[:60]
            if isinstance(one, str)
            else name == "patched"
            and expected is not None
            and np.array_equal(one, expected[: len(one), : one.shape[1]])
            for name, one in results.items()
        )
    for name, image in results.items():
        if isinstance(image, str):
            if "too few for one" not in image and "wider" not in image and "more than its image" not in image:
                return False
        elif not np.array_equal(image, whole[: len(image), : image.shape[1]] if name == "patched" else whole):
            return False
    return True


def try_whole(seed: int, folder: Path) -> str:
    case = Case(seed, folder)
    results = read(case.path)
    assert agree(results, case.expected), (
        seed,
        case.name,
        {k: v if isinstance(v, str) else v.shape for k, v in results.items()},
    )
    found = results["opened"]
    if case.expected is None:
        assert isinstance(found, str), (seed, case.name)
        return "refused"
    assert not isinstance(found, str), (seed, case.name, found)
    assert np.array_equal(found, case.expected), (seed, case.name)
    return "right"


def try_damaged(seed: int, folder: Path) -> str:
    case = Case(10**6 + seed, folder)
    damage(case)
    results = read(case.path)
    assert agree(results, case.expected), (
        seed,
        case.name,
        {k: v if isinstance(v, str) else v.shape for k, v in results.items()},
    )
    found = results["opened"]
    same = not isinstance(found, str) and case.expected is not None and np.array_equal(found, case.expected)
    return "refused" if isinstance(found, str) else "right" if same else "other pixels"


@pytest.mark.parametrize("part", range(PARTS))
def test_every_reader_gives_the_pixels_that_were_written(part, tmp_path):
    for seed in numbers(FILES, part, PARTS):
        try_whole(seed, tmp_path)


def damage(case: Case) -> None:
    """Change bytes, zero a part, cut the end off, or put other bytes behind."""
    content, random = bytearray(case.path.read_bytes()), case.random
    kind = case.pick("flip", "flip", "head", "zero", "cut", "insert")
    if kind == "flip":
        for place in random.integers(0, len(content), random.integers(1, 8)):
            content[place] ^= int(random.integers(1, 256))
    elif kind == "head":  # where measures and offsets are
        for place in random.integers(0, min(len(content), 400), random.integers(1, 4)):
            content[place] = int(random.integers(0, 256))
    elif kind == "zero":
        start = int(random.integers(0, len(content)))
        length = min(int(random.integers(1, 300)), len(content) - start)
        content[start : start + length] = bytes(length)
    elif kind == "cut":
        del content[int(random.integers(0, len(content))) :]
    else:
        place = int(random.integers(0, len(content)))
        content[place:place] = random.bytes(int(random.integers(1, 50)))
    case.path.write_bytes(content)


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_files_are_refused_or_read_alike_by_all(part, tmp_path):
    outcomes: Counter[str] = Counter()
    for seed in numbers(FILES, part, PARTS):
        outcomes[try_damaged(seed, tmp_path)] += 1
    print(dict(outcomes))  # shown by `pytest -s`, for long runs
