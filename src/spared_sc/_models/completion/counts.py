"""The default completer: a count model and simple estimates, combined by weights learned on hidden entries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from spared_sc._core.compute import OF_RATES
from spared_sc._core.report import logger
from spared_sc._kernels.at_depth import size_by_moments
from spared_sc._kernels.lowrank import gene_means
from spared_sc._kernels.masking import hide_spots
from spared_sc._kernels.regression import variance_regression
from spared_sc._kernels.shrinkage import Shrinkage, Split, learn, share_counts, shrunk
from spared_sc._kernels.stack import combine, ridge_stack
from spared_sc._kernels.threads import limited_threads
from spared_sc._kernels.truncated import truncated_moments
from spared_sc._kernels.verdicts import decide
from spared_sc._models import checkpoint as files
from spared_sc._models.completion.base import About, Compute, Estimate, FittedCompleter, Sections, parameter
from spared_sc._models.completion.depth_only import DepthOnly, depth_values
from spared_sc._models.completion.diffusion import Diffusion
from spared_sc._models.completion.factor import FactorParams, fit_factor
from spared_sc._models.completion.kernel import Kernel
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.soft_impute import SoftImpute
from spared_sc._models.completion.soft_impute_kernel import SoftImputeKernel
from spared_sc._models.completion.trial import AdditiveFit, Trial
from spared_sc._models.completion.variational import n_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tqdm import tqdm

    from spared_sc._models.completion.factor import FactorFit
    from spared_sc._models.completion.trial import Tuned

_VALUES = ("tuned", "names", "data", "score")  # of what was learned, beside the arrays
_TUNED = {  # estimate -> its parameters
    "additive": {"spot_shrinkage", "library_shrinkage"},
    "soft_impute": {"shrinkage", "rank"},
    "kernel": {"bandwidth", "shrinkage"},
    "diffusion": {"strength"},
    "soft_impute_kernel": {"bandwidth", "kernel_shrinkage"},
    "depth_only": {"shrinkage"},
}
_SCORE_SHARE = 0.25  # of the hidden entries, that nothing is learned from
_LEAST_ENTRIES = 50  # detected entries
_LEAST_HIDDEN = 5  # entries to learn from
_MOST_ENTRIES = 1_000_000  # hidden entries that weights are learned from
_SILENCED = 0.1  # share of the spots that are hidden as a whole, to learn what the error is there
_N_TUNED = 5  # steps of the bar for the simple estimates
_N_SPLITS = 3  # of the molecules into halves
_SECONDS = 1e-5  # of one core for one entry in each of the fits, about


@dataclass(frozen=True)
class Fitted:
    """What was learned; any sections can be completed with it."""

    tuned: Tuned  # parameters of the simple estimates
    names: list[str]  # of the estimates
    stack: np.ndarray  # (1 + number of estimates,) weights, the intercept first
    width: np.ndarray  # (2,) the logarithm of the squared error: intercept, and weight of a hint
    shrinkage: Shrinkage | None  # of the rates; `None` without counts
    data: str  # short name of the data
    score: dict[str, float] = field(default_factory=dict)  # MSE on hidden entries beside simple estimates
    interrupted: bool = False


@dataclass(kw_only=True, eq=False)
class CountsModel(FittedCompleter[Fitted]):
    """Count model of the sections, combined with simple estimates.

    Genes load on factors that vary smoothly over the tissue, or not; counts are zero-inflated negative binomial. The
    simple estimates are additive effects, neighbours, diffusion, low rank and depth alone. Their linear combination and
    the width of its error are learned on detected entries that were hidden from all of them. Without raw counts, the
    simple estimates are combined alone.

    Parameters
    ----------
    hidden_share
        Share of the detected entries that are hidden to learn the combination from.
    n_iterations
        Most iterations of each of the five fits of the count model: without the hidden entries, to a half of the
        molecules (three times), and to all entries.

    Notes
    -----
    This package's own; the documentation has its formulas. The rate is the posterior mean of the count model, with the
    pattern of each gene shrunk toward its share in the library as far as held-out molecules do not support it.
    """

    about: ClassVar[About] = COMPLETERS["counts"]
    hidden_share: float = parameter(0.2, least=0.02, most=0.5)
    n_iterations: int = parameter(FactorParams.n_iterations, least=1, whole=True)

    @limited_threads(1)
    def fit(self, sections: Sections, split: np.ndarray | None, compute: Compute) -> None:
        """Learn how to combine the estimates, on entries of the train libraries that were hidden from all of them.

        The parameters of the simple estimates are chosen on three quarters of the hidden entries, and the weights are
        learned there. The last quarter gives the score.
        """
        if split is not None:
            sections = sections.of_spots(np.flatnonzero(split == "train"))
        if sections.known.sum() < _LEAST_ENTRIES:
            raise ValueError(
                f"there are too few detected entries to hold any out ({int(sections.known.sum())} in "
                f"{len(sections.known)} spots): give more spots or genes, or use "
                "`sp.tl.complete(adata, method='additive')`."
            )
        trial = Trial(sections, compute.seed, hidden_share=self.hidden_share, score_share=_SCORE_SHARE)
        learned_from, scored = _sample(trial.tuning, compute.seed), trial.hidden & ~trial.tuning
        if learned_from.sum() < _LEAST_HIDDEN or not scored.any():
            raise ValueError(
                f"there are too few hidden entries to learn from ({int(trial.hidden.sum())}): give more spots or genes, or "
                "a larger `hidden_share`."
            )
        with self._bar(sections, "hidden entries", compute) as bar:
            folder = compute.below("hidden entries")
            fitted = None
            if sections.counts is not None:
                fitted = self._fit(trial.train, folder, bar.update, keep_interrupted=False)
            tuned = _tune(trial, bar.update)
            names, estimates, hint = self._estimates(trial.train, trial.fit, tuned, fitted, compute)
        stack = ridge_stack(_columns(estimates, learned_from), trial.truth[learned_from])
        stacked = combine(stack, estimates)
        error = (trial.truth - stacked) ** 2
        hint = stacked if hint is None else hint
        width = variance_regression(hint[learned_from][:, None], error[learned_from])
        score = {"counts": float(error[scored].mean())}
        mean = gene_means(trial.train.values, trial.train.known)
        score["gene_mean"] = float(np.mean((trial.truth - mean)[scored] ** 2))
        for name, estimate in zip(names, estimates, strict=True):
            score[name] = float(np.mean((trial.truth - estimate)[scored] ** 2))
        score["n_entries"] = int(scored.sum())
        shrinkage = None if sections.counts is None else self._learn_shrinkage(sections, compute)
        self.learned = Fitted(tuned, names, stack, width, shrinkage, data_hash(sections), score)

    def _learn_shrinkage(self, sections: Sections, compute: Compute) -> Shrinkage:
        """What fits to a half of the molecules say of the other half."""

        def splits() -> Iterator[Split]:
            for number in range(_N_SPLITS):
                half, counts = sections.thinned(np.random.default_rng([compute.seed, 6, number]))
                folder = compute.below(f"molecules {number}")
                fitted = self._fit(half, folder, bar.update, keep_interrupted=False)
                yield _split(sections, half, counts, fitted, compute.n_threads)

        with self._bar(sections, "molecules", compute, n_fits=_N_SPLITS) as bar:
            return learn(splits())

    @limited_threads(1)
    def apply(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate of every entry, its standard deviation and, with counts, its expected count."""
        learned = self.result()
        with_counts = learned.shrinkage is not None
        if with_counts != (sections.counts is not None):
            raise ValueError(
                f"the model was fitted {'with' if with_counts else 'without'} raw counts, and these data have "
                f"{'none' if with_counts else 'some'}: fit a model to these data."
            )
        # One fit for each split, whose data differ.
        folder = _below(compute, "all entries", sections)
        silent = sections.silent
        # Learned first, so that an interrupt of what follows keeps what is there.
        widening = self._widening(sections, compute) if silent.any() and sections.counts is not None else 1.0
        with self._bar(sections, "all entries", compute) as bar:
            fitted = None if sections.counts is None else self._fit(sections, folder, bar.update)
            simple = AdditiveFit(sections, learned.tuned["additive"], seed=compute.seed)
            _, estimates, hint = self._estimates(sections, simple, learned.tuned, fitted, compute)
            bar.update(_N_TUNED)
        values = combine(learned.stack, estimates)
        log_width = learned.width[0] + learned.width[1] * (values if hint is None else hint)
        sd = np.exp(log_width / 2, dtype=np.float32)
        if fitted is None or hint is None or learned.shrinkage is None:
            return Estimate(values, None, sd)
        rate = log_rate_sd = None
        if compute.write & OF_RATES:
            weight = learned.shrinkage.weight
            rate = shrunk(fitted.posterior_rate(), share_counts(sections), weight, sections.library)
        if "denoised_sd" in compute.write:
            factors = learned.shrinkage.variances
            parts = zip(factors.astype(np.float32), fitted.log_variances(), strict=True)
            log_rate_sd = np.sqrt(sum(factor * part for factor, part in parts))
        if silent.any() and not silent.all():
            # The combination has never seen a spot of which nothing is known; the count model does without.
            values[silent] = estimates[-1][silent]
            sd[silent] = np.exp(hint[silent]) * widening
        return Estimate(values, rate, sd, log_rate_sd=log_rate_sd, interrupted=fitted.rates.interrupted)

    def _bar(self, sections: Sections, part: str, compute: Compute, *, n_fits: int = 1) -> tqdm:
        """A bar of the steps of a count model, and of the simple estimates, which says what they will cost."""
        n, n_genes = sections.values.shape
        seconds = 1 + _SECONDS * n * n_genes * n_fits
        cost = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        logger.info("count model, %s: %d spots x %d genes, about %s", part, n, n_genes, cost)
        n_fit = 0 if sections.counts is None else n_fits * n_steps(self.factor, n_genes)
        n_tuned = 0 if part == "molecules" else _N_TUNED
        return compute.bar(n_fit + n_tuned, f"count model, {part} (about {cost})")

    @property
    def factor(self) -> FactorParams:
        """Parameters of the count model."""
        return FactorParams(n_iterations=self.n_iterations)

    def _fit(
        self,
        sections: Sections,
        compute: Compute,
        on_step: Callable[[], object],
        *,
        keep_interrupted: bool = True,
    ) -> FactorFit:
        """The count model of sections with counts."""
        # As a JSON card gives it back; the hash takes time, and only a checkpoint needs it.
        identity = None
        if compute.checkpoint is not None:
            identity = json.loads(json.dumps({"params": self.params(), "data": data_hash(sections)}))
        return fit_factor(
            sections, self.factor, compute, identity=identity, keep_interrupted=keep_interrupted, on_step=on_step
        )

    def _estimates(
        self, sections: Sections, simple: AdditiveFit, tuned: Tuned, fitted: FactorFit | None, compute: Compute
    ) -> tuple[list[str], list[np.ndarray], np.ndarray | None]:
        """Names and values of the estimates, that of the count model last, and the logarithm of its width."""
        low_rank = simple.low_rank(**tuned["soft_impute"])
        estimates = {
            "additive": simple.base,
            "kernel": simple.kernel(**tuned["kernel"]),
            "diffusion": simple.diffusion(**tuned["diffusion"]),
            "soft_impute_kernel": simple.soft_impute_kernel(low_rank, **tuned["soft_impute_kernel"]),
        }
        if fitted is None:
            return list(estimates), list(estimates.values()), None
        estimates["depth_only"] = depth_values(sections, **tuned["depth_only"])
        estimates["factor"], width = fitted.given_detection(sections.count_scale(), n_threads=compute.n_threads)
        return list(estimates), list(estimates.values()), np.log(np.maximum(width, 1e-3))

    def _widening(self, sections: Sections, compute: Compute) -> float:
        """How much larger the count model's error in silent spots is than it expects."""
        rng = np.random.default_rng([compute.seed, 5])
        speaking = np.flatnonzero(~sections.silent)
        hidden = np.zeros_like(sections.known)
        hidden[speaking] = hide_spots(sections.known[speaking], sections.library[speaking], _SILENCED, rng)
        if not hidden.any():
            return 1.0
        visible = sections.without(hidden)
        folder = _below(compute, "hidden spots", visible)
        with compute.bar(n_steps(self.factor, visible.values.shape[1]), "count model, spots without counts") as bar:
            fitted = self._fit(visible, folder, bar.update, keep_interrupted=False)
        mean, width = fitted.given_detection(visible.count_scale(), n_threads=compute.n_threads)
        error = sections.renormalised(hidden)[hidden] - mean[hidden]
        return float(np.sqrt(np.mean(error**2) / np.mean(width[hidden] ** 2)))

    def report(self) -> dict[str, Any]:
        """Summary of the fit for the record."""
        learned = self.result()
        weights = dict(zip(["intercept", *learned.names], learned.stack.tolist(), strict=True))
        return {"data": learned.data, "score": learned.score, "tuned": learned.tuned, "weights": weights}

    def gene_report(self) -> dict[str, np.ndarray]:
        """Skill and verdict of every gene; nothing without counts."""
        shrinkage = self.result().shrinkage
        if shrinkage is None:
            return {}
        verdict = decide(shrinkage.given_detection, np.where(shrinkage.weight > 0, shrinkage.pattern, np.nan))
        return {"skill": shrinkage.skill, "skill_se": shrinkage.skill_se, "verdict": verdict}

    @property
    def n_genes(self) -> int | None:
        """Number of genes that it was fitted to, with counts."""
        shrinkage = None if self.learned is None else self.learned.shrinkage
        return None if shrinkage is None else shrinkage.weight.size

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Weights, and parameters."""
        learned = self.result()
        values = {name: getattr(learned, name) for name in _VALUES}
        of_genes = {} if learned.shrinkage is None else asdict(learned.shrinkage)
        return {"stack": learned.stack, "width": learned.width, **of_genes}, {"params": self.params(), **values}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The completer with that state."""
        completer = cls(**values["params"])
        arrays, learned = dict(arrays), {name: values[name] for name in _VALUES}
        stack, width = arrays.pop("stack"), arrays.pop("width")
        if stack.shape != (1 + len(learned["names"]),) or width.shape != (2,):
            raise ValueError("there is not one weight for each estimate.")
        shrinkage = Shrinkage(**arrays) if arrays else None
        _check_tuned(learned["tuned"], learned["names"])
        completer.learned = Fitted(stack=stack, width=width, shrinkage=shrinkage, **learned)
        return completer


def _check_tuned(tuned: Any, names: Any) -> None:
    """A ValueError or TypeError if there are no parameters of each estimate."""
    if not isinstance(names, list) or not isinstance(tuned, dict):
        raise TypeError(f"found {tuned!r:.50} in place of the parameters of the estimates {names!r:.50}")
    for name, parameters in _TUNED.items():
        if name == "depth_only" and name not in names:
            continue  # without counts
        given = tuned[name]
        if not isinstance(given, dict) or set(given) != parameters:
            raise TypeError(f"the parameters of {name!r} are {given!r:.50}, expected {sorted(parameters)}")
        if not all(type(value) in (int, float) and np.isfinite(value) for value in given.values()):
            raise TypeError(f"the parameters of {name!r} are no numbers: {given!r:.50}")


def _split(sections: Sections, half: Sections, counts: np.ndarray, fitted: FactorFit, n_threads: int) -> Split:
    """What a fit to half of the molecules says of the `counts` of the other half, in spots that have both."""
    other = sections.need_counts().depth - half.need_counts().depth
    spots = np.flatnonzero(~sections.silent & (other > 0))
    # The halves of a spot are not equally large.
    relative = (other / half.whole_depth()).astype(np.float32)[:, None]
    scale, share = half.count_scale() / np.maximum(relative, 1e-9), share_counts(half) * relative
    filled, _ = replace(fitted, rates=fitted.rates.scaled(relative)).given_detection(scale, n_threads=n_threads)
    at_depth, _ = truncated_moments(share, size_by_moments(counts, share), scale, n_threads=n_threads)
    mean = gene_means(half.values, half.known)
    blocks = {
        "rate": fitted.posterior_rate() * relative,
        "share": share,
        "counts": counts,
        "values": np.log2(1 + counts * scale),
        "filled": filled,
        "at_depth": at_depth,
    }
    variances = fitted.log_variances()
    return Split(
        **{name: block[spots] for name, block in blocks.items()},
        mean=mean,
        depth=other[spots],
        variances=tuple(variance[spots] for variance in variances),
        library=np.unique(sections.library[spots], return_inverse=True)[1],
    )


def _tune(trial: Trial, on_step: Callable[[], object]) -> Tuned:
    """Parameters of the simple estimates that do best on hidden entries; `on_step` is called `_N_TUNED` times."""
    tuned = {"additive": trial.additive}
    on_step()
    for name, completer in (("kernel", Kernel()), ("diffusion", Diffusion()), ("soft_impute", SoftImpute())):
        tuned[name] = completer.tune(trial)
        on_step()
    low_rank = trial.fit.low_rank(**tuned["soft_impute"])
    tuned["soft_impute_kernel"] = SoftImputeKernel().tune(trial, low_rank)
    if trial.train.counts is not None:
        tuned["depth_only"] = DepthOnly().tune(trial)
    on_step()
    return tuned


def _sample(mask: np.ndarray, seed: int) -> np.ndarray:
    """The mask, with some of its entries taken out where there are very many."""
    entries = np.flatnonzero(mask)
    if entries.size <= _MOST_ENTRIES:
        return mask
    sample = np.zeros_like(mask)
    sample.flat[np.random.default_rng([seed, 2]).choice(entries, _MOST_ENTRIES, replace=False)] = True
    return sample


def _columns(estimates: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    return np.stack([estimate[mask] for estimate in estimates], axis=1)


def _below(compute: Compute, name: str, sections: Sections) -> Compute:
    """The same with a checkpoint of these data; without one, they need no hash."""
    return compute if compute.checkpoint is None else compute.below(f"{name} {data_hash(sections)}")


def data_hash(sections: Sections) -> str:
    """Short name of the data that something was learned from."""
    counts = () if sections.counts is None else (sections.counts.values, sections.counts.depth)
    arrays = (sections.values, sections.known, *counts, sections.library)
    return files.data_hash(*arrays, sections.lattice.indptr, sections.lattice.indices)
