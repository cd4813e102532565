"""SpaCKLE as published: a transformer over the neighbourhood of a spot completes the expression of the spot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from spared_sc._kernels.lowrank import gene_means
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.median import adaptive_median
from spared_sc._kernels.metrics import masked_mse
from spared_sc._models.checkpoint import data_hash
from spared_sc._models.completion.base import About, Compute, Estimate, FittedCompleter, Sections, parameter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.training import (
    SEARCH,
    Fit,
    Trainer,
    curve,
    local_seed,
    mixed_precision,
    n_weights,
    network_from,
    resolve_device,
    search_learning_rate,
)

if TYPE_CHECKING:
    from pathlib import Path


_VALIDATE_EVERY = 50
_VALIDATION_SPOTS = 4096  # enough for a stable error, however large the collection
_BATCH = 2048  # spots per forward pass, unless asked otherwise
_HELD_OUT = 0.1  # share of the detected entries that a fit without a split does not train on


class SpackleNet(nn.Module):
    """Linear adapter, transformer encoder over the spots of a neighbourhood, linear adapter."""

    embedding_mean: torch.Tensor
    embedding_sd: torch.Tensor

    def __init__(self, n_genes: int, params: SpaCKLE, embedding: np.ndarray | None = None) -> None:
        super().__init__()
        n_features = 0 if embedding is None else embedding.shape[1]
        self.adapter_in = nn.Linear(n_genes + n_features, params.width)
        if embedding is not None:  # as numbers of about the same size, whatever its unit
            mean, sd = embedding.mean(axis=0), embedding.std(axis=0)
            self.register_buffer("embedding_mean", torch.as_tensor(mean, dtype=torch.float32))
            self.register_buffer("embedding_sd", torch.as_tensor(np.where(sd > 0, sd, 1), dtype=torch.float32))
        layer = nn.TransformerEncoderLayer(
            params.width, params.n_heads, params.feedforward, params.dropout, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, params.n_layers, enable_nested_tensor=False)
        self.adapter_out = nn.Linear(params.width, n_genes)

    def forward(
        self, values: torch.Tensor, padding: torch.Tensor, embedding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Expression of every spot of every neighbourhood, from values (n_batch, 1 + k, n_genes), the spot itself first.

        `padding` (n_batch, 1 + k) is true where there is no spot; `embedding` has shape (n_batch, 1 + k, n_features).
        """
        if embedding is not None:
            values = torch.cat([values, (embedding - self.embedding_mean) / self.embedding_sd], dim=-1)
        hidden = self.adapter_in(values)
        # bfloat16 resolves a log expression of 12 to 0.06 only, so the adapters stay in float32.
        with mixed_precision(values.device):
            hidden = self.encoder(hidden, src_key_padding_mask=padding)
        return self.adapter_out(hidden.float())


class _Neighbourhoods:
    """Values on the device, gathered by neighbourhood; place `n` stands for "no spot"."""

    def __init__(
        self, values: np.ndarray, known: np.ndarray, sections: Sections, n_rings: int, device: torch.device
    ) -> None:
        n, n_genes = values.shape
        self.n = n
        self.plain_embedding = embedding = sections.embedding
        self.embedding = None
        if embedding is not None:
            padded = np.vstack([embedding, np.zeros((1, embedding.shape[1]))])
            self.embedding = torch.as_tensor(padded, dtype=torch.float32, device=device)
        none = np.zeros((1, n_genes))
        self.values = torch.as_tensor(np.vstack([values, none]), dtype=torch.float32, device=device)
        self.known = torch.as_tensor(np.vstack([known, none]), dtype=torch.bool, device=device)
        spots = np.column_stack([np.arange(n), sections.lattice.table(n_rings)])
        self.spots = torch.as_tensor(spots, device=device)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values and known entries (n_batch, 1 + k, n_genes), padding (n_batch, 1 + k), and embedding, if any."""
        spots = self.spots[index]
        embedding = None if self.embedding is None else self.embedding[spots]
        return self.values[spots], self.known[spots], spots == self.n, embedding

    def complete(self, network: SpackleNet, index: torch.Tensor) -> torch.Tensor:
        """Estimate of the spots in `index`, from known entries of the spot and completed ones of its neighbours."""
        values, known, padding, embedding = self.batch(index)
        values[:, 0] *= known[:, 0]
        return network(values, padding, embedding)[:, 0]


@dataclass(frozen=True)
class Fitted:
    """A fitted network, how it was fitted, and how well it does on entries that nobody saw."""

    network: SpackleNet
    fit: Fit = field(default_factory=Fit)
    score: dict[str, float] = field(default_factory=dict)  # MSE on hidden entries beside simple estimates
    search: dict[str, list[float]] = field(default_factory=dict)  # learning rates tried and their validation errors
    data: str = ""  # short name of the data

    @property
    def interrupted(self) -> bool:
        """Whether training was interrupted."""
        return self.fit.stopped == "interrupted"


@dataclass(kw_only=True, eq=False)
class SpaCKLE(FittedCompleter[Fitted]):
    """Transformer over the neighbourhood of a spot, as published; `0 rings` is a network of the spot alone.

    Undetected entries are first filled with the adaptive median. A random share of the detected entries is set to zero,
    and the network learns to give back the whole neighbourhood. To complete a spot, its undetected entries are set to
    zero.

    Parameters
    ----------
    n_rings
        Neighbourhood in hops: 0, 6, 18 (the paper's) or 36 neighbours on a full hexagonal array.
    mask_share
        Share of the detected entries that is hidden in every training batch.
    precomplete
        Fill undetected entries with the adaptive median before training; without it they are zero.
    loss
        `"all"`: squared error over all entries of all spots of the neighbourhood (the paper's equation 5), filled medians
        included; `"hidden"`: over the hidden entries of the spot itself.
    width, n_layers, n_heads, feedforward, dropout
        Transformer encoder. The paper leaves all but the width open.
    n_steps, train_batch_size
        Most training steps, and spots of each.
    learning_rate
        Of Adam, constant. `"search"` fits a model for each of ten values from 1e-5 to 1e-2, evenly spaced on the
        logarithmic scale, as the paper does, and keeps the one with the lowest validation error.
    patience
        Stop when the validation error has not improved for this many steps.

    Notes
    -----
    Source: Ruiz et al. (2025), equations 1 to 6. The documentation says what the paper leaves open, what was chosen here
    and why.
    """

    about: ClassVar[About] = COMPLETERS["paper"]
    uses_embedding: ClassVar[bool] = True
    alone: ClassVar[bool] = True  # once fitted, a spot is completed from its own neighbourhood
    n_rings: int = parameter(2, least=0, most=3, whole=True)
    mask_share: float = parameter(0.3, least=0.01, most=0.99)
    precomplete: bool = parameter(True, choices=(True, False))
    loss: str = parameter("all", choices=("all", "hidden"))
    width: int = parameter(128, least=1, whole=True)
    n_layers: int = parameter(2, least=1, whole=True)
    n_heads: int = parameter(4, least=1, whole=True)
    feedforward: int = parameter(256, least=1, whole=True)
    dropout: float = parameter(0.1, least=0, most=0.9)
    n_steps: int = parameter(10_000, least=1, whole=True)
    train_batch_size: int = parameter(256, least=1, whole=True)
    learning_rate: float | str = parameter(1e-3, least=1e-8, most=1, choices=(SEARCH,))
    patience: int = parameter(1_000, least=1, whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.n_heads:
            raise ValueError(
                f"n_heads={self.n_heads} does not divide the width of {self.width}: choose 1, 2, 4, 8, 16, ..."
            )

    @property
    def n_genes(self) -> int | None:
        """Number of genes that the network was made for."""
        return None if self.learned is None else self.learned.network.adapter_out.out_features

    def fit(self, sections: Sections, split: np.ndarray | None, compute: Compute) -> None:
        """Train on the detected entries; with a split, validation libraries choose the step and test libraries score."""
        values, detected = sections.values, sections.known
        device = resolve_device(compute.device)
        rng = np.random.default_rng(compute.seed)
        train = np.ones(len(values), dtype=bool) if split is None else split == "train"
        for_choice, for_score = _hold_out(detected, split, self.mask_share, rng)
        if not (for_choice.any() and for_score.any()):
            raise ValueError(
                f"there are too few detected entries to hold any out ({int(detected.sum())} in {len(values)} spots): "
                "give more spots or genes, or use `sp.tl.median_complete`, which learns nothing."
            )
        # Hidden before the first step that reads values, so that no pre-completed value has seen a hidden one.
        known = detected & ~for_choice & ~for_score
        median = _median(sections, known, compute.n_threads)
        learned_from = known & train[:, None]
        gene_mean = gene_means(np.where(learned_from, values, 0), learned_from)
        data = _Neighbourhoods(_visible(values, known, median, self), known, sections, self.n_rings, device)
        choice_spots = rng.permutation(np.flatnonzero(for_choice.any(axis=1)))[:_VALIDATION_SPOTS]
        training = _Training(
            self,
            data,
            gene_mean,
            train_spots=torch.as_tensor(np.flatnonzero(train), device=device),
            choice=_Choice(values, for_choice, choice_spots, device),
            identity={**self.params(), "seed": compute.seed, "data": _hash(sections, train)},
            compute=compute,
        )
        search: dict[str, list[float]] = {}
        if self.learning_rate == SEARCH:
            network, result, search = search_learning_rate(training.fit, compute.checkpoint)
        else:
            network, result = training.fit(float(self.learning_rate), compute.checkpoint)
        score = {
            "paper": masked_mse(values, _predict(network, data, compute), for_score),
            "median": masked_mse(values, median, for_score),
            "gene_mean": masked_mse(values, np.broadcast_to(gene_mean, values.shape), for_score),
            "n_entries": int(for_score.sum()),
        }
        self.learned = Fitted(network, result, score, search, data_hash(values, detected))

    def apply(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate of every entry from all detected entries."""
        learned = self.result()
        _check_embedding(learned.network, sections)
        device = resolve_device(compute.device)
        learned.network.to(device)
        median = _median(sections, sections.known, compute.n_threads)
        visible = _visible(sections.values, sections.known, median, self)
        data = _Neighbourhoods(visible, sections.known, sections, self.n_rings, device)
        return Estimate(_predict(learned.network, data, compute))

    def report(self) -> dict[str, Any]:
        """Summary of the fit for the record."""
        learned = self.result()
        return {
            "data": learned.data,
            "score": learned.score,
            "training": curve(learned.fit),
            "search": {name: np.asarray(tried) for name, tried in learned.search.items()},
            "n_parameters": n_weights(learned.network),
        }

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Weights and parameters."""
        learned = self.result()
        arrays = {name: weights.cpu().numpy() for name, weights in learned.network.state_dict().items()}
        values = {"params": self.params(), "n_genes": self.n_genes}
        return arrays, {**values, "score": learned.score, "data": learned.data}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The completer with that state."""
        completer = cls(**values["params"])
        n_features = arrays["embedding_mean"].size if "embedding_mean" in arrays else 0
        with local_seed(0, torch.device("cpu")):  # leaves the user's random state as it is
            network = SpackleNet(values["n_genes"], completer, np.zeros((1, n_features)) if n_features else None)
        network = network_from(network, arrays)
        completer.learned = Fitted(network, score=values["score"], data=values["data"])
        return completer


@dataclass(frozen=True)
class _Training:
    """All that one fit at a learning rate needs."""

    params: SpaCKLE
    data: _Neighbourhoods
    gene_mean: np.ndarray
    train_spots: torch.Tensor
    choice: _Choice
    identity: dict[str, Any]
    compute: Compute

    def fit(self, learning_rate: float, folder: Path | None) -> tuple[SpackleNet, Fit]:
        """Train at a learning rate, from the same start at each."""
        params, data, device = self.params, self.data, self.train_spots.device
        embedding = data.plain_embedding
        with local_seed(self.compute.seed, device) as generator:
            network = SpackleNet(len(self.gene_mean), params, embedding)
            # The paper leaves the start open; from the gene means the first thousand steps need not find them.
            network.adapter_out.bias.data = torch.as_tensor(self.gene_mean, dtype=torch.float32)
            network.to(device)
            result = Trainer(
                network,
                training_loss=lambda: _training_loss(network, data, self.train_spots, params, generator),
                validation_error=lambda: self.choice.error(network, data),
                generator=generator,
                n_steps=params.n_steps,
                learning_rate=learning_rate,
                validate_every=min(_VALIDATE_EVERY, params.n_steps),
                patience=params.patience,
                show_progress_bar=self.compute.show_progress_bar,
                desc="SpaCKLE" if params.learning_rate != SEARCH else f"SpaCKLE, learning rate {learning_rate:.2g}",
                checkpoint=folder,
                identity={**self.identity, "learning_rate": learning_rate},
            ).run()
        return network, result


def _hash(sections: Sections, train: np.ndarray) -> str:
    lattice, embedding = sections.lattice, sections.embedding
    arrays = (sections.values, sections.known, lattice.indptr, lattice.indices, sections.library, train)
    return data_hash(*arrays, *(() if embedding is None else (embedding,)))


def _check_embedding(network: SpackleNet, sections: Sections) -> None:
    """Refuse a saved model and data of which only one has an embedding, or whose embeddings differ in width."""
    wanted = network.embedding_mean.numel() if hasattr(network, "embedding_mean") else 0
    found = 0 if sections.embedding is None else sections.embedding.shape[1]
    if wanted != found:
        raise ValueError(
            f"the model was fitted with an embedding of {wanted} features, and here are {found}: "
            + ("name the embedding with `use_rep=`." if wanted else "leave out `use_rep`.")
        )


def _visible(values: np.ndarray, known: np.ndarray, median: np.ndarray, params: SpaCKLE) -> np.ndarray:
    return median if params.precomplete else np.where(known, values, np.float32(0))


def _training_loss(
    network: SpackleNet, data: _Neighbourhoods, train_spots: torch.Tensor, params: SpaCKLE, generator: torch.Generator
) -> torch.Tensor:
    """Hide known entries of a random batch of neighbourhoods, and compare what the network gives back."""
    device = train_spots.device
    draw = torch.randint(len(train_spots), (params.train_batch_size,), generator=generator, device=device)
    target, known, padding, embedding = data.batch(train_spots[draw])
    hidden = known & (torch.rand(target.shape, generator=generator, device=device) < params.mask_share)
    error = (network(target.masked_fill(hidden, 0), padding, embedding) - target) ** 2
    if params.loss == "all":
        return error[~padding].mean()
    return (error[:, 0] * hidden[:, 0]).sum() / hidden[:, 0].sum().clamp(min=1)


class _Choice:
    """Held-out entries that the best step is chosen by."""

    def __init__(self, values: np.ndarray, hidden: np.ndarray, spots: np.ndarray, device: torch.device):
        self.spots = torch.as_tensor(spots, device=device)
        self.values = torch.as_tensor(values[spots], dtype=torch.float32, device=device)
        self.hidden = torch.as_tensor(hidden[spots], device=device)

    def error(self, network: SpackleNet, data: _Neighbourhoods) -> float:
        """MSE, in batches of a fixed size, so that the chosen step does not depend on the user's batch size."""
        total = torch.zeros((), device=self.spots.device)
        for spots, values, hidden in zip(
            self.spots.split(512), self.values.split(512), self.hidden.split(512), strict=True
        ):
            total += (((data.complete(network, spots) - values) ** 2) * hidden).sum()
        return (total / self.hidden.sum()).item()


def _median(sections: Sections, known: np.ndarray, n_threads: int) -> np.ndarray:
    return adaptive_median(sections.values, known, sections.lattice, sections.library, n_threads=n_threads)


def _predict(network: SpackleNet, data: _Neighbourhoods, compute: Compute) -> np.ndarray:
    batch_size = compute.batch_size or _BATCH
    with torch.no_grad():
        parts = [
            data.complete(network, index).cpu()
            for index in torch.arange(data.n, device=data.spots.device).split(batch_size)
        ]
    return torch.cat(parts).numpy()


def _hold_out(
    detected: np.ndarray, split: np.ndarray | None, mask_share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Entries to choose the best step by, and others to score the result by.

    With validation libraries, entries of those are hidden at the mask share; otherwise a tenth of the training
    entries. The score is taken on the test libraries where there are any, else on half of the hidden entries.
    """
    nobody = np.zeros(len(detected), dtype=bool)
    val = nobody if split is None else split == "val"
    test = nobody if split is None else split == "test"
    draw = rng.random(detected.shape)
    share = mask_share
    if not val.any():
        val, share = ~test, _HELD_OUT
    hidden = hide_detected(detected, share, rng) & val[:, None]
    if test.any():
        return hidden, hide_detected(detected, mask_share, rng) & test[:, None]
    return hidden & (draw < 0.5), hidden & (draw >= 0.5)
