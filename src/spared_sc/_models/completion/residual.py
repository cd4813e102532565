"""The default completer: a count model and simple estimates, stacked, and a small network on what the stack leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from spared_sc._core.report import progress_bar
from spared_sc._kernels.baselines import base_features, tune_all
from spared_sc._kernels.masking import hide_spots
from spared_sc._kernels.regression import poisson_regression
from spared_sc._kernels.sections import Estimate
from spared_sc._kernels.stack import cross_fit, ridge_stack
from spared_sc._models import checkpoint as files
from spared_sc._models.completion.factor import FactorParams, fit_factor
from spared_sc._models.training import Fit, fit, local_seed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from spared_sc._kernels.sections import Sections

KIND = "residual"
_VALIDATE_EVERY = 50
_CHUNK = 1 << 17  # entries that the network sees at once when completing
_SILENCED = 0.1  # share of the spots that are hidden as a whole, to learn what the error is there
_ARRAYS = ("stack", "center", "spread")
_FACTOR_COLUMNS = ("factor", "factor_sd", "log_rate", "one_count")


@dataclass(frozen=True)
class ResidualParams:
    """Hyper-parameters; none depends on the data set."""

    n_folds: int = 5
    n_fits: int = 3  # of the count model, averaged, for the entries to fill
    most_entries: int = 1_000_000  # that the stack and the network learn from
    width: int = 64
    dropout: float = 0.1
    n_steps: int = 2_000
    train_batch_size: int = 2_048
    learning_rate: float = 1e-3
    patience: int = 500
    factor: FactorParams = field(default_factory=FactorParams)


class ResidualNet(nn.Module):
    """From the estimates of an entry to a correction of their stack, and the logarithm of its error's width."""

    def __init__(self, n_features: int, params: ResidualParams) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, params.width),
            nn.GELU(),
            nn.Dropout(params.dropout),
            nn.Linear(params.width, params.width),
            nn.GELU(),
            nn.Dropout(params.dropout),
            nn.Linear(params.width, 2),
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Correction and log width, both in units of the stack's error, of entries (n, n_features)."""
        correction, log_width = self.layers(features).unbind(dim=-1)
        return correction, log_width.clamp(-4, 4)


@dataclass(frozen=True)
class FittedResidual:
    """What was learned; any sections can be completed with it."""

    params: ResidualParams
    tuned: dict[str, Any]  # hyper-parameters of the simple estimates
    stack: np.ndarray  # (1 + number of stacked estimates,) weights, the intercept first
    center: np.ndarray  # (n_features,) mean and
    spread: np.ndarray  # standard deviation of the network's input
    error: float  # root mean squared error of the stack
    network: ResidualNet
    fit: Fit
    score: dict[str, float]


def fit_residual(
    sections: Sections,
    params: ResidualParams,
    *,
    device: torch.device,
    seed: int,
    show_progress_bar: bool | None,
    checkpoint: Path | None = None,
) -> FittedResidual:
    """Learn how to combine the estimates, on entries that were hidden from all of them.

    The known entries are split into folds. Every estimate is made without a fold and compared with it; stack and network
    learn from these pairs. A tenth of the pairs chooses the best step of the network, another tenth gives the score.

    Parameters
    ----------
    checkpoint
        Folder for the cross-fitted estimates and the state of the network's training.
    """
    rng = np.random.default_rng([seed, 2])
    if sections.known.sum() < 10 * params.n_folds:
        raise ValueError(
            f"there are too few detected entries to hold any out ({int(sections.known.sum())} in "
            f"{len(sections.known)} spots): give more spots or genes, or use `sp.tl.additive_complete`."
        )
    sections.check_size()
    identity = _plain({"params": asdict(params), "seed": seed, "data": data_hash(sections)})
    columns, target, names, tuned = _pairs(sections, params, device, seed, show_progress_bar, checkpoint, identity)
    part = rng.choice(3, size=len(target), p=[0.8, 0.1, 0.1])  # to learn from, to choose by, to score by
    learn = part == 0
    n_stacked = _n_stacked(names)
    stack = ridge_stack(columns[learn, :n_stacked], target[learn])
    stacked = _stacked(stack, columns)
    error = float(np.sqrt(np.mean((target - stacked)[learn] ** 2))) or 1.0
    inputs = _network_input(columns, stacked, n_stacked)
    center, spread = inputs[learn].mean(axis=0), inputs[learn].std(axis=0) + 1e-6
    inputs = torch.as_tensor((inputs - center) / spread, dtype=torch.float32).clamp(-8, 8).to(device)
    left = torch.as_tensor((target - stacked) / error, dtype=torch.float32).to(device)
    learn_at, choose_at, score_at = (torch.as_tensor(np.flatnonzero(part == i), device=device) for i in range(3))
    with local_seed(seed, device) as generator:
        network = ResidualNet(inputs.shape[1], params).to(device)

        def training_loss() -> torch.Tensor:
            drawn = torch.randint(len(learn_at), (params.train_batch_size,), generator=generator, device=device)
            at = learn_at[drawn]
            correction, log_width = network(inputs[at])
            squared = (left[at] - correction) ** 2
            # The width learns from errors of the mean as it is, and does not pull at the mean.
            loss = squared.mean() + (0.5 * squared.detach() * torch.exp(-2 * log_width) + log_width).mean()
            # The gradient is that of the loss; the value, which is recorded, is the error in the unit of the layer.
            return loss + (error**2 * squared.mean() - loss).detach()

        result = fit(
            network,
            training_loss=training_loss,
            validation_error=lambda: error**2 * _squared(network, inputs, left, choose_at),
            generator=generator,
            n_steps=params.n_steps,
            learning_rate=params.learning_rate,
            validate_every=min(_VALIDATE_EVERY, params.n_steps),
            patience=params.patience,
            show_progress_bar=show_progress_bar,
            desc="residual",
            checkpoint=None if checkpoint is None else checkpoint / "network",
            identity=identity,
        )
    with torch.no_grad():
        final = error**2 * _squared(network, inputs, left, score_at)
    scored = score_at.cpu().numpy()
    score = {"residual": final, "stack": float(np.mean((target - stacked)[scored] ** 2))}
    for name in ("factor", "soft_impute_kernel", "additive", "library_gene_mean"):
        if name in names:
            score[name] = float(np.mean((target - columns[:, names.index(name)])[scored] ** 2))
    score["n_entries"] = len(scored)
    return FittedResidual(params, tuned, stack, center, spread, error, network, result, score)


def complete_residual(
    fitted: FittedResidual, sections: Sections, *, device: torch.device, seed: int, show_progress_bar: bool | None
) -> Estimate:
    """Estimate of every entry, its standard deviation and, with counts, its expected count."""
    params = fitted.params
    learned_from_counts = "depth_only" in fitted.tuned
    if learned_from_counts != (sections.counts is not None):
        raise ValueError(
            f"the model was fitted {'with' if learned_from_counts else 'without'} raw counts, and these data have "
            f"{'none' if learned_from_counts else 'some'}: fit a model to these data."
        )
    n_fits = params.n_fits if sections.counts is not None else 0
    with _bar(n_fits + bool(n_fits), params, "completing", show_progress_bar) as bar:
        _, features, rate = _features(sections, fitted.tuned, params, device, seed, bar.update, n_fits)
        if rate is not None:
            rate = _calibrated(rate, sections, params, device, seed, bar.update)
    n_stacked = len(fitted.stack) - 1
    values, sd = np.empty(sections.known.shape, np.float32), np.empty(sections.known.shape, np.float32)
    rows = max(_CHUNK // values.shape[1], 1)
    for start in range(0, len(values), rows):
        spots = slice(start, start + rows)
        columns = np.stack([feature[spots].ravel() for feature in features], axis=1)
        stacked = _stacked(fitted.stack, columns)
        inputs = (_network_input(columns, stacked, n_stacked) - fitted.center) / fitted.spread
        with torch.no_grad():
            correction, log_width = fitted.network(torch.as_tensor(inputs, dtype=torch.float32).clamp(-8, 8).to(device))
        shape = values[spots].shape
        values[spots] = (stacked + fitted.error * correction.cpu().numpy()).reshape(shape)
        sd[spots] = (fitted.error * torch.exp(log_width).cpu().numpy()).reshape(shape)
    silent = sections.silent
    if rate is not None and silent.any() and not silent.all():
        # Stack and network have never seen a spot of which nothing is known; the count model does without.
        mean, width = (features[n_stacked - 1 + i] for i in range(2))
        values[silent] = mean[silent]
        sd[silent] = width[silent] * _widening(sections, params, device, seed)
    return Estimate(values, rate, sd)


def _widening(sections: Sections, params: ResidualParams, device: torch.device, seed: int) -> float:
    """How much larger the count model's error in silent spots is than the sampling noise that it expects there."""
    hidden = hide_spots(sections.known, sections.library, _SILENCED, np.random.default_rng([seed, 5]))
    visible = sections.without(hidden)
    mean, width = fit_factor(visible, params.factor, device=device, seed=seed).given_detection(visible.count_scale())
    error = sections.renormalised(hidden)[hidden] - mean[hidden]
    return float(np.sqrt(np.mean(error**2) / np.mean(width[hidden] ** 2)))


def save_residual(folder: str | Path, fitted: FittedResidual, genes: list[str], card: dict[str, Any]) -> None:
    """Write weights, hyper-parameters and genes to a folder."""
    arrays = {name: weights.cpu().numpy() for name, weights in fitted.network.state_dict().items()}
    arrays = {f"network.{name}": array for name, array in arrays.items()}
    arrays |= {name: getattr(fitted, name) for name in _ARRAYS}
    learned = {"params": asdict(fitted.params), "tuned": fitted.tuned, "error": fitted.error, "score": fitted.score}
    files.save(folder, KIND, arrays, {**learned, "genes": genes, **card})


def from_files(arrays: dict[str, np.ndarray], card: dict[str, Any]) -> FittedResidual:
    """What `save_residual` wrote.

    Raises
    ------
    ValueError
        If weights and card do not fit.
    """
    try:
        given = dict(card["params"])
        factor = {name: tuple(v) if isinstance(v, list) else v for name, v in given.pop("factor").items()}
        params = ResidualParams(**given, factor=FactorParams(**factor))
        network = ResidualNet(len(arrays["center"]), params)
        weights = {name.removeprefix("network."): array for name, array in arrays.items() if name not in _ARRAYS}
        network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        learned = {name: arrays[name] for name in _ARRAYS}
        return FittedResidual(
            params,
            card["tuned"],
            **learned,
            error=card["error"],
            network=network.eval(),
            fit=Fit(),
            score=card["score"],
        )
    except (KeyError, TypeError, RuntimeError, ValueError, AttributeError) as error:
        raise ValueError(f"the model is damaged: weights and card do not fit ({error}).") from error


def _pairs(
    sections: Sections,
    params: ResidualParams,
    device: torch.device,
    seed: int,
    show_progress_bar: bool | None,
    checkpoint: Path | None,
    identity: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, Any]]:
    """Estimates (n_entries, n_features) of known entries that were hidden from them, and those entries' values."""
    folder = None if checkpoint is None else checkpoint / "estimates"
    if folder is not None and files.exists(folder):
        arrays, card = files.load(folder, "residual-estimates")
        if card["identity"] != identity:
            raise ValueError(
                f"the checkpoint in {checkpoint} belongs to another fit: remove that folder, or choose another one with "
                "`checkpoint=`."
            )
        return arrays["columns"], arrays["target"], card["names"], card["tuned"]
    tuned = tune_all(sections, seed)
    names: list[str] = []
    with _bar(params.n_folds, params, "estimates", show_progress_bar) as bar:

        def estimates(visible: Sections) -> list[np.ndarray]:
            names[:], features, _ = _features(visible, tuned, params, device, seed, bar.update, 1)
            return features

        _, _, columns, target, _ = cross_fit(
            sections, estimates, n_folds=params.n_folds, seed=seed, most_entries=params.most_entries
        )
    if folder is not None:
        files.save(
            folder,
            "residual-estimates",
            {"columns": columns, "target": target},
            {"identity": identity, "names": names, "tuned": tuned},
        )
    return columns, target, names, tuned


def _features(
    sections: Sections,
    tuned: dict[str, Any],
    params: ResidualParams,
    device: torch.device,
    seed: int,
    on_step: Callable[[], object],
    n_fits: int,
) -> tuple[list[str], list[np.ndarray], np.ndarray | None]:
    """Names and blocks of the estimates, those that enter the stack first; and the expected counts."""
    names, features = base_features(sections, tuned)
    names, features = list(names), list(features)
    rate = None
    if sections.counts is not None:
        scale = sections.count_scale()
        fits = [
            fit_factor(sections, params.factor, device=device, seed=seed + i, on_step=on_step) for i in range(n_fits)
        ]
        moments = [one.given_detection(scale) for one in fits]
        rate = np.mean([one.posterior_rate(sections.counts.values) for one in fits], axis=0)
        names += _FACTOR_COLUMNS
        features += [
            np.mean([mean for mean, _ in moments], axis=0),
            np.mean([sd for _, sd in moments], axis=0),
            np.mean([one.log_rate for one in fits], axis=0),
            np.log2(1 + scale),
        ]
    share = sections.known.mean(axis=0, dtype=np.float32)
    names.append("detected")
    features.append(np.broadcast_to(share, sections.known.shape))
    return names, features, rate


def _n_stacked(names: list[str]) -> int:
    """How many of the estimates are in the unit of the layer; the rest is for the network only."""
    return names.index("factor") + 1 if "factor" in names else names.index("detected")


def _stacked(weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (weights[0] + columns[:, : len(weights) - 1] @ weights[1:]).astype(np.float32)


def _network_input(columns: np.ndarray, stacked: np.ndarray, n_stacked: int) -> np.ndarray:
    return np.concatenate([columns[:, :n_stacked] - stacked[:, None], stacked[:, None], columns[:, n_stacked:]], axis=1)


def _squared(network: ResidualNet, inputs: torch.Tensor, left: torch.Tensor, at: torch.Tensor) -> float:
    total = sum((((left[part] - network(inputs[part])[0]) ** 2).sum() for part in at.split(_CHUNK)), torch.zeros(()))
    return total.item() / len(at)


def _calibrated(
    rate: np.ndarray,
    sections: Sections,
    params: ResidualParams,
    device: torch.device,
    seed: int,
    on_step: Callable[[], object],
) -> np.ndarray:
    """Expected counts, corrected by how those of one half of the molecules predict the other half."""
    half, other = sections.thinned(np.random.default_rng([seed, 3]))
    if not (half.known.any() and other.any()):
        return rate
    fitted = fit_factor(half, params.factor, device=device, seed=seed, on_step=on_step)
    log_half = np.log(fitted.posterior_rate(half.need_counts().values) + 1e-6)
    center, spread = log_half.mean(), log_half.std() + 1e-6
    low, high = np.quantile(log_half, [0.005, 0.995])

    def terms(log_rate: np.ndarray) -> np.ndarray:
        t = (np.clip(log_rate, low, high) - center) / spread
        return np.stack([t, t**2, t**3], axis=-1)

    at = np.random.default_rng([seed, 4]).permutation(log_half.size)[: params.most_entries]
    offset = log_half.ravel()[at]
    weights = poisson_regression(terms(offset), other.ravel()[at], offset)
    correction = weights[0] + terms(np.log(rate / 2 + 1e-6)) @ weights[1:]
    return (rate * np.exp(np.clip(correction, -1, 1))).astype(np.float32)


def _bar(n_fits: int, params: ResidualParams, what: str, show_progress_bar: bool | None) -> Any:
    return progress_bar(total=n_fits * params.factor.n_steps, desc=f"residual, {what}", show=show_progress_bar)


def data_hash(sections: Sections) -> str:
    """Short name of the data that something was learned from."""
    counts = () if sections.counts is None else (sections.counts.values, sections.counts.depth)
    arrays = (sections.values, sections.known, *counts, sections.library)
    lattice = (sections.lattice.indptr, sections.lattice.indices)
    return files.data_hash(*arrays, *lattice)


def _plain(value: Any) -> Any:
    """As a JSON card gives it back."""
    import json

    return json.loads(json.dumps(value))
