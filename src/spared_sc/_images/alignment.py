"""Alignment of spots and tissue, and the likely mistake where they do not match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spared_sc._core.keys import Key
from spared_sc._core.slides import entry_of
from spared_sc._core.validate import listing
from spared_sc._images.measures import factor
from spared_sc._images.resolve import IN_SLOT, locate
from spared_sc._images.tissue import share_within, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from spared_sc._core.validate import Libraries
    from spared_sc._images.resolve import Located

_LONGEST = 1000  # pixels of the thumbnail in which tissue is looked for
_REACH = 0.7  # of the pitch: area that a spot represents
_AROUND = 1.5  # pitches around the outermost spots that belong to the comparison
_FITS = 0.3  # smallest agreement that is informative
_BETTER = 0.1  # difference of two agreements that counts
_ALIKE = 0.05  # difference that does not count


@dataclass(frozen=True)
class Alignment:
    """One library's spots beside the tissue in its image."""

    thumbnail: np.ndarray  # uint8 (y, x, 3)
    tissue: np.ndarray  # bool (y, x)
    centres: np.ndarray  # (n, 2) x and y of the spots in pixels of the thumbnail
    diameter: float  # of a spot, in pixels of the thumbnail; NaN where unknown
    counted: np.ndarray  # (n,) bool: said to be on tissue; all, where none is
    on_tissue: np.ndarray  # (n,) bool
    covered: float  # share of the tissue between the spots that they cover
    agreement: float  # phi coefficient between spots and tissue
    verdict: str  # "aligned", "misaligned", "ambiguous" or "unclear"
    cause: str  # the likely mistake, or those that cannot be excluded

    @property
    def share(self) -> float:
        """Share of the counted spots that are on tissue."""
        return float(self.on_tissue[self.counted].mean())


def align_libraries(adata: AnnData, libraries: Libraries, image: Any, spatial_key: str) -> dict[str, Alignment]:
    """The libraries' spots beside the tissue in their images."""
    located = locate(adata, libraries, image, spatial_key, quiet=True)
    in_tissue = _in_tissue(adata)
    result = {}
    for name, entry, rows in zip(libraries.names, located, libraries.rows(), strict=True):
        factors = entry_of(adata, name)["scalefactors"]
        scales = {f"tissue_{key}_scalef": factor(name, factors, f"tissue_{key}_scalef") for key in IN_SLOT}
        result[name] = align(entry, scales, in_tissue[rows])
    return result


def _in_tissue(adata: AnnData) -> np.ndarray:
    """Spots marked as on tissue, also if the column is text, as in tables read from CSV."""
    if Key.obs.in_tissue not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    column = adata.obs[Key.obs.in_tissue].astype(object).map(lambda value: {"True": 1, "False": 0}.get(value, value))
    numbers = pd.to_numeric(column, errors="coerce")
    unknown = column[numbers.isna() & column.notna()]
    if len(unknown):
        raise ValueError(
            f"adata.obs[{Key.obs.in_tissue!r}] holds {listing(unknown.unique(), 3)}: expected 1 for spots on tissue and 0 "
            "for the others. Convert the column, or remove it."
        )
    return (numbers > 0).to_numpy()


def align(located: Located, scale_factors: Mapping[str, float], in_tissue: np.ndarray) -> Alignment:
    """Compare the tissue with the spots as they are, and with the spots after undoing each common mistake.

    The agreement is the phi coefficient (Pearson's correlation of two binary variables), over the pixels within the
    outermost spots, between tissue and what lies within 0.7 pitches of a spot. Spots outside of `in_tissue` (n,) are
    left out, unless all are. Positions may have been multiplied by one of the `scale_factors` of `uns["spatial"]` by
    mistake.
    """
    from spared_sc._kernels.lattice import nearest_distance

    thumbnail, zoom = located.source.thumbnail(_LONGEST)
    tissue = tissue_mask(thumbnail)
    centres = located.centres * zoom
    counted = in_tissue if in_tissue.any() else np.ones_like(in_tissue)
    spots = centres[counted]
    pitch = nearest_distance(spots)
    agreement, covered = _agreement(tissue, spots, pitch)
    others = {
        cause: _agreement(tissue, spots @ turn[:, :2].T + turn[:, 2], pitch * np.sqrt(abs(np.linalg.det(turn[:, :2]))))[
            0
        ]
        for cause, turn in _mistakes(tissue.shape, located.kind, scale_factors).items()
    }
    verdict, cause = _judge(agreement, others)
    return Alignment(
        thumbnail=thumbnail,
        tissue=tissue,
        centres=centres,
        diameter=located.diameter * zoom,
        counted=counted,
        on_tissue=share_within(tissue, centres, 0) == 1,
        covered=covered,
        agreement=agreement,
        verdict=verdict,
        cause=cause,
    )


def _judge(agreement: float, others: Mapping[str, float]) -> tuple[str, str]:
    """Verdict and likely cause, from the agreement as it is and without each mistake."""
    best = max(others.values())
    alike = " or ".join(cause for cause, other in others.items() if other > best - _ALIKE)
    if max(best, agreement) < _FITS:
        return "unclear", ""
    if best > agreement + _BETTER:
        return "misaligned", alike
    if best > agreement - _ALIKE:
        return "ambiguous", alike
    return "aligned", ""


def _mistakes(shape: tuple[int, int], kind: str, factors: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Cause -> the map (2, 3) of positions in the thumbnail that undoes it."""
    height, width = shape
    undo: dict[str, Any] = {
        "x and y are exchanged": [[0, 1, 0], [1, 0, 0]],
        "the image is mirrored left to right": [[-1, 0, width], [0, 1, 0]],
        "the image is mirrored top to bottom": [[1, 0, 0], [0, -1, height]],
        "the image is rotated by 90 degrees clockwise": [[0, -1, width], [1, 0, 0]],
        "the image is rotated by 180 degrees": [[-1, 0, width], [0, -1, height]],
        "the image is rotated by 90 degrees counterclockwise": [[0, 1, 0], [-1, 0, height]],
    }
    for key in IN_SLOT:
        factor = factors.get(f"tissue_{key}_scalef", np.nan)
        if np.isnan(factor) or factor == 1:
            continue
        undo[f"the positions are in pixels of the {key} image, not of the full resolution"] = np.eye(2, 3) / factor
        if kind != key:
            undo[f"the image is the {key} one, the positions are in pixels of the full resolution"] = (
                np.eye(2, 3) * factor
            )
    return {cause: np.asarray(turn, dtype=float) for cause, turn in undo.items()}


def _agreement(tissue: np.ndarray, spots: np.ndarray, pitch: float) -> tuple[float, float]:
    """Phi coefficient between tissue and spots, and the share of the tissue that they cover."""
    from scipy.ndimage import distance_transform_edt

    height, width = tissue.shape
    first = np.floor(np.clip(spots.min(axis=0) - _AROUND * pitch, 0, (width, height))).astype(int)
    last = np.ceil(np.clip(spots.max(axis=0) + _AROUND * pitch, 0, (width, height))).astype(int)
    inside = (spots >= first).all(axis=1) & (spots < last).all(axis=1)
    if not inside.any():
        return 0.0, 0.0
    part = tissue[first[1] : last[1], first[0] : last[0]]
    empty = np.ones(part.shape, dtype=bool)
    x, y = (np.floor(spots[inside]).astype(int) - first).T
    empty[y, x] = False
    near = distance_transform_edt(empty) < max(_REACH * pitch, 1)
    both, n_near, n_tissue, n = (float(v) for v in ((near & part).sum(), near.sum(), part.sum(), part.size))
    spread = n_near * (n - n_near) * n_tissue * (n - n_tissue)
    phi = (n * both - n_near * n_tissue) / np.sqrt(spread) if spread > 0 else 0.0
    # Spots outside of the image agree with nothing.
    return phi * inside.mean(), both / n_tissue if n_tissue else 0.0
