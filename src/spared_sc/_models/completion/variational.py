"""Variational fit of the count model: Newton steps for the spots and for the genes in turn."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spared_sc._core.report import warn
from spared_sc._kernels.lowrank import random_svd
from spared_sc._kernels.smoothing import centre_kernel
from spared_sc._kernels.threads import Workers
from spared_sc._models import checkpoint as files
from spared_sc._models.completion.likelihood import Tally, likelihood

if TYPE_CHECKING:
    from pathlib import Path

    import scipy.sparse as sps

    from spared_sc._kernels.sections import Sections

_LIMITS = -12.0, 16.0  # of the logarithm of an expected count
_ENTRIES = {"cpu": 1 << 16}  # of the parts that are computed at once: on a CPU, as many as its cache holds
_ENTRIES_ELSEWHERE = 1 << 24
_MOST_VARIANCE = 4.0  # of a logarithm of a rate, in the mean of the rate
_SOLVER_STEPS, _SOLVED = 5, 1e-2  # conjugate gradients of a Newton step, and the remainder at which they end
_SHARED_GENES = 2_000  # at most, that the factors are learned from
_GENE_SWEEPS = 8  # at most, of other genes
_FIRST_SWEEPS = 4  # without factors
_LOST = 0.2  # share of lost detections until all factors are there
_GENES_PER_FACTOR = 8  # at least, of those that are not smooth
_LEAST_POWER = 1e-4  # variance of a factor's part in the logarithms of the rates, below which it is dropped
_CONVERGED = 1e-4  # gain of the lower bound by one iteration, in nats per entry
_SETTLED = 2e-3  # change of a share of lost detections by one iteration
_FALL = 1e-6  # of the lower bound, in nats per entry, that is rounding
_LOG_SIZES, _LOGIT_LOST = (-3.0, 6.0), (-8.0, 3.0)
_SAVE_EVERY = 2.0  # seconds, and ten times what saving takes


@dataclass(frozen=True)
class Band:
    """Factors of one smoothness."""

    width: float  # of their Gaussian kernel, in hops; 0: not smooth
    spacing: int  # hops between the spots that the kernel is centred on
    rank: int  # number of factors; those that do not pay vanish


@dataclass(frozen=True)
class FactorParams:
    """Hyper-parameters; none depends on the data set."""

    bands: tuple[Band, ...] = (Band(4.0, 4, 8), Band(1.5, 2, 8), Band(0.7, 1, 8), Band(0.0, 1, 8))
    spot_precision: float = 100.0  # of the prior of a spot's departure from its depth
    library_precision: float = 100.0  # of the prior of a gene's departure in a library
    size_precision: float = 5.0  # of the prior of the logarithm of a gene's size
    log_size: float = 2.0  # mean of that prior
    lost_precision: float = 10.0  # of the prior of a gene's share of lost detections around that of all genes
    few_lost_precision: float = 1.0  # of another prior of it, around few lost detections, where counts say little
    few_lost: float = -5.0  # logit of few
    relevance: float = 0.3  # standard deviation of a factor's loadings, as one gene more would have it
    n_iterations: int = 30


@dataclass(frozen=True)
class Posterior:
    """Where the fit is; tensors are on its device, those of double precision on the CPU."""

    weights: tuple[torch.Tensor, ...] = ()  # of each band, (n_centres, rank): posterior means
    weight_variances: tuple[torch.Tensor, ...] = ()
    band: tuple[int, ...] = ()  # number of the band of each of these
    spot: torch.Tensor = torch.empty(0)  # (n_spots,) departure from the depth
    loadings: torch.Tensor = torch.empty(0)  # (n_genes, n_factors) posterior means
    loading_variances: torch.Tensor = torch.empty(0)
    relevance: torch.Tensor = torch.empty(0)  # (n_factors,) prior variance of the loadings
    gene: torch.Tensor = torch.empty(0)  # (n_genes,)
    library_gene: torch.Tensor = torch.empty(0)  # (n_libraries, n_genes)
    log_size: torch.Tensor = torch.empty(0)  # (n_genes,) double
    lost: torch.Tensor = torch.empty(0)  # (n_genes,) double


@dataclass(frozen=True)
class Rates:
    """What the fit says of every entry, and of the genes; float32 and float64 arrays."""

    log_rate: np.ndarray  # (n_spots, n_genes) logarithm of the expected count
    log_rate_sd: np.ndarray  # (n_spots, n_genes) standard deviation of the logarithm of the rate
    size: np.ndarray  # (n_genes,)
    lost: np.ndarray  # (n_genes,)
    interrupted: bool = field(default=False, kw_only=True)

    def scaled(self, factor: np.ndarray) -> Rates:
        """The same with expected counts multiplied by a factor."""
        return replace(self, log_rate=self.log_rate + np.log(np.maximum(factor, 1e-9)))


def fit_rates(
    sections: Sections,
    params: FactorParams,
    *,
    device: torch.device,
    n_threads: int = 1,
    checkpoint: Path | None = None,
    identity: dict[str, Any] | None = None,
    keep_interrupted: bool = True,
    on_step: Callable[[], object] = lambda: None,
) -> Rates:
    """Fit the count model to sections with counts. Nothing is drawn: the same counts give the same result.

    The factors are learned from the genes with the most counts; others take them as they are, in blocks. `on_step` is
    called `n_steps(params, n_genes)` times. While the factors are learned, an interrupt ends the fit where it is, once all
    of them are there; earlier and later, and without `keep_interrupted`, it is raised. A fit that finds its own state in the folder `checkpoint` goes on
    from it.
    """
    genes = _blocks_of_genes(sections.need_counts().values)
    with Workers(n_threads) as workers:
        model = _Model(sections, params, device, workers, genes[0])
        with files.reserved(checkpoint):  # one process at a time
            interrupted = _fit_factors(
                model, checkpoint=checkpoint, identity=identity, keep_interrupted=keep_interrupted, on_step=on_step
            )
        parts = [model.finish()]
        for block in genes[1:]:
            other = _Model(sections, params, device, workers, block, model.smoothers)
            other.fit_genes(model.posterior)
            parts.append(other.finish())
            on_step()
    return replace(_joined(parts, genes), interrupted=interrupted)


def _joined(parts: list[Rates], genes: list[np.ndarray]) -> Rates:
    """Rates of blocks of genes side by side, in the order of the genes."""
    if len(parts) == 1:
        return parts[0]
    n, n_genes = len(parts[0].log_rate), sum(block.size for block in genes)
    log_rate, sd = (np.empty((n, n_genes), dtype=np.float32) for _ in range(2))
    size, lost = np.empty(n_genes), np.empty(n_genes)
    for part, block in zip(parts, genes, strict=True):
        log_rate[:, block], sd[:, block] = part.log_rate, part.log_rate_sd
        size[block], lost[block] = part.size, part.lost
    return Rates(log_rate, sd, size, lost)


def n_steps(params: FactorParams, n_genes: int) -> int:
    """Steps of a fit: one for the means, one for each band of factors, the iterations, and one for each block of genes."""
    return 1 + len(params.bands) + params.n_iterations + max(math.ceil(n_genes / _SHARED_GENES) - 1, 0)


def _blocks_of_genes(counts: np.ndarray) -> list[np.ndarray]:
    """The genes with the most counts, from which the factors are learned, then the others."""
    n_genes = counts.shape[1]
    if n_genes <= _SHARED_GENES:
        return [np.arange(n_genes)]
    order = np.argsort(-counts.sum(axis=0, dtype=np.float64), kind="stable")
    return [np.sort(order[start : start + _SHARED_GENES]) for start in range(0, n_genes, _SHARED_GENES)]


def _fit_factors(
    model: _Model,
    *,
    checkpoint: Path | None,
    identity: dict[str, Any] | None,
    keep_interrupted: bool,
    on_step: Callable[[], object],
) -> bool:
    """All steps of a fit; whether it was interrupted."""
    n_bands = len(model.params.bands)
    first, last, finished = 0, 1 + n_bands + model.params.n_iterations, False
    if checkpoint is not None and files.exists(checkpoint):
        first, finished = _restore(model, checkpoint, identity)
    bound, saved, cost = model.evaluate(), time.monotonic(), 0.0
    settled = model.posterior
    for _ in range(first):
        on_step()
    for step in range(first, last):
        if not finished:
            try:
                lost, before, bound = model.posterior.lost, bound, model.step(step, bound)
                moved = (model.posterior.lost - lost).abs().max()
                finished = step > n_bands and bound - before < _CONVERGED * model.n_entries and bool(moved < _SETTLED)
                bound = model.without_vanished(bound)
                settled = model.posterior
                due = finished or step + 1 == last or time.monotonic() - saved > max(_SAVE_EVERY, 10 * cost)
                if checkpoint is not None and due:
                    saved = time.monotonic()
                    _save(model, checkpoint, identity, step + 1, finished=finished)
                    cost = time.monotonic() - saved
            except KeyboardInterrupt:
                model.posterior = settled
                if checkpoint is not None:
                    _save(model, checkpoint, identity, step, finished=False)
                if step <= n_bands or not keep_interrupted:
                    raise
                warn(f"the fit of the count model was interrupted: its state after step {step} of {last} is used.")
                return True
        on_step()
    return False


class _Model:
    """The counts, the posterior, and first and second derivatives by the logarithms of the rates."""

    def __init__(
        self,
        sections: Sections,
        params: FactorParams,
        device: torch.device,
        workers: Workers,
        genes: np.ndarray,
        smoothers: list[_Smoother | None] | None = None,
    ):
        counts = sections.need_counts().values
        counts = counts if genes.size == counts.shape[1] else np.ascontiguousarray(counts[:, genes])
        depth = np.maximum(sections.whole_depth(), 1)
        self.params, self.device, self.workers = params, device, workers
        self.counts = self._tensor(counts)
        self.log_depth = self._tensor(np.log(depth / np.median(depth)))
        self.library = torch.as_tensor(sections.library, device=device)
        self.members = torch.nn.functional.one_hot(self.library, sections.n_libraries).float()
        # A spot without any count was not measured: it gets its factors from around it alone.
        self.speaks = self._tensor(~sections.silent)[:, None] if sections.silent.any() else None
        self.n_speaking = int((~sections.silent).sum())
        self.n_entries = counts.size
        self.tally = Tally.of(counts)
        n, n_genes = counts.shape
        most = max(_ENTRIES.get(device.type, _ENTRIES_ELSEWHERE) // n_genes, 1)
        self.parts = [slice(start, min(start + most, n)) for start in range(0, n, most)]
        self.smoothers = smoothers or [
            None if band.width == 0 else _Smoother(centre_kernel(sections.lattice, band.width, band.spacing), self)
            for band in params.bands
        ]
        share = self.counts.sum(dim=0) / self.log_depth.exp().sum()
        none = torch.zeros(n_genes, 0, device=device)
        self.posterior = Posterior(
            spot=torch.zeros(n, device=device),
            loadings=none,
            loading_variances=none,
            relevance=none[0],
            gene=torch.log(share + 1e-4),
            library_gene=torch.zeros(sections.n_libraries, n_genes, device=device),
            log_size=torch.full((n_genes,), params.log_size, dtype=torch.float64),
            lost=torch.full((n_genes,), _LOST, dtype=torch.float64),
        )
        self.has_all_factors = False
        self.shared: Posterior | None = None  # of other genes, whose factors and priors these take
        self.slope, self.weight = torch.empty_like(self.counts), torch.empty_like(self.counts)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32).to(self.device)

    # --- From centres to spots

    def spread(self, blocks: Sequence[torch.Tensor], *, squared: bool = False) -> torch.Tensor:
        """Values of the factors at the spots, (n_spots, n_factors), of weights of the bands."""
        columns = [
            block if (smoother := self.smoothers[band]) is None else smoother.spread(block, squared=squared)
            for block, band in zip(blocks, self.posterior.band, strict=True)
        ]
        return torch.cat([self.counts.new_empty(len(self.counts), 0), *columns], dim=1)

    def gather(self, values: torch.Tensor, *, squared: bool = False) -> list[torch.Tensor]:
        """The transpose of `spread`."""
        sizes = [block.shape[1] for block in self.posterior.weights]
        blocks = values.split(sizes, dim=1) if sizes else ()
        return [
            block if (smoother := self.smoothers[band]) is None else smoother.gather(block, squared=squared)
            for block, band in zip(blocks, self.posterior.band, strict=True)
        ]

    def _spread_all(self) -> None:
        """The factors at the spots, and their variances."""
        self.factors = self.spread(self.posterior.weights)
        self.factor_variances = self.spread(self.posterior.weight_variances, squared=True)

    # --- The lower bound and its derivatives

    def evaluate(self) -> float:
        """Lower bound of the log-likelihood of the counts, up to a constant; fills in all derivatives.

        The mean of the log-likelihood over the posterior is taken to second order of the logarithm of the rate.
        """
        self._spread_all()
        at = self.posterior
        size, lost = (x.to(torch.float32).to(self.device) for x in (at.log_size.exp(), at.lost))
        left, right = self._variance_parts()
        loadings = at.loadings.T.contiguous()
        level, base = at.gene + at.library_gene, (self.log_depth + at.spot)[:, None]

        def part(rows: slice) -> tuple[float, torch.Tensor]:
            half_variance = (left[rows] @ right).clamp_(max=_MOST_VARIANCE / 2)
            log_rate = self.factors[rows] @ loadings
            log_rate += base[rows]
            log_rate += level[self.library[rows]]
            log_rate += half_variance
            log_rate.clamp_(*_LIMITS)
            counts = self.counts[rows]
            speaks = None if self.speaks is None else self.speaks[rows]
            bound, slope, weight, sums = likelihood(log_rate, counts, size, lost, half_variance, speaks)
            self.slope[rows], self.weight[rows] = slope, weight
            return bound.item(), sums.cpu().double()

        parts = self.workers.map(part, self.parts)
        self.sums = torch.stack([sums for _, sums in parts]).sum(dim=0)
        bound = sum(bound for bound, _ in parts) + self.tally.log_likelihood(at.log_size.exp(), at.lost)
        return bound - self._divergence()

    def _variance_parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two matrices whose product is half the posterior variance of the factors' part in the log rates."""
        at = self.posterior
        left = torch.cat([self.factor_variances, self.factors**2], dim=1)
        right = torch.cat([at.loadings**2 + at.loading_variances, at.loading_variances], dim=1)
        return left, (right / 2).T.contiguous()

    def _divergence(self) -> float:
        """Kullback-Leibler divergence of the posterior from the prior, and minus the logarithms of other priors."""
        at, params = self.posterior, self.params
        total = torch.zeros((), dtype=torch.float64)
        for mean, variance in zip(at.weights, at.weight_variances, strict=True):
            total += (mean**2 + variance - 1 - torch.log(variance)).sum().cpu()
        ratio = at.loading_variances / at.relevance
        total += (at.loadings**2 / at.relevance + ratio - 1 - torch.log(ratio)).sum().cpu()
        total += (params.relevance**2 / at.relevance + torch.log(at.relevance)).sum().cpu()
        total += params.spot_precision * (at.spot**2).sum().cpu()
        total += params.library_precision * (at.library_gene**2).sum().cpu()
        total += params.size_precision * ((at.log_size - params.log_size) ** 2).sum()
        logit = torch.logit(at.lost)
        total += params.lost_precision * ((logit - self._typical(logit)) ** 2).sum()
        total += params.few_lost_precision * ((logit - params.few_lost) ** 2).sum()
        return float(total) / 2

    # --- Steps

    def step(self, number: int, bound: float) -> float:
        """One step of `fit_rates`; the lower bound after it."""
        self.has_all_factors = number > len(self.params.bands)
        if number == 0:
            # The dispersion comes first, or else factors take over what is noise.
            for _ in range(_FIRST_SWEEPS - 1):
                bound = self._sweep(bound)
        elif number <= len(self.params.bands):
            self._add_factors(number - 1)
            bound = self.evaluate()
        return self._sweep(bound)

    def fit_genes(self, shared: Posterior) -> None:
        """Fit what belongs to the genes, given the posterior of all else from a fit to other genes."""
        none = torch.zeros(self.counts.shape[1], shared.loadings.shape[1], device=self.device)
        self.shared, self.has_all_factors = shared, True
        self.posterior = replace(
            self.posterior,
            weights=shared.weights,
            weight_variances=shared.weight_variances,
            band=shared.band,
            spot=shared.spot,
            loadings=none,
            loading_variances=none + 0.01,
            relevance=shared.relevance,
        )
        bound = self.evaluate()
        for _ in range(_GENE_SWEEPS):
            before, bound = bound, self._move(self._gene_direction, bound)
            self.posterior = self._with_dispersion()
            bound = self.evaluate()
            if bound - before < _CONVERGED * self.n_entries:
                break

    def _sweep(self, bound: float) -> float:
        """Genes, then size and lost detections, then spots."""
        bound = self._move(self._gene_direction, bound)
        self.posterior = self._with_dispersion()
        return self._move(self._spot_direction, self.evaluate())

    def _move(self, direction: Callable[[], tuple[Posterior, Posterior]], bound: float) -> float:
        """Take a Newton step, halved until the lower bound does not fall; the bound after it.

        The direction has new variances and the difference of the means.
        """
        before = self.posterior
        after, difference = direction()
        for size in (1.0, 0.5, 0.25, 0.125, 0.0625):
            self.posterior = _moved(after, difference, size)
            new = self.evaluate()
            if new >= bound - _FALL * self.n_entries:
                return new
        self.posterior = before
        new = self.evaluate()
        if not np.isfinite(new):
            raise FloatingPointError("the count model diverged: check that the counts hold no extreme values.")
        return new

    def _spot_direction(self) -> tuple[Posterior, Posterior]:
        at, precision = self.posterior, self.params.spot_precision
        spread_weight = self.weight @ at.loading_variances
        slope = self.slope @ at.loadings - spread_weight * self.factors
        of_weights = [x - weights for x, weights in zip(self.gather(slope), at.weights, strict=True)]
        of_spots = self.slope.sum(dim=1) - precision * at.spot
        curvature = self.weight @ (at.loadings**2 + at.loading_variances)
        diagonal = [x + 1 for x in self.gather(curvature, squared=True)]
        loadings = torch.cat([at.loadings, torch.ones_like(at.gene)[:, None]], dim=1)
        transposed = loadings.T.contiguous()

        def product(blocks: list[torch.Tensor]) -> list[torch.Tensor]:
            values = torch.cat([self.spread(blocks[:-1]), blocks[-1][:, None]], dim=1)
            result = torch.empty_like(values)

            def part(rows: slice) -> None:
                change = values[rows] @ transposed
                change *= self.weight[rows]
                torch.mm(change, loadings, out=result[rows])

            self.workers.map(part, self.parts)
            result[:, :-1] += spread_weight * values[:, :-1]
            gathered = self.gather(result[:, :-1])
            return [
                *(x + block for x, block in zip(gathered, blocks[:-1], strict=True)),
                result[:, -1] + precision * blocks[-1],
            ]

        right, scale = [*of_weights, of_spots], [*diagonal, self.weight.sum(dim=1) + precision]
        *weights, spot = _solve(product, right, scale)
        after = replace(at, weight_variances=tuple(1 / x for x in diagonal))
        return after, Posterior(weights=tuple(weights), spot=spot)

    def _gene_direction(self) -> tuple[Posterior, Posterior]:
        at, precision = self.posterior, self.params.library_precision
        n_factors = at.loadings.shape[1]
        left = torch.cat([self.factors, self.members], dim=1)
        squares = torch.cat([self.factors**2 + self.factor_variances, self.members], dim=1)
        slope = self._over_spots(self.slope, left)
        curvature = self._over_spots(self.weight, squares)
        spread_weight = self._over_spots(self.weight, self.factor_variances)
        of_loadings = slope[:, :n_factors] - spread_weight * at.loadings - at.loadings / at.relevance
        by_library = slope[:, n_factors:].T
        diagonal = curvature[:, :n_factors] + 1 / at.relevance
        weight_by_library = curvature[:, n_factors:].T

        def product(blocks: list[torch.Tensor]) -> list[torch.Tensor]:
            loadings, library_gene, gene = blocks
            right = torch.cat([loadings, (library_gene + gene).T], dim=1).T.contiguous()

            def part(rows: slice) -> torch.Tensor:
                change = left[rows] @ right
                change *= self.weight[rows]
                return change.T @ left[rows]

            result = _sum(self.workers.map(part, self.parts))
            of_library = result[:, n_factors:].T
            return [
                result[:, :n_factors] + spread_weight * loadings + loadings / at.relevance,
                of_library + precision * library_gene,
                of_library.sum(dim=0) + 1e-3 * gene,
            ]

        loadings, library_gene, gene = _solve(
            product,
            [of_loadings, by_library - precision * at.library_gene, by_library.sum(dim=0)],
            [diagonal, weight_by_library + precision, weight_by_library.sum(dim=0) + 1e-3],
        )
        variances = 1 / diagonal
        after = replace(at, loading_variances=variances)
        return after, Posterior(loadings=loadings, library_gene=library_gene, gene=gene)

    def _over_spots(self, entries: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """entries.T @ columns, (n_genes, k)."""
        return _sum(self.workers.map(lambda rows: entries[rows].T @ columns[rows], self.parts))

    def _with_dispersion(self) -> Posterior:
        """The posterior with the best relevance, and with Newton steps for size and lost detections."""
        at, params = self.posterior, self.params
        squares = (at.loadings**2 + at.loading_variances).sum(dim=0)
        relevance = (squares + params.relevance**2) / (len(at.loadings) + 1) if self.shared is None else at.relevance
        size = at.log_size.exp()
        first, second = (x + y for x, y in zip(self.sums[:2], self.tally.by_size(size), strict=True))
        slope = size * first - params.size_precision * (at.log_size - params.log_size)
        curvature = (size * first + size**2 * second - params.size_precision).abs().clamp(min=1e-3)
        log_size = (at.log_size + (slope / curvature).clamp(-1, 1)).clamp(*_LOG_SIZES)
        if not self.has_all_factors:
            # Or else the zeros of a gene that is off in places pass for lost, and no factor is needed for them.
            return replace(at, relevance=relevance, log_size=log_size)
        logit = torch.logit(at.lost)
        slope = self.sums[2] - self.n_speaking * at.lost - params.lost_precision * (logit - self._typical(logit))
        slope -= params.few_lost_precision * (logit - params.few_lost)
        # The chance that a zero was lost changes with the share, which makes the curvature smaller than that of a count.
        curvature = (self.n_speaking * at.lost * (1 - at.lost) / 2).clamp(min=1)
        curvature += params.lost_precision + params.few_lost_precision
        lost = torch.sigmoid((logit + (slope / curvature).clamp(-1, 1)).clamp(*_LOGIT_LOST))
        return replace(at, relevance=relevance, log_size=log_size, lost=lost)

    def _typical(self, logit: torch.Tensor) -> torch.Tensor:
        """Mean of the logits of the lost shares, over the genes that the factors are from."""
        return (logit if self.shared is None else torch.logit(self.shared.lost)).mean()

    def _add_factors(self, band: int) -> None:
        """Factors of another band, from the leading singular vectors of what the rates do not explain yet."""
        at = self.posterior
        smoother, rank = self.smoothers[band], self.params.bands[band].rank
        if smoother is None:  # without neighbours, only genes tell a factor from noise
            rank = min(rank, self.counts.shape[1] // _GENES_PER_FACTOR)
        if not rank:
            return
        by_spot = self.weight.sum(dim=1, keepdim=True)
        if smoother is None:
            left, by_centre = self.slope, by_spot
        else:
            left, by_centre = smoother.gather(self.slope), smoother.gather(by_spot, squared=True)
        by_gene = self.weight.sum(dim=0) / self.weight.sum().clamp(min=1e-12)
        left = left / torch.sqrt(by_centre * by_gene + 1e-3)
        vectors, values, _ = random_svd(left.cpu().numpy(), rank, seed=0)
        weights = self._tensor(vectors * values)
        at_spots = weights if smoother is None else smoother.spread(weights)
        weights = weights / (at_spots**2).mean(dim=0).sqrt().clamp(min=1e-12) * 0.7  # near the scale of the prior
        new = torch.zeros(len(at.loadings), weights.shape[1], device=self.device)
        self.posterior = replace(
            at,
            weights=(*at.weights, weights),
            weight_variances=(*at.weight_variances, torch.full_like(weights, 0.25)),
            band=(*at.band, band),
            loadings=torch.cat([at.loadings, new], dim=1),
            loading_variances=torch.cat([at.loading_variances, new + 0.01], dim=1),
            relevance=torch.cat([at.relevance, new[0] + self.params.relevance**2]),
        )

    def without_vanished(self, bound: float) -> float:
        """Drop factors that have vanished; the lower bound after it."""
        at = self.posterior
        if not self.has_all_factors:  # one that has just come may still grow
            return bound
        kept = (at.loadings**2).mean(dim=0) * (self.factors**2).mean(dim=0) > _LEAST_POWER
        if kept.all():
            return bound
        of_block = kept.split([block.shape[1] for block in at.weights])
        blocks = [
            (mean[:, here].contiguous(), variance[:, here].contiguous(), band)
            for mean, variance, band, here in zip(at.weights, at.weight_variances, at.band, of_block, strict=True)
            if here.any()
        ]
        self.posterior = replace(
            at,
            weights=tuple(mean for mean, _, _ in blocks),
            weight_variances=tuple(variance for _, variance, _ in blocks),
            band=tuple(band for _, _, band in blocks),
            loadings=at.loadings[:, kept].contiguous(),
            loading_variances=at.loading_variances[:, kept].contiguous(),
            relevance=at.relevance[kept],
        )
        return self.evaluate()

    def finish(self) -> Rates:
        """Rates of the posterior as it is; the derivatives are given up, and with them their memory."""
        of_spot, of_level = self._other_variances()
        self.slope = self.weight = self.counts.new_empty(0)
        self._spread_all()
        at = self.posterior
        left, right = self._variance_parts()
        log_rate, sd = (np.empty(self.counts.shape, dtype=np.float32) for _ in range(2))

        def part(rows: slice) -> None:
            half_variance = (left[rows] @ right).clamp_(max=_MOST_VARIANCE / 2)
            mean = self.factors[rows] @ at.loadings.T
            mean += (self.log_depth + at.spot)[rows, None] + (at.gene + at.library_gene)[self.library[rows]]
            log_rate[rows] = (mean + half_variance).clamp_(*_LIMITS).cpu().numpy()
            variance = 2 * half_variance + of_spot[rows, None] + of_level[self.library[rows]]
            sd[rows] = variance.sqrt().cpu().numpy()

        self.workers.map(part, self.parts)
        return Rates(log_rate, sd, at.log_size.exp().numpy(), at.lost.numpy())

    def _other_variances(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior variances of the spots' departures, and of the levels of the genes in the libraries."""
        of_spot = 1 / (self.weight.sum(dim=1) + self.params.spot_precision)
        by_library = self._over_spots(self.weight, self.members).T
        prior = 1 / self.params.library_precision + 1 / by_library.sum(dim=0).clamp(min=1 / _MOST_VARIANCE)
        return of_spot, 1 / (by_library + 1 / prior)


class _Smoother:
    """A kernel from centres to spots."""

    def __init__(self, kernel: sps.csr_matrix, model: _Model):
        self.map = model.workers.map
        squares = kernel.multiply(kernel).tocsr()
        self._spread, self._spread_squares, self._gather, self._gather_squares = (
            self._in_parts(matrix, model) for matrix in (kernel, squares, kernel.T.tocsr(), squares.T.tocsr())
        )

    @staticmethod
    def _in_parts(matrix: sps.csr_matrix, model: _Model) -> list[torch.Tensor]:
        size = model.parts[0].stop
        return [_sparse(matrix[start : start + size], model.device) for start in range(0, matrix.shape[0], size)]

    def spread(self, values: torch.Tensor, *, squared: bool = False) -> torch.Tensor:
        """Values (n_centres, k) at the spots."""
        return self._times(self._spread_squares if squared else self._spread, values)

    def gather(self, values: torch.Tensor, *, squared: bool = False) -> torch.Tensor:
        """The transpose of `spread`."""
        return self._times(self._gather_squares if squared else self._gather, values)

    def _times(self, parts: list[torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        values = values.contiguous()
        return torch.cat(self.map(lambda part: torch.sparse.mm(part, values), parts))


def _sparse(matrix: sps.csr_matrix, device: torch.device) -> torch.Tensor:
    indptr, indices = (torch.as_tensor(x.astype(np.int64)) for x in (matrix.indptr, matrix.indices))
    values = torch.as_tensor(matrix.data.astype(np.float32))
    with warnings.catch_warnings():
        # Torch calls its compressed rows a beta; their product with a dense matrix is six times faster than the other.
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(indptr, indices, values, size=matrix.shape, device=device)


def _solve(
    product: Callable[[list[torch.Tensor]], list[torch.Tensor]], right: list[torch.Tensor], diagonal: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Some conjugate gradients for a symmetric matrix, given by its product with a vector, and its diagonal."""
    solution = [torch.zeros_like(x) for x in right]
    left = list(right)
    scaled = [x / d for x, d in zip(left, diagonal, strict=True)]
    direction, old = scaled, _dot(left, scaled)
    first = old
    for _ in range(_SOLVER_STEPS):
        if not old > _SOLVED * first:
            break
        image = product(direction)
        size = old / _dot(direction, image)
        solution = [x + size * d for x, d in zip(solution, direction, strict=True)]
        left = [x - size * d for x, d in zip(left, image, strict=True)]
        scaled = [x / d for x, d in zip(left, diagonal, strict=True)]
        new = _dot(left, scaled)
        direction = [x + new / old * d for x, d in zip(scaled, direction, strict=True)]
        old = new
    return solution


def _dot(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return sum(float((x * y).sum()) for x, y in zip(one, other, strict=True))


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _moved(posterior: Posterior, difference: Posterior, size: float) -> Posterior:
    """The posterior with its means moved along the differences that are there."""
    if difference.weights or difference.spot.numel():
        pairs = zip(posterior.weights, difference.weights, strict=True)
        return replace(
            posterior,
            weights=tuple(mean + size * change for mean, change in pairs),
            spot=posterior.spot + size * difference.spot,
        )
    return replace(
        posterior,
        loadings=posterior.loadings + size * difference.loadings,
        library_gene=posterior.library_gene + size * difference.library_gene,
        gene=posterior.gene + size * difference.gene,
    )


def _save(model: _Model, folder: Path, identity: dict[str, Any] | None, step: int, *, finished: bool) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, value in vars(model.posterior).items():
        blocks = dict(enumerate(value)) if isinstance(value, tuple) else {"": value}
        arrays |= {f"{name}.{i}": x.cpu().numpy() for i, x in blocks.items() if isinstance(x, torch.Tensor)}
    card = {"identity": _identity(model, identity), "band": model.posterior.band, "step": step, "finished": finished}
    files.save(folder, "count model", arrays, card)


def _restore(model: _Model, folder: Path, identity: dict[str, Any] | None) -> tuple[int, bool]:
    """Take the state in the folder; the next step, and whether the fit had converged."""
    arrays, card = files.load(folder, "count model")
    if not card.keys() >= {"identity", "band", "step", "finished"} or card["identity"] != _identity(model, identity):
        raise ValueError(
            f"the checkpoint in {folder} belongs to another fit: remove that folder, or choose another one with "
            "`checkpoint=`."
        )
    with files.fitting(f"the checkpoint in {folder}", "To fit anew, remove that folder."):
        model.posterior = _posterior(model, arrays, card["band"])
        return int(card["step"]), bool(card["finished"])


def _posterior(model: _Model, arrays: Mapping[str, np.ndarray], band: Sequence[int]) -> Posterior:
    """The saved posterior, of the shapes of this model."""
    values: dict[str, Any] = {"band": tuple(band)}
    for name in ("weights", "weight_variances"):
        values[name] = tuple(torch.from_numpy(arrays[f"{name}.{i}"]).to(model.device) for i in range(len(band)))
    for name, value in vars(model.posterior).items():
        if isinstance(value, torch.Tensor):
            values[name] = torch.from_numpy(arrays[f"{name}."].copy()).to(value.device)
    return Posterior(**values)


def _identity(model: _Model, identity: dict[str, Any] | None) -> dict[str, Any]:
    """What a state belongs to, as a JSON card gives it back."""
    return json.loads(json.dumps({"params": asdict(model.params), **(identity or {})}))
