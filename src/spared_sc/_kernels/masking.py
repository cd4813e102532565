"""Choose detected entries to hide, for training and for scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spared_sc._kernels.lattice import Lattice
    from spared_sc._kernels.sections import Sections

_MOST = 0.9  # of a gene's detected entries, so that something stays visible of sparse genes
_BLOCK_HOPS = 2  # the centre of a block has no visible spot within the paper's neighbourhood
# Ways to hide detected entries, and the share that each hides where none is given.
SHARES = {"detected": 0.3, "released": 0.3, "spots": 0.1, "blocks": 0.1}
THINNINGS = {"thinning": 0.5, "thinning_90": 0.1}  # ways to split the molecules, and the share that is held out
REGIMES = {**SHARES, **THINNINGS}  # those of an evaluation; the order is part of the random draws


def hide_entries(sections: Sections, regime: str, share: float, rng: np.random.Generator) -> np.ndarray:
    """Entries (n_spots, n_genes) that a regime hides; it is an error if there are none, or if nothing would be left."""
    known, library = sections.known, sections.library
    if regime == "detected":
        hidden = hide_detected(known, share, rng)
    elif regime == "released":
        hidden = hide_share_of_all(known, share, rng)
    elif regime == "spots":
        hidden = hide_spots(known, library, share, rng)
    else:
        hidden = hide_blocks(known, library, sections.lattice, share, rng)
    if not hidden.any() or not (known & ~hidden).any():
        raise ValueError(
            f"the regime {regime!r} hides {int(hidden.sum())} of the {int(known.sum())} detected entries: more "
            "spots or genes are needed, or another share."
        )
    return hidden


def hide_detected(detected: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide a share of the detected entries, (n_spots, n_genes), each with the same chance."""
    return detected & (rng.random(detected.shape) < share)


def hide_share_of_all(detected: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide as many detected entries of every gene as make up a share of all of its entries, but at most 90 % of them.

    A detected entry is hidden with chance min(share / f, 0.9), where f is the share of spots that detected the gene.
    """
    expressed = detected.mean(axis=0)
    chance = np.minimum(np.divide(share, expressed, out=np.zeros_like(expressed), where=expressed > 0), _MOST)
    return detected & (rng.random(detected.shape) < chance)


def hide_spots(detected: np.ndarray, library: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide all detected entries of a random share of the spots of every library, (n_spots,) 0, 1, ..."""
    chosen = np.zeros(library.size, dtype=bool)
    for code in np.unique(library):
        rows = np.flatnonzero(library == code)
        chosen[rng.permutation(rows)[: _n_hidden(rows.size, share)]] = True
    return detected & chosen[:, None]


def hide_blocks(
    detected: np.ndarray, library: np.ndarray, lattice: Lattice, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Hide all detected entries of contiguous blocks that make up a share of the spots of every library.

    A block is a random spot and the spots within two hops of it, 19 on a full hexagonal array; the last block of a
    library ends where the share is reached.
    """
    indptr, indices, _ = lattice.hops(_BLOCK_HOPS)  # nearest first, so that a part of a block is contiguous too
    chosen = np.zeros(library.size, dtype=bool)
    for code in np.unique(library):
        rows = np.flatnonzero(library == code)
        left = _n_hidden(rows.size, share)
        for seed in rng.permutation(rows):
            if left == 0:
                break
            if chosen[seed]:
                continue
            block = np.concatenate([[seed], indices[indptr[seed] : indptr[seed + 1]]])
            block = block[~chosen[block]][:left]
            chosen[block] = True
            left -= block.size
    return detected & chosen[:, None]


def _n_hidden(n_spots: int, share: float) -> int:
    """Spots of a library to hide: at least one, and never all."""
    return min(max(1, round(share * n_spots)), n_spots - 1)
