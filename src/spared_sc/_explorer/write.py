"""The folder of a page: files that are numbered, never named by data, and a limit on their size."""

from __future__ import annotations

import io
import re
import tempfile
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc import __version__
from spared_sc._core.files import as_path
from spared_sc._core.outputs import complete_or_absent
from spared_sc._core.validate import listing
from spared_sc._explorer import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from spared_sc._explorer.collect import Collection, Column, Section

INDEX, REPORT = "index.html", "report.html"
_BOKEH = ("bokeh.min.js", "bokeh-gl.min.js", "bokeh-api.min.js")
_PAGE = ("explorer.css", "data.js", "colours.js", "maps.js", "page.js")
_CATALOGUE = ("explorer.css", "data.js", "catalogue.js")
# Every name that is ever written; a folder with others is somebody else's.
_OURS = re.compile(
    rf"{INDEX}|{REPORT}|assets|assets/({'|'.join(map(re.escape, (*_BOKEH, *_PAGE, *_CATALOGUE)))})|data|data/[a-z]+(-\d+)?\.js"
)
_QUALITY = 82  # of JPEG
_AROUND, _ENDS = 100, 64  # most bytes of a gene's file around its values: of the script, and of a panel's range


def place(export: str | Path | None) -> Path:
    """The folder to write; a temporary one by default."""
    if export is None:
        return Path(tempfile.mkdtemp(prefix="spared-sc-")) / "page"
    return as_path(export, "`export=`")


def write_page(collection: Collection, folder: Path, title: str, *, image_side: int, max_mb: float) -> None:
    """Write the page; refused before anything is written if it would be larger than `max_mb`."""
    fixed = {f"assets/{script.name}": script.read_bytes() for script in bokeh_scripts()}
    fixed |= own_files("index.html", *_PAGE)
    fixed |= {f"data/{name}.js": content for name, content in _pieces(collection, title, image_side)}
    check_size(collection, sum(map(len, fixed.values())), max_mb)
    genes = (
        (f"data/gene-{i}.js", _gene_piece(collection, gene, f"gene-{i}")) for i, gene in enumerate(collection.genes)
    )
    write_files(folder, chain(genes, fixed.items()))


def write_catalogue(table: dict[str, Any], folder: Path, report: bytes | None = None) -> None:
    """Write the page of the catalogue, given what it shows, and beside it the report of a benchmark."""
    contents = own_files("catalogue.html", *_CATALOGUE) | {"data/page.js": encode.piece("page", table)}
    write_files(folder, (contents | ({} if report is None else {REPORT: report})).items())


def own_files(index: str, *assets: str) -> dict[str, bytes]:
    """Files of this package: a page, which becomes the index, and what it loads."""
    page = files("spared_sc._explorer") / "page"
    return {INDEX: (page / index).read_bytes(), **{f"assets/{name}": (page / name).read_bytes() for name in assets}}


def write_files(folder: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """The folder with these files, whole or not at all."""
    with complete_or_absent(folder, replaceable=is_page, option="`export=`") as part:
        for name, content in contents:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)


def is_page(folder: Path) -> bool:
    """Whether a folder holds a page of this package and nothing else, or is empty."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return not names or (INDEX in names and all(_OURS.fullmatch(name) for name in names))


def bokeh_scripts() -> list[Path]:
    """Bokeh's scripts, as they lie in the installed package."""
    try:
        from bokeh.settings import settings
    except ImportError as error:
        raise ImportError(
            'the explorer needs Bokeh, an optional dependency: install it with `pip install "spared-sc[explore]"`.'
        ) from error
    return [Path(settings.bokehjs_path()) / "js" / name for name in _BOKEH]


class Image:
    """A section's picture as a JPEG, and the place of its corners in the pixels of the section."""

    def __init__(self, content: bytes, left: float, top: float, width: float, height: float) -> None:
        self.content = content
        self.place = [left, top, width, height]


def jpeg(section: Section, side: int) -> Image | None:
    """The part of the image that holds spots, at most `side` pixels wide and high."""
    from PIL import Image as Pictures

    if section.image is None:
        return None
    height, width = section.image.shape[:2]
    left, right, top, bottom = section.window
    x0, x1 = max(int(left), 0), min(int(np.ceil(right)) + 1, width)
    y0, y1 = max(int(top), 0), min(int(np.ceil(bottom)) + 1, height)
    pixels = _eight_bit(section.image)[y0:y1, x0:x1, :3]
    picture = Pictures.fromarray(pixels[..., 0] if pixels.shape[2] < 3 else pixels)
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return Image(file.getvalue(), x0 - 0.5, y0 - 0.5, x1 - x0, y1 - y0)


def _eight_bit(image: np.ndarray) -> np.ndarray:
    """0 to 255; numbers with a point are 0 to 1, or 0 to 255 where some are larger."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if image.dtype.kind in "ui":
        return np.ascontiguousarray(image / np.iinfo(image.dtype).max * 255, dtype=np.uint8)
    return np.clip(image * (1 if image.max() > 1 else 255), 0, 255).astype(np.uint8)


def check_size(collection: Collection, rest: int, max_mb: float) -> None:
    """Refuse a page that is too large, with the options that make it fit; `rest` are bytes of all but the genes' files."""
    n_spots, n_panels, n_genes = len(collection.rows), len(collection.panels), len(collection.genes)
    of_gene = encode.piece_size(n_spots * n_panels + n_spots // 8 + 1) + _AROUND + _ENDS * n_panels
    total, most = rest + n_genes * of_gene, max_mb * 1e6
    if total <= most:
        return
    fitting = int((most - rest) // of_gene)
    remedies = [f"`max_mb={int(np.ceil(total / 1e6))}`"]
    if fitting > 0:
        remedies.insert(0, f"`genes=` with at most {fitting:,} genes")
    if n_panels > 1:
        remedies.insert(-1, f"fewer `layers=` ({listing([p.name for p in collection.panels], 4)})")
    if len(collection.sections) > 1:
        remedies.insert(-1, "fewer `libraries=`")
    if rest > most:
        remedies.insert(0, "`img=False`")
    raise ValueError(
        f"the page would have {total / 1e6:,.0f} MB: {n_spots:,} spots x {n_genes:,} genes x {n_panels} layers, and "
        f"{rest / 1e6:,.1f} MB of images and scripts; {max_mb:g} MB are allowed. Pass {', '.join(remedies[:-1])}, or "
        f"{remedies[-1]}."
    )


def _pieces(collection: Collection, title: str, image_side: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files of data but those of genes."""
    start, sections = 0, []
    for i, section in enumerate(collection.sections):
        names = collection.adata.obs_names[section.rows].astype(str).tolist()
        body = encode.floats(section.xy[:, 0]) + encode.floats(section.xy[:, 1])
        yield f"section-{i}", encode.piece(f"section-{i}", {"names": names}, body)
        image = jpeg(section, image_side)
        if image is not None:
            yield f"image-{i}", encode.piece(f"image-{i}", {"place": image.place}, image.content)
        sections.append(_described(section, start, image is not None) | {"fitted": collection.fitted[i]})
        start += len(section.rows)
    for i, column in enumerate(collection.columns):
        yield f"column-{i}", _column_piece(column, collection.rows, f"column-{i}")
    yield "page", encode.piece("page", _summary(collection, sections, title))


def _described(section: Section, start: int, has_image: bool) -> dict[str, Any]:
    return {
        "name": section.name,
        "start": start,
        "n": len(section.rows),
        "size": float(section.size),
        "square": section.square,
        "window": [float(end) for end in section.window],
        "image": has_image,
    }


def _summary(collection: Collection, sections: list[dict[str, Any]], title: str) -> dict[str, Any]:
    """What the page knows from the start."""
    return {
        "version": __version__,
        "title": title,
        "n_spots": len(collection.rows),
        "sections": sections,
        "panels": [
            {key: getattr(panel, key) for key in ("kind", "title", "about", "unit", "scale", "zeros")}
            for panel in collection.panels
        ],
        "differences": collection.differences,
        "genes": collection.genes,
        "numbers": [
            {"label": label, "values": [encode.number(value) for value in values]}
            for label, values in collection.gene_numbers.items()
        ],
        "verdicts": collection.verdicts,
        "columns": [{"name": c.name, "categories": c.categories, "colours": c.colours} for c in collection.columns],
    }


def _gene_piece(collection: Collection, gene: str, name: str) -> bytes:
    """For every panel its codes, then the mask of the spots that detected the gene."""
    ends: list[tuple[float, float] | None] = []
    blocks = []
    for panel in collection.panels:
        values = collection.values(panel, gene)
        made = None if values is None else encode.coded(values)
        ends.append(made.ends if made else None)
        if made:
            blocks.append(made.codes.tobytes())
    detected = collection.detected(gene)
    if detected is not None:
        blocks.append(encode.packed(detected))
    return encode.piece(name, {"ends": ends, "detected": detected is not None}, b"".join(blocks))


def _column_piece(column: Column, rows: np.ndarray, name: str) -> bytes:
    values = column.values[rows]
    if column.categories is not None:
        codes = np.where(np.isfinite(values), np.nan_to_num(values), encode.MISSING).astype(np.uint8)
        return encode.piece(name, {"ends": None}, codes.tobytes())
    made = encode.coded(values)
    if made is None:  # no spot of these libraries has one
        return encode.piece(name, {"ends": [0.0, 0.0]}, bytes([encode.MISSING]) * len(rows))
    return encode.piece(name, {"ends": made.ends}, made.codes.tobytes())
