"""What a completer is given and what it gives back, as plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from spared_sc._kernels.lattice import Lattice

_LN2 = np.log(2.0)
_SCALE_STEPS = 20  # of the alternating fit of a spot's and a gene's scale
_LARGEST = 60.0  # logarithm of a scale, of layers that are no logarithm
_LEAST_SHARE = 1e-6  # of a usual depth, for a spot without any count


@dataclass(frozen=True)
class Counts:
    """Raw counts of the genes to complete."""

    values: np.ndarray  # (n_spots, n_genes) float32, zero where not known
    depth: np.ndarray  # (n_spots,) float64, total count over all genes of the data


@dataclass(frozen=True)
class Sections:
    """Expression of the genes to complete, with all undetected and hidden entries taken out.

    The spots come in an order that does not depend on the user's.
    """

    values: np.ndarray  # (n_spots, n_genes) float32, zero where not known
    known: np.ndarray  # (n_spots, n_genes) booleans: detected and not hidden
    lattice: Lattice
    library: np.ndarray  # (n_spots,) library as 0, 1, ...
    counts: Counts | None = None
    # (n_spots,) float64, sum of the scaled expression 2^value - 1 over the genes that the layer was normalised by; only
    # where values are log2(scaled count + 1)
    total: np.ndarray | None = None
    embedding: np.ndarray | None = None  # (n_spots, n_features), such as of the image

    @property
    def n_libraries(self) -> int:
        """Number of libraries."""
        return int(self.library.max()) + 1

    @property
    def silent(self) -> np.ndarray:
        """(n_spots,) whether nothing is known of a spot: it says nothing, not that there is nothing."""
        return np.asarray(~self.known.any(axis=1))

    def need_counts(self) -> Counts:
        """The raw counts, or an error."""
        if self.counts is None:
            raise ValueError('there are no raw counts: put them into adata.X or adata.layers["counts"].')
        return self.counts

    def need_embedding(self) -> np.ndarray:
        """The embedding, or an error."""
        if self.embedding is None:
            raise ValueError("there is no embedding of the spots: name a table of obsm as `use_rep=`.")
        return self.embedding

    def whole_depth(self) -> np.ndarray:
        """(n_spots,) float64 depth, with what the genes to complete would add to it in silent spots.

        That is the library's median share; where no count is left, the library's median depth.
        """
        silent, counts = self.silent, self.need_counts()
        depth = counts.depth.copy()
        for code in range(self.n_libraries):
            here = self.library == code
            speaking, quiet = here & ~silent, here & silent & (counts.depth > 0)
            if not speaking.any():
                continue
            share = np.median(counts.values[speaking].sum(axis=1) / np.maximum(counts.depth[speaking], 1))
            depth[quiet] /= max(1 - share, 0.05)
            depth[here & silent & (counts.depth <= 0)] = np.median(counts.depth[speaking])
        return depth

    def check_size(self) -> None:
        """Refuse values whose squares are no longer finite."""
        with np.errstate(over="ignore"):
            if not np.isfinite(np.square(self.values).sum()):
                raise FloatingPointError(
                    "the values are too large to compute with: check that the layer holds no extreme values."
                )

    def without(self, hidden: np.ndarray) -> Sections:
        """The same sections as if the `hidden` entries, (n_spots, n_genes), had not been detected.

        What is left is normalised by what is left, so that its scale does not tell how much is hidden.
        """
        counts = self.counts
        if counts is not None:
            gone = np.sum(counts.values, axis=1, where=hidden, dtype=np.float64)
            counts = Counts(np.where(hidden, np.float32(0), counts.values), counts.depth - gone)
        values = np.where(hidden, np.float32(0), self.renormalised(hidden))
        return replace(self, values=values, known=self.known & ~hidden, counts=counts)

    def renormalised(self, hidden: np.ndarray) -> np.ndarray:
        """All known values, the hidden ones too, on the scale that estimates from `without(hidden)` can be on.

        That is the scale of what is left of the spot. Where no known entry is left, none shows that scale, and values stay
        as they are. (n_spots, n_genes) float32.
        """
        factor = self.rescaling(hidden)
        if factor is None:
            return self.values
        speaks = (self.known & ~hidden).any(axis=1, keepdims=True)
        return np.where(speaks, rescaled(self.values, factor[:, None]), self.values)

    def rescaling(self, hidden: np.ndarray) -> np.ndarray | None:
        """(n_spots,) factor of the scaled expression that is left, so that it has the same total as before."""
        if self.total is None:
            return None
        gone = np.sum(np.expm1(self.values * _LN2), axis=1, where=hidden, dtype=np.float64)
        left = self.total - gone
        return np.where(left > 1e-6 * self.total, self.total / np.where(left > 0, left, 1), 1)

    def of_spots(self, spots: np.ndarray) -> Sections:
        """The sections of some of the spots, given by index: whole libraries as a rule."""
        counts = self.counts
        return Sections(
            values=self.values[spots],
            known=self.known[spots],
            lattice=self.lattice.subset(spots),
            library=np.unique(self.library[spots], return_inverse=True)[1],
            counts=None if counts is None else Counts(counts.values[spots], counts.depth[spots]),
            total=None if self.total is None else self.total[spots],
            embedding=None if self.embedding is None else self.embedding[spots],
        )

    def of_genes(self, genes: np.ndarray) -> Sections:
        """The sections with some of the genes, given by index."""
        counts = self.counts
        return replace(
            self,
            values=self.values[:, genes],
            known=self.known[:, genes],
            counts=None if counts is None else Counts(counts.values[:, genes], counts.depth),
        )

    def count_scale(self) -> np.ndarray:
        """What one count adds to the scaled expression, (n_spots, n_genes) float32: values are log2(count x scale + 1).

        The scale is a factor of the spot times one of the gene, fitted on the logarithm over the known entries; for TPM
        and the like it is exact. A gene without known entries gets the typical factor, and a spot the one that is typical
        of its library at its whole depth.
        """
        counts = self.need_counts()
        known = self.known & (self.values > 0) & (counts.values > 0)
        log_scale = np.zeros(known.shape)
        log_scale[known] = _log_scaled(self.values[known]) - np.log(counts.values[known], dtype=np.float64)
        spot, gene = np.zeros((len(known), 1)), np.zeros(known.shape[1])
        per_spot, per_gene = known.sum(axis=1, keepdims=True), known.sum(axis=0)
        for _ in range(_SCALE_STEPS):
            gene = np.where(known, log_scale - spot, 0).sum(axis=0) / np.maximum(per_gene, 1)
            gene[per_gene == 0] = np.median(gene[per_gene > 0]) if per_gene.any() else 0.0
            spot = np.where(known, log_scale - gene, 0).sum(axis=1, keepdims=True) / np.maximum(per_spot, 1)
        silent = self.silent
        if silent.any() and not silent.all():
            log_depth = np.log(np.maximum(self.whole_depth(), 1))
            for code in range(self.n_libraries):
                here = self.library == code
                speaking = here & ~silent if (here & ~silent).any() else ~silent
                level = np.mean(spot[speaking, 0] + log_depth[speaking])
                spot[here & silent, 0] = level - log_depth[here & silent]
        return np.exp(np.clip(spot + gene, -_LARGEST, _LARGEST)).astype(np.float32)

    def exposure(self) -> np.ndarray:
        """Count that a scaled expression of one gives, (n_spots, n_genes) float32, if nothing of a spot is hidden.

        Then a silent spot is as shallow as its depth says, whatever scale `count_scale` takes for it.
        """
        share = self.need_counts().depth / np.maximum(self.whole_depth(), 1)
        return (np.maximum(share, _LEAST_SHARE)[:, None] / self.count_scale()).astype(np.float32)

    def thinned(self, rng: np.random.Generator) -> tuple[Sections, np.ndarray]:
        """A half of the counts as sections of their own, and the counts of the other half; see `halves`."""
        seen, held_out = self.halves(rng)
        return seen, held_out.need_counts().values

    def halves(self, rng: np.random.Generator, share: float = 0.5) -> tuple[Sections, Sections]:
        """The counts in two halves, or in a `share` of them and the rest, each as sections of their own.

        Every molecule goes to one part or the other by the toss of a coin, so given the expression the parts are
        independent (molecular cross-validation). The values are those of a section with these counts and their own total,
        taking the layer for log2(scaled count + 1); those at or below zero, which are none, stay as they are.
        """
        whole = self.need_counts()
        counts = whole.values.astype(np.int64)
        part = rng.binomial(counts, share)
        # Counts that float32 rounds up may exceed the depth.
        others = np.maximum(np.rint(whole.depth - counts.sum(axis=1)), 0).astype(np.int64)
        part_others = rng.binomial(others, share)
        return self._with(part, part_others, others), self._with(counts - part, others - part_others, others)

    def _with(self, part: np.ndarray, part_others: np.ndarray, others: np.ndarray) -> Sections:
        """Sections with a part of the counts, and of the spots' `others`: counts of genes that are not completed."""
        whole = self.need_counts()
        depth = part.sum(axis=1) + part_others
        known = part > 0
        up = whole.depth / np.maximum(depth, 1)
        share = part / np.maximum(whole.values, 1) * up[:, None]
        values = np.where(known, self.values, np.float32(0))
        positive = known & (values > 0)
        values[positive] = np.logaddexp(0, _log_scaled(values[positive]) + np.log(share[positive])) / _LN2
        total = self.total
        if total is not None:
            scaled = np.expm1(self.values * _LN2)
            rest = (total - scaled.sum(axis=1)) * part_others / np.maximum(others, 1) * up
            total = (scaled * share).sum(axis=1) + np.maximum(rest, 0)
        seen = Counts(part.astype(np.float32), depth.astype(np.float64))
        return replace(self, values=values, known=known, counts=seen, total=total)


def rescaled(values: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
    """log2(1 + factor x scaled expression), of values log2(1 + scaled expression); float32."""
    return np.log2(1 + factor * np.expm1(values * _LN2)).astype(np.float32)


def _log_scaled(values: np.ndarray) -> np.ndarray:
    """Logarithm of 2^values - 1, of values above zero however large."""
    exponent = values * _LN2
    return exponent + np.log(-np.expm1(-exponent))


@dataclass(frozen=True)
class Estimate:
    """What a completer says of every entry, the known ones included; arrays are (n_spots, n_genes) float32."""

    blocks: ClassVar[tuple[str, ...]] = ("values", "rate", "sd", "log_rate_sd")

    values: np.ndarray | None  # expression given detection, in the unit of the layer; `None` where nobody asked for it
    rate: np.ndarray | None = None  # expected count at the spot's depth, true zeros included
    sd: np.ndarray | None = None  # standard deviation of `values`, given detection
    log_rate_sd: np.ndarray | None = None  # standard deviation of the natural logarithm of `rate`
    params: dict[str, Any] = field(default_factory=dict)  # as used; what was tuned, as chosen
    interrupted: bool = False  # whether the method was, and this is what it had up to then

    def need_values(self) -> np.ndarray:
        """The values, or an error."""
        if self.values is None:
            raise ValueError("this estimate has no values given detection: ask the method for them.")
        return self.values

    def need_rate(self) -> np.ndarray:
        """The expected counts, or an error."""
        if self.rate is None:
            raise ValueError("this estimate has no expected counts.")
        return self.rate


CompletionFunction = Callable[[Sections], Estimate]  # a method whose parameters are set
