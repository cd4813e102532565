"""Reading patches: does it keep an encoder waiting, and how much memory does a whole slide need?

    python measurements/patches.py [--spots 1024] [--slide-spots 100000] [--encoder resnet18] [--device cpu] [--threads 2]

1. Peak memory of reading 100,000 patches of a tiled TIFF, in a process of its own.
2. Speed of an encoder with random weights on patches that are cut from an image file, against the same patches in memory,
   by turns, in one run. Opening and decoding the file counts. The file is `--image` (such as a JPEG), or a slide that the
   script draws.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import _results
import numpy as np
import tifffile
import torch

from spared_sc._images.patches import Patches
from spared_sc._images.source import open_image
from spared_sc._models.encoders import embed_all, load_encoder

TILE, SIDE, BATCH = 512, 224, 64
PATCH_PX, PITCH_PX = 240.0, 369.0  # 65 and 100 um at 0.27 um per pixel
N_ROUNDS = 3


class InMemory:
    """The same patches as an array."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots."""
        return self.pixels[rows]


def draw_slide(path: Path, size: int) -> None:
    """A tiled JPEG TIFF of blurred noise, written tile by tile."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 240, (32, TILE // 8, TILE // 8, 3)).astype(np.uint8)
    tiles = coarse.repeat(8, axis=1).repeat(8, axis=2)
    n = (size // TILE) ** 2
    tifffile.imwrite(
        path,
        (tiles[i % len(tiles)] for i in range(n)),
        shape=(size, size, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="jpeg",
        bigtiff=True,
    )


def patches_of(path: Path, n_spots: int, n_threads: int) -> Patches:
    """Patches of neighbouring spots, row by row, as far apart as on a section; closer where the image is too small."""
    source = open_image(path)
    n_columns = int(np.ceil(np.sqrt(n_spots)))
    row, column = np.divmod(np.arange(n_spots), n_columns)
    pitch = min(PITCH_PX, min(source.shape) / n_columns)
    centres = (np.column_stack([column, row]) + 0.5) * pitch
    recipe = {"size": PATCH_PX, "unit": "pixel", "output_size": SIDE, "sources": {}}
    return Patches([source], np.zeros(n_spots, int), centres, [PATCH_PX], SIDE, recipe, n_threads=n_threads)


def speed(path: Path, options: argparse.Namespace) -> None:
    """Seconds of the encoder on patches from memory and from the file, by turns."""
    encoder = load_encoder(options.encoder, weights="random", device=options.device)
    pixels = patches_of(path, options.spots, options.threads).read(np.arange(options.spots))
    encoder.embed(pixels[:BATCH])
    seconds: dict[str, list[float]] = {"memory": [], "file": []}
    for _ in range(N_ROUNDS):
        for where in seconds:
            start = time.perf_counter()
            reader = InMemory(pixels) if where == "memory" else patches_of(path, options.spots, options.threads)
            embed_all(encoder, reader, batch_size=BATCH, show_progress_bar=False)
            seconds[where].append(time.perf_counter() - start)
    best = {where: min(times) for where, times in seconds.items()}
    row = {"image": "drawn TIFF" if options.image is None else path.suffix.lstrip("."), "spots": options.spots}
    speeds = {where: options.spots / time_ for where, time_ in best.items()}
    row |= {"encoder": options.encoder, "device": options.device, "threads": options.threads, **speeds}
    _results.write("patches.speed", [*others(row["image"]), {**row, "speed": best["memory"] / best["file"]}])


def others(image: str) -> list[_results.Row]:
    """Rows of other images that were measured before."""
    try:
        return [row for row in _results.read("patches.speed") if row["image"] != image]
    except KeyError:
        return []


def read_all(path: str, n_spots: int, n_threads: int, sender) -> None:
    """Read every patch once, and say how long it took and how much memory it needed."""
    start = time.perf_counter()
    patches = patches_of(Path(path), n_spots, n_threads)
    for first in range(0, n_spots, BATCH):
        patches.read(np.arange(first, min(first + BATCH, n_spots)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    sender.send((time.perf_counter() - start, peak))


def memory(path: Path, options: argparse.Namespace) -> None:
    """Peak memory of streaming many patches."""
    context = multiprocessing.get_context("spawn")  # not one that inherits what this process has in memory
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=read_all, args=(str(path), options.slide_spots, options.threads, sender))
    process.start()
    seconds, peak = receiver.recv()
    process.join()
    height, _ = open_image(path).shape
    row = {"pixels": height, "patches": options.slide_spots, "seconds": seconds, "peak_gib": peak / 2**30}
    _results.write("patches.slide", [row])


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="image file for the comparison of speed")
    parser.add_argument("--spots", type=int, default=1024)
    parser.add_argument("--slide-spots", type=int, default=100_000)
    parser.add_argument("--slide-size", type=int, default=40_960, help="pixels of the drawn slide's side")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        draw_slide(path, options.slide_size // TILE * TILE)
        memory(path, options)  # first: a process begins with the peak of the one that started it
        speed(options.image or path, options)


if __name__ == "__main__":
    main()
