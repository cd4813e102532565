"""The default completer: a count model and simple estimates, stacked, and a small network on what the stack leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from spared_sc._kernels.masking import hide_spots
from spared_sc._kernels.regression import poisson_regression
from spared_sc._kernels.stack import cross_fit, ridge_stack
from spared_sc._kernels.threads import limited_threads
from spared_sc._models import checkpoint as files
from spared_sc._models.completion.base import About, Compute, Estimate, FittedCompleter, Sections, parameter
from spared_sc._models.completion.factor import FactorParams, fit_factor
from spared_sc._models.completion.features import base_features, tune_all
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.training import Fit, Trainer, curve, local_seed, n_weights, network_from, resolve_device

if TYPE_CHECKING:
    from tqdm import tqdm

    from spared_sc._models.completion.trial import Tuned

_VALIDATE_EVERY = 50
_CHUNK = 1 << 17  # entries that the network sees at once when completing
_SILENCED = 0.1  # share of the spots that are hidden as a whole, to learn what the error is there
_ARRAYS = ("stack", "center", "spread")
_FACTOR_COLUMNS = ("factor", "factor_sd", "log_rate", "one_count")
_SCORED = ("factor", "soft_impute_kernel", "additive", "library_gene_mean")  # estimates beside the score


class ResidualNet(nn.Module):
    """From the estimates of an entry to a correction of their stack, and the logarithm of its error's width."""

    def __init__(self, n_features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            last := nn.Linear(width, 2),
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Correction and log width, both in units of the stack's error, of entries (n, n_features)."""
        correction, log_width = self.layers(features).unbind(dim=-1)
        return correction, log_width.clamp(-4, 4)


@dataclass(frozen=True)
class Fitted:
    """What was learned; any sections can be completed with it."""

    tuned: Tuned  # hyper-parameters of the simple estimates
    stack: np.ndarray  # (1 + number of stacked estimates,) weights, the intercept first
    center: np.ndarray  # (n_features,) mean and
    spread: np.ndarray  # standard deviation of the network's input
    error: float  # root mean squared error of the stack
    network: ResidualNet
    data: str  # short name of the data
    fit: Fit = field(default_factory=Fit)
    score: dict[str, float] = field(default_factory=dict)  # MSE on hidden entries beside simple estimates

    @property
    def interrupted(self) -> bool:
        """Whether training was interrupted."""
        return self.fit.stopped == "interrupted"

    @property
    def n_stacked(self) -> int:
        """Number of estimates in the stack."""
        return len(self.stack) - 1

    def network_input(self, columns: np.ndarray, stacked: np.ndarray) -> torch.Tensor:
        """Standardised input of the network."""
        inputs = (_network_input(columns, stacked, self.n_stacked) - self.center) / self.spread
        return torch.as_tensor(inputs, dtype=torch.float32).clamp(-8, 8)


@dataclass(kw_only=True, eq=False)
class CountsModel(FittedCompleter[Fitted]):
    """Count model of the sections, combined with simple estimates.

    Genes load on factors that vary smoothly over the tissue, or not; counts are zero-inflated negative binomial. The
    simple estimates are additive effects, neighbours, low rank and regression on other genes. A linear stack and a small
    network on its residuals combine them; both are learned on detected entries that were hidden from all of them.

    Parameters
    ----------
    n_folds
        Parts of the detected entries, each of which is hidden once.
    n_fits
        Fits of the count model that are averaged for the entries to fill.
    most_entries
        Largest number of hidden entries that stack and network learn from.
    width, dropout
        Hidden layers of the network.
    n_steps
        Most training steps of the network; the count model takes at most 400, and no more than these.
    train_batch_size
        Entries per training step.
    learning_rate
        Of Adam, constant.
    patience
        Stop when the validation error has not improved for this many steps.

    Notes
    -----
    This package's own; the documentation has its formulas. The rate is the posterior mean of the count model, calibrated
    on molecules split in two halves.
    """

    about: ClassVar[About] = COMPLETERS["counts"]
    n_folds: int = parameter(5, least=2, whole=True)
    n_fits: int = parameter(3, least=1, whole=True)
    most_entries: int = parameter(1_000_000, least=1, whole=True)
    width: int = parameter(64, least=1, whole=True)
    dropout: float = parameter(0.1, least=0, most=0.9)
    n_steps: int = parameter(2_000, least=1, whole=True)
    train_batch_size: int = parameter(2_048, least=1, whole=True)
    learning_rate: float = parameter(1e-3, least=1e-8, most=1)
    patience: int = parameter(500, least=1, whole=True)

    @property
    def factor(self) -> FactorParams:
        """Hyper-parameters of the count model."""
        return replace(FactorParams(), n_steps=min(self.n_steps, FactorParams.n_steps))

    @limited_threads(1)
    def fit(self, sections: Sections, split: np.ndarray | None, compute: Compute) -> None:
        """Learn how to combine the estimates, on entries of the train libraries that were hidden from all of them.

        The known entries are split into folds. Every estimate is made without a fold and compared with it; stack and
        network learn from these pairs. A tenth of the pairs chooses the best step of the network, another tenth gives the
        score.
        """
        if split is not None:
            sections = sections.of_spots(np.flatnonzero(split == "train"))
        if sections.known.sum() < 10 * self.n_folds:
            raise ValueError(
                f"there are too few detected entries to hold any out ({int(sections.known.sum())} in "
                f"{len(sections.known)} spots): give more spots or genes, or use "
                "`sp.tl.complete(adata, method='additive')`."
            )
        data = data_hash(sections)
        # As a JSON card gives it back.
        identity = json.loads(json.dumps({"params": self.params(), "seed": compute.seed, "data": data}))
        pairs = self._pairs(sections, compute, identity)
        part = np.random.default_rng([compute.seed, 2]).choice(3, size=len(pairs.target), p=[0.8, 0.1, 0.1])
        learn, choose, score = (np.flatnonzero(part == i) for i in range(3))
        stack = ridge_stack(pairs.columns[learn, : pairs.n_stacked], pairs.target[learn])
        stacked = _stacked(stack, pairs.columns)
        left = pairs.target - stacked
        error = float(np.sqrt(np.mean(left[learn] ** 2))) or 1.0
        inputs = _network_input(pairs.columns, stacked, pairs.n_stacked)
        center, spread = inputs[learn].mean(axis=0), inputs[learn].std(axis=0) + 1e-6
        standardised = torch.as_tensor((inputs - center) / spread, dtype=torch.float32).clamp(-8, 8)
        parts = learn, choose, score
        network, result, mse = self._fit_network(standardised, left / error, parts, error, compute, identity)
        scores = {"counts": mse, "stack": float(np.mean(left[score] ** 2))}
        for name in _SCORED:
            if name in pairs.names:
                scores[name] = float(np.mean((pairs.target - pairs.columns[:, pairs.names.index(name)])[score] ** 2))
        scores["n_entries"] = len(score)
        self.learned = Fitted(pairs.tuned, stack, center, spread, error, network, data, result, scores)

    def _fit_network(
        self,
        inputs: torch.Tensor,
        left: np.ndarray,
        parts: tuple[np.ndarray, np.ndarray, np.ndarray],
        error: float,
        compute: Compute,
        identity: dict[str, Any],
    ) -> tuple[ResidualNet, Fit, float]:
        """The network, how training went, and its squared error on the entries to score, in the unit of the layer."""
        device = resolve_device(compute.device)
        inputs, target = inputs.to(device), torch.as_tensor(left, dtype=torch.float32).to(device)
        learn, choose, score = (torch.as_tensor(part, device=device) for part in parts)
        with local_seed(compute.seed, device) as generator:
            network = ResidualNet(inputs.shape[1], self.width, self.dropout).to(device)

            def training_loss() -> torch.Tensor:
                drawn = torch.randint(len(learn), (self.train_batch_size,), generator=generator, device=device)
                at = learn[drawn]
                correction, log_width = network(inputs[at])
                squared = (target[at] - correction) ** 2
                # The width learns from errors of the mean as it is, and does not pull at the mean.
                loss = squared.mean() + (0.5 * squared.detach() * torch.exp(-2 * log_width) + log_width).mean()
                # The gradient is that of the loss; the value, which is recorded, is the error in the unit of the layer.
                return loss + (error**2 * squared.mean() - loss).detach()

            result = Trainer(
                network,
                training_loss=training_loss,
                validation_error=lambda: error**2 * _squared(network, inputs, target, choose),
                generator=generator,
                n_steps=self.n_steps,
                learning_rate=self.learning_rate,
                validate_every=min(_VALIDATE_EVERY, self.n_steps),
                patience=self.patience,
                show_progress_bar=compute.show_progress_bar,
                desc="count model, network",
                checkpoint=compute.below("network").checkpoint,
                identity=identity,
            ).run()
        with torch.no_grad():
            return network, result, error**2 * _squared(network, inputs, target, score)

    @limited_threads(1)
    def apply(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate of every entry, its standard deviation and, with counts, its expected count."""
        learned = self.result()
        learned_from_counts = "depth_only" in learned.tuned
        if learned_from_counts != (sections.counts is not None):
            raise ValueError(
                f"the model was fitted {'with' if learned_from_counts else 'without'} raw counts, and these data have "
                f"{'none' if learned_from_counts else 'some'}: fit a model to these data."
            )
        n_fits = self.n_fits if sections.counts is not None else 0
        with self._bar(n_fits + bool(n_fits), "completing", compute) as bar:
            _, features, rate = self._features(sections, learned.tuned, compute, bar.update, n_fits)
            if rate is not None:
                rate = self._calibrated(rate, sections, compute, bar.update)
        values, sd = _combined(learned, features, resolve_device(compute.device))
        silent = sections.silent
        if rate is not None and silent.any() and not silent.all():
            # Stack and network have never seen a spot of which nothing is known; the count model does without.
            mean, width = features[learned.n_stacked - 1], features[learned.n_stacked]
            values[silent] = mean[silent]
            sd[silent] = width[silent] * self._widening(sections, compute)
        return Estimate(values, rate, sd)

    def _widening(self, sections: Sections, compute: Compute) -> float:
        """How much larger the count model's error in silent spots is than the sampling noise that it expects there."""
        rng = np.random.default_rng([compute.seed, 5])
        hidden = hide_spots(sections.known, sections.library, _SILENCED, rng)
        visible = sections.without(hidden)
        fitted = fit_factor(visible, self.factor, device=resolve_device(compute.device), seed=compute.seed)
        mean, width = fitted.given_detection(visible.count_scale())
        error = sections.renormalised(hidden)[hidden] - mean[hidden]
        return float(np.sqrt(np.mean(error**2) / np.mean(width[hidden] ** 2)))

    def _calibrated(
        self, rate: np.ndarray, sections: Sections, compute: Compute, on_step: Callable[[], object]
    ) -> np.ndarray:
        """Expected counts, corrected by how those of one half of the molecules predict the other half."""
        half, other = sections.thinned(np.random.default_rng([compute.seed, 3]))
        if not (half.known.any() and other.any()):
            return rate
        device = resolve_device(compute.device)
        fitted = fit_factor(half, self.factor, device=device, seed=compute.seed, on_step=on_step)
        log_half = np.log(fitted.posterior_rate(half.need_counts().values) + 1e-6)
        center, spread = log_half.mean(), log_half.std() + 1e-6
        low, high = np.quantile(log_half, [0.005, 0.995])

        def terms(log_rate: np.ndarray) -> np.ndarray:
            t = (np.clip(log_rate, low, high) - center) / spread
            return np.stack([t, t**2, t**3], axis=-1)

        at = np.random.default_rng([compute.seed, 4]).permutation(log_half.size)[: self.most_entries]
        offset = log_half.ravel()[at]
        weights = poisson_regression(terms(offset), other.ravel()[at], offset)
        correction = weights[0] + terms(np.log(rate / 2 + 1e-6)) @ weights[1:]
        return (rate * np.exp(np.clip(correction, -1, 1))).astype(np.float32)

    def _pairs(self, sections: Sections, compute: Compute, identity: dict[str, Any]) -> _Pairs:
        """Estimates of known entries that were hidden from them; from the checkpoint, where they are there."""
        folder = compute.below("estimates").checkpoint
        if folder is not None and files.exists(folder):
            arrays, card = files.load(folder, "counts-estimates")
            if card["identity"] != identity:
                raise ValueError(
                    f"the checkpoint in {compute.checkpoint} belongs to another fit: remove that folder, or choose another "
                    "one with `checkpoint=`."
                )
            return _Pairs(arrays["columns"], arrays["target"], card["names"], card["tuned"])
        tuned = tune_all(sections, compute.seed)
        names: list[str] = []
        with self._bar(self.n_folds, "estimates", compute) as bar:

            def estimates(visible: Sections) -> list[np.ndarray]:
                names[:], features, _ = self._features(visible, tuned, compute, bar.update, 1)
                return features

            _, _, columns, target, _ = cross_fit(
                sections, estimates, n_folds=self.n_folds, seed=compute.seed, most_entries=self.most_entries
            )
        if folder is not None:
            card = {"identity": identity, "names": names, "tuned": tuned}
            files.save(folder, "counts-estimates", {"columns": columns, "target": target}, card)
        return _Pairs(columns, target, names, tuned)

    def _features(
        self, sections: Sections, tuned: Tuned, compute: Compute, on_step: Callable[[], object], n_fits: int
    ) -> tuple[list[str], list[np.ndarray], np.ndarray | None]:
        """Names and blocks of the estimates, those that enter the stack first; and the expected counts."""
        names, features = base_features(sections, tuned)
        rate = None
        if sections.counts is not None:
            scale, device = sections.count_scale(), resolve_device(compute.device)
            fits = [
                fit_factor(sections, self.factor, device=device, seed=compute.seed + i, on_step=on_step)
                for i in range(n_fits)
            ]
            moments = [fitted.given_detection(scale) for fitted in fits]
            rate = np.mean([fitted.posterior_rate(sections.counts.values) for fitted in fits], axis=0)
            names += _FACTOR_COLUMNS
            features += [
                np.mean([mean for mean, _ in moments], axis=0),
                np.mean([sd for _, sd in moments], axis=0),
                np.mean([fitted.log_rate for fitted in fits], axis=0),
                np.log2(1 + scale),
            ]
        share = sections.known.mean(axis=0, dtype=np.float32)
        return [*names, "detected"], [*features, np.broadcast_to(share, sections.known.shape)], rate

    def _bar(self, n_fits: int, step: str, compute: Compute) -> tqdm:
        return compute.bar(n_fits * self.factor.n_steps, f"count model, {step}")

    def report(self) -> dict[str, Any]:
        """Summary of the fit for the record."""
        learned = self.result()
        return {
            "data": learned.data,
            "score": learned.score,
            "training": curve(learned.fit),
            "tuned": learned.tuned,
            "n_parameters": n_weights(learned.network) + len(learned.stack),
        }

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Weights of stack and network, and parameters."""
        learned = self.result()
        weights = learned.network.state_dict()
        arrays = {f"network.{name}": value.cpu().numpy() for name, value in weights.items()}
        arrays |= {name: getattr(learned, name) for name in _ARRAYS}
        values = {"params": self.params(), "tuned": learned.tuned, "error": learned.error}
        return arrays, {**values, "score": learned.score, "data": learned.data}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The completer with that state."""
        completer = cls(**values["params"])
        weights = {name.removeprefix("network."): array for name, array in arrays.items() if name not in _ARRAYS}
        network = ResidualNet(len(arrays["center"]), completer.width, completer.dropout)
        completer.learned = Fitted(
            tuned=values["tuned"],
            stack=arrays["stack"],
            center=arrays["center"],
            spread=arrays["spread"],
            error=values["error"],
            network=network_from(network, weights),
            data=values["data"],
            score=values["score"],
        )
        return completer


@dataclass(frozen=True)
class _Pairs:
    """Estimates of hidden entries and their values."""

    columns: np.ndarray  # (n_entries, n_features)
    target: np.ndarray  # (n_entries,)
    names: list[str]  # of the columns
    tuned: Tuned

    @property
    def n_stacked(self) -> int:
        """How many of the estimates are in the unit of the layer; the rest is for the network only."""
        return self.names.index("factor") + 1 if "factor" in self.names else self.names.index("detected")


def _combined(learned: Fitted, features: list[np.ndarray], device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard deviations from all estimates, some spots at a time."""
    shape = features[0].shape
    values, sd = np.empty(shape, np.float32), np.empty(shape, np.float32)
    network = learned.network.to(device)
    rows = max(_CHUNK // shape[1], 1)
    for start in range(0, shape[0], rows):
        spots = slice(start, start + rows)
        columns = np.stack([feature[spots].ravel() for feature in features], axis=1)
        stacked = _stacked(learned.stack, columns)
        with torch.no_grad():
            correction, log_width = network(learned.network_input(columns, stacked).to(device))
        block = values[spots].shape
        values[spots] = (stacked + learned.error * correction.cpu().numpy()).reshape(block)
        sd[spots] = (learned.error * torch.exp(log_width).cpu().numpy()).reshape(block)
    return values, sd


def _stacked(weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (weights[0] + columns[:, : len(weights) - 1] @ weights[1:]).astype(np.float32)


def _network_input(columns: np.ndarray, stacked: np.ndarray, n_stacked: int) -> np.ndarray:
    return np.concatenate([columns[:, :n_stacked] - stacked[:, None], stacked[:, None], columns[:, n_stacked:]], axis=1)


def _squared(network: ResidualNet, inputs: torch.Tensor, target: torch.Tensor, at: torch.Tensor) -> float:
    total = sum((((target[part] - network(inputs[part])[0]) ** 2).sum() for part in at.split(_CHUNK)), torch.zeros(()))
    return total.item() / len(at)


def data_hash(sections: Sections) -> str:
    """Short name of the data that something was learned from."""
    counts = () if sections.counts is None else (sections.counts.values, sections.counts.depth)
    arrays = (sections.values, sections.known, *counts, sections.library)
    return files.data_hash(*arrays, sections.lattice.indptr, sections.lattice.indices)
