"""The explorer's pages: their size, the time to the first view and to another gene, and frames while the picture is moved.

    python measurements/explorer.py                     all collections, a few minutes
    python measurements/explorer.py --sets VLO
    python measurements/explorer.py --vlo FILE.h5ad       VLO, completed and audited before
    python measurements/explorer.py --screenshot docs/_static/explorer.png     of VLO, for the documentation
    python measurements/explorer.py --live                the page of VLO in docs/_static/explorer_vlo, which the docs link

Times are those of a headless Chromium on this machine, without a graphics card: medians over repeats. The first view is
complete when all maps are drawn; frames are those of one map per layer while the pointer drags it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _results
import anndata as ad
import numpy as np
from PIL import Image
from sections import read

import spared_sc as sp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.browser import browser, visit

if TYPE_CHECKING:
    from anndata import AnnData

    from helpers.browser import Visit
    from spared_sc._explorer.serve import Page

# Made-up sections: rows and columns, genes.
MADE_UP = {"5,000": ((71, 71), 1000), "50,000": ((224, 224), 64)}
SETS = ("VLO", *MADE_UP)
TITLE = "Human lung organoids"
LIVE = Path(__file__).parents[1] / "docs" / "_static" / "explorer_vlo"
REPEATS = 5
STEPS = 40  # of the pointer while it drags


def collection(name: str, vlo: Path | None) -> AnnData:
    """A collection with the layers to show; `vlo` is a file with that one."""
    if name == "VLO" and vlo is not None:
        return ad.read_h5ad(vlo)
    if name == "VLO":
        adata = read("VLO")
        sp.tl.spackle_complete(adata, library_key="library_id", show_progress_bar=False)
        sp.tl.audit_completion(adata, library_key="library_id", quick=True, show_progress_bar=False)
        return adata
    shape, n_genes = MADE_UP[name]
    adata = sp.datasets.synthetic(1, n_genes, shape=shape)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    sp.tl.median_complete(adata, library_key="library_id", mask_var=None)
    return adata


def measure(name: str, folder: Path, vlo: Path | None) -> dict[str, Any]:
    """A page written and looked at."""
    adata = collection(name, vlo)
    layers = ["log2tpm", "spackle", "spackle_denoised", "spackle_denoised_sd"] if name == "VLO" else None
    layers = layers or ["log2tpm", "median", "rate"]
    start = time.perf_counter()
    page = sp.explore(adata, folder / "page", layers=layers, library_key="library_id", open_browser=False)
    written = time.perf_counter() - start
    size = sum(path.stat().st_size for path in page.folder.rglob("*") if path.is_file())
    first, other, frames = [], [], []
    with browser(folder / "profile") as context:
        for _ in range(REPEATS):
            start = time.perf_counter()
            with visit(context, page.address) as seen:
                first.append(time.perf_counter() - start)
                other.append(another_gene(seen))
                frames.append(frames_per_second(seen))
                if seen.complaints:
                    raise RuntimeError(seen.complaints[0])
    return {
        "set": name,
        "spots": adata.n_obs,
        "genes": len(list(page.folder.glob("data/gene-*.js"))),
        "layers": len(layers),
        "mb": size / 1e6,
        "write": written,
        "first_view": float(np.median(first)),
        "gene": float(np.median(other)),
        "frames": float(np.median(frames)),
    }


def another_gene(seen: Visit) -> float:
    """Seconds from a click on the second gene to its picture."""
    item = seen.page.locator("#genes li").nth(1)
    number = int(item.get_attribute("id").removeprefix("gene-"))
    start = time.perf_counter()
    seen.choose_gene(number)
    return time.perf_counter() - start


def frames_per_second(seen: Visit) -> float:
    """Frames in a second while the first map is dragged to and fro."""
    box = seen.page.locator(".map .plot").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen.page.evaluate("""() => {
        window.frames_seen = 0;
        const count = () => { window.frames_seen++; requestAnimationFrame(count); };
        requestAnimationFrame(count);
    }""")
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    start, before = time.perf_counter(), seen.page.evaluate("window.frames_seen")
    for i in range(STEPS):
        seen.page.mouse.move(x + 60 * np.sin(i / 3), y + 40 * np.cos(i / 3))
    frames = seen.page.evaluate("window.frames_seen") - before
    elapsed = time.perf_counter() - start
    seen.page.mouse.up()
    return frames / elapsed


def write_live(adata: AnnData, folder: Path) -> Page:
    """The page of the lung organoids."""
    return sp.explore(adata, folder, library_key="library_id", title=TITLE, open_browser=False)


def screenshot(path: Path, adata: AnnData, folder: Path) -> None:
    """A picture of that page, of its first gene in two sections."""
    page = write_live(adata, folder / "page")
    with browser(folder / "profile") as context, visit(context, page.address) as seen:
        seen.page.set_viewport_size({"width": 1240, "height": 750})
        for box in seen.page.locator("#sections input").all()[2:]:
            box.uncheck()
        seen.page.evaluate("document.querySelector('aside').scrollTop = 0")
        seen.page.wait_for_timeout(3000)
        seen.page.screenshot(path=str(path))
    Image.open(path).convert("RGB").save(path, optimize=True)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--vlo", type=Path)
    parser.add_argument("--screenshot", type=Path)
    parser.add_argument("--live", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.screenshot:
            screenshot(options.screenshot, collection("VLO", options.vlo), Path(folder))
        if options.live:
            print(write_live(collection("VLO", options.vlo), LIVE).folder)
        if options.screenshot or options.live:
            return
        rows = []
        for name in options.sets:
            own = Path(folder) / str(len(rows))
            own.mkdir()
            rows.append(measure(name, own, options.vlo))
            print(rows[-1], flush=True)
    _results.write("explorer.pages", rows)


if __name__ == "__main__":
    main()
