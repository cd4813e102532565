"""Square cut-outs of images around spots, read on demand."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spared_sc._images.raster import Source
    from spared_sc._kernels.stain import Recolouring

_SAMPLE = 32  # patches whose pixels enter a fingerprint; at least one of every library


class AnyPatches(ABC):
    """Patches of spots, in the order of the spots."""

    side: int  # in pixels
    library: np.ndarray  # (n_spots,) codes
    names: np.ndarray  # (n_spots,) that tell the spots apart
    recipe: dict[str, Any]  # how the patches are made, as plain values

    def __len__(self) -> int:
        return len(self.library)

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots: uint8 (n, side, side, 3)."""

    def fingerprint(self, rows: np.ndarray | None = None) -> str:
        """Equal for equal patches of the same spots (all of them, or some) in the same order, wherever they are from.

        Hash of the recipe's measures, of the spots' names and of the pixels of some patches of every library.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        sources = list(self.recipe["sources"].values())
        codes, of_library = np.unique(self.library[rows], return_inverse=True)
        made = [self.recipe[name] for name in ("size", "unit", "output_size")]
        # To six digits: the last ones depend on the order of the spots.
        made += [f"{sources[code][name]:.6g}" for code in codes for name in ("patch_px", "um_per_px")]
        content = hashlib.sha256(json.dumps([made, self.names[rows].tolist()]).encode())
        n_each = max(1, _SAMPLE // max(1, len(codes)))
        for code in range(len(codes)):
            own = rows[of_library == code]
            content.update(self.read(own[np.linspace(0, len(own) - 1, n_each).astype(int)]).tobytes())
        return content.hexdigest()[:32]


class Patches(AnyPatches):
    """Patches that are cut from the images of some libraries."""

    def __init__(
        self,
        sources: Sequence[Source],  # of each library
        library: np.ndarray,  # (n_spots,) index into `sources`
        centres: np.ndarray,  # (n_spots, 2) x and y in pixels of the library's image, inside of it
        patch_px: Sequence[float],  # side of a patch in pixels of each library's image
        side: int,  # of the patches that `read` gives, in pixels
        recipe: dict[str, Any],  # how the patches are made, as plain values
        *,
        recolour: Sequence[Recolouring] | None = None,  # of each library; None leaves the colours as they are
        names: Sequence[str] | None = None,  # (n_spots,) that tell the spots apart, for fingerprints
        n_threads: int = 1,  # that cut and resize
    ) -> None:
        self.side = int(side)
        self.library = np.asarray(library)
        self.recipe = recipe
        self.names = np.asarray(range(len(self.library)) if names is None else names).astype(str)
        self.n_threads = n_threads
        self._recolour = recolour
        # Of a pyramid, the version that has just enough pixels.
        self._sources = [source.at_scale(px / side) for source, px in zip(sources, patch_px, strict=True)]
        zoom = np.array(
            [
                (used.shape[1] / source.shape[1], used.shape[0] / source.shape[0])
                for used, source in zip(self._sources, sources, strict=True)
            ]
        ).reshape(-1, 2)
        self._half = zoom * np.asarray(patch_px, dtype=float)[:, None] / 2
        self._centres = np.asarray(centres, dtype=float) * zoom[self.library]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots: uint8 (n, side, side, 3)."""
        rows = np.asarray(rows, dtype=np.int64)
        patches = np.empty((len(rows), self.side, self.side, 3), dtype=np.uint8)

        def cut(place: int) -> None:
            patches[place] = self._cut(rows[place])

        if self.n_threads == 1 or len(rows) < 4 * self.n_threads:
            for place in range(len(rows)):
                cut(place)
        else:
            with ThreadPoolExecutor(self.n_threads) as pool:
                list(pool.map(cut, range(len(rows))))
        return patches

    def _cut(self, row: int) -> np.ndarray:
        """One patch. What lies outside of the image is the image mirrored at its border."""
        from PIL import Image

        library = self.library[row]
        source, half, centre = self._sources[library], self._half[library], self._centres[row]
        first, last = centre - half, centre + half
        # Resizing looks at some pixels around the patch.
        margin = np.ceil(np.maximum(1, 2 * half / self.side)).astype(int) + 1
        left, top = (int(v) for v in np.floor(first) - margin)
        right, bottom = (int(v) for v in np.ceil(last) + margin)
        height, width = source.shape
        window = source.read(max(top, 0), min(bottom, height), max(left, 0), min(right, width))
        outside = ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0))
        if any(n for pair in outside for n in pair):
            window = np.pad(window, outside, mode="symmetric")
        box = (first[0] - left, first[1] - top, last[0] - left, last[1] - top)
        image = Image.fromarray(np.ascontiguousarray(window))
        patch = np.asarray(image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box))
        return patch if self._recolour is None else self._recolour[library](patch)
