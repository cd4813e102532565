"""SpaCKLE as the paper describes it: a transformer over a spot's neighbourhood that completes the spot's expression."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.median import adaptive_median
from spared_sc._kernels.metrics import masked_mse
from spared_sc._models import checkpoint as checkpoint_files
from spared_sc._models.training import (
    SEARCH,
    Fit,
    fit,
    kept_threads,
    local_seed,
    mixed_precision,
    search_learning_rate,
)

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._kernels.lattice import Lattice

KIND = "spackle"
_VALIDATE_EVERY = 50
_VALIDATION_SPOTS = 4096  # enough for a stable error, however large the collection
_HELD_OUT = 0.1  # share of the detected entries that a fit without a split does not train on


@dataclass(frozen=True)
class SpackleParams:
    """Hyper-parameters; what the paper fixes is marked."""

    n_rings: int = 2  # paper
    mask_share: float = 0.3  # paper
    precomplete: bool = True  # paper
    loss: str = "all"  # paper: all entries of all spots; "hidden": hidden entries of the spot itself
    width: int = 128  # paper
    n_layers: int = 2
    n_heads: int = 4
    feedforward: int = 256
    dropout: float = 0.1
    n_steps: int = 10_000  # paper
    train_batch_size: int = 256  # paper
    learning_rate: float | str = 1e-3  # paper: "search"
    patience: int | None = 1_000


class SpackleNet(nn.Module):
    """Linear adapter, transformer encoder over the spots of a neighbourhood, linear adapter."""

    def __init__(self, n_genes: int, params: SpackleParams, embedding: np.ndarray | None = None) -> None:
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
        """Expression of every spot of every neighbourhood.

        Parameters
        ----------
        values
            (n_batch, 1 + k, n_genes); the spot itself comes first.
        padding
            (n_batch, 1 + k), true where there is no spot.
        embedding
            (n_batch, 1 + k, n_features), where the network was made with one.
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
        self,
        values: np.ndarray,
        known: np.ndarray,
        lattice: Lattice,
        n_rings: int,
        device: torch.device,
        embedding: np.ndarray | None = None,
    ):
        n, n_genes = values.shape
        self.n = n
        self.embedding = None
        if embedding is not None:
            padded = np.vstack([embedding, np.zeros((1, embedding.shape[1]))])
            self.embedding = torch.as_tensor(padded, dtype=torch.float32, device=device)
        none = np.zeros((1, n_genes))
        self.values = torch.as_tensor(np.vstack([values, none]), dtype=torch.float32, device=device)
        self.known = torch.as_tensor(np.vstack([known, none]), dtype=torch.bool, device=device)
        spots = np.column_stack([np.arange(n), lattice.table(n_rings)])
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
class FittedSpackle:
    """A fitted network, how it was fitted, and how well it does on entries that nobody saw."""

    network: SpackleNet
    params: SpackleParams
    fit: Fit
    score: dict[str, float]  # MSE on hidden entries of the model, the adaptive median and the gene mean
    search: dict[str, list[float]]  # learning rates tried and their validation errors; empty without a search


def fit_spackle(
    values: np.ndarray,
    detected: np.ndarray,
    lattice: Lattice,
    library: np.ndarray,
    split: np.ndarray | None,
    params: SpackleParams,
    *,
    device: torch.device,
    batch_size: int,
    seed: int,
    n_threads: int,
    show_progress_bar: bool | None,
    checkpoint: Path | None = None,
    embedding: np.ndarray | None = None,
) -> FittedSpackle:
    """Train SpaCKLE on the detected entries.

    Parameters
    ----------
    values
        (n_spots, n_genes) float32, in an order of the spots that does not depend on the user's.
    detected
        (n_spots, n_genes) booleans.
    lattice
        Neighbours of the spots.
    library
        (n_spots,) library as 0, 1, ...
    split
        (n_spots,) `"train"`, `"val"` or `"test"`; `None` trains on all spots.
    batch_size
        Spots per forward pass at inference.
    checkpoint
        Folder for the state of the fit; one below it for each learning rate of a search.
    embedding
        (n_spots, n_features) more input of every spot, which is never hidden; such as of the image.
    """
    rng = np.random.default_rng(seed)
    train = np.ones(len(values), dtype=bool) if split is None else split == "train"
    for_choice, for_score = _hold_out(detected, split, params.mask_share, rng)
    if not (for_choice.any() and for_score.any()):
        raise ValueError(
            f"there are too few detected entries to hold any out ({int(detected.sum())} in {len(values)} spots): "
            "give more spots or genes, or use `sp.tl.median_complete`, which learns nothing."
        )
    # Hidden before the first step that reads values, so that no pre-completed value has seen a hidden one.
    known = detected & ~for_choice & ~for_score
    median = _median(values, known, lattice, library, n_threads)
    gene_mean = _gene_mean(values, known & train[:, None])
    data = _Neighbourhoods(_visible(values, known, median, params), known, lattice, params.n_rings, device, embedding)
    choice_spots = rng.permutation(np.flatnonzero(for_choice.any(axis=1)))[:_VALIDATION_SPOTS]
    choice = _Choice(values, for_choice, choice_spots, device)
    identity = {
        **asdict(params),
        "seed": seed,
        "data": checkpoint_files.data_hash(
            values,
            detected,
            lattice.indptr,
            lattice.indices,
            library,
            train,
            *([] if embedding is None else [embedding]),
        ),
    }

    def fit_one(learning_rate: float, folder: Path | None) -> tuple[SpackleNet, Fit]:
        with local_seed(seed, device) as generator:
            network = SpackleNet(values.shape[1], params, embedding)
            # The paper leaves the start open; from the gene means the first thousand steps need not find them.
            network.adapter_out.bias.data = torch.as_tensor(gene_mean, dtype=torch.float32)
            network.to(device)
            train_spots = torch.as_tensor(np.flatnonzero(train), device=device)
            result = fit(
                network,
                training_loss=lambda: _training_loss(network, data, train_spots, params, generator),
                validation_error=lambda: choice.error(network, data),
                generator=generator,
                n_steps=params.n_steps,
                learning_rate=learning_rate,
                validate_every=min(_VALIDATE_EVERY, params.n_steps),
                patience=params.patience,
                show_progress_bar=show_progress_bar,
                desc="SpaCKLE" if params.learning_rate != SEARCH else f"SpaCKLE, learning rate {learning_rate:.2g}",
                checkpoint=folder,
                identity={**identity, "learning_rate": learning_rate},
            )
        return network, result

    if params.learning_rate == SEARCH:
        network, result, search = search_learning_rate(fit_one, checkpoint)
    else:
        (network, result), search = fit_one(params.learning_rate, checkpoint), {}
    score = {
        "spackle": masked_mse(values, _predict(network, data, batch_size), for_score),
        "median": masked_mse(values, median, for_score),
        "gene_mean": masked_mse(values, np.broadcast_to(gene_mean, values.shape), for_score),
        "n_entries": int(for_score.sum()),
    }
    return FittedSpackle(network, params, result, score, search)


def complete(
    network: SpackleNet,
    params: SpackleParams,
    values: np.ndarray,
    detected: np.ndarray,
    lattice: Lattice,
    library: np.ndarray,
    *,
    device: torch.device,
    batch_size: int,
    n_threads: int,
    embedding: np.ndarray | None = None,
) -> np.ndarray:
    """Estimate of every entry, (n_spots, n_genes) float32, from all detected entries; arguments as `fit_spackle`'s."""
    median = _median(values, detected, lattice, library, n_threads)
    visible = _visible(values, detected, median, params)
    data = _Neighbourhoods(visible, detected, lattice, params.n_rings, device, embedding)
    return _predict(network, data, batch_size)


def save_spackle(
    folder: str | Path, network: SpackleNet, params: SpackleParams, genes: list[str], card: dict[str, Any]
) -> None:
    """Write weights, hyper-parameters and genes to a folder."""
    arrays = {name: weights.cpu().numpy() for name, weights in network.state_dict().items()}
    checkpoint_files.save(folder, KIND, arrays, {"params": asdict(params), "genes": genes, **card})


def from_files(arrays: dict[str, np.ndarray], card: dict[str, Any]) -> tuple[SpackleNet, SpackleParams]:
    """Network and hyper-parameters that `save_spackle` wrote.

    Raises
    ------
    ValueError
        If weights and card do not fit.
    """
    try:
        params = SpackleParams(**card["params"])
        n_features = arrays["embedding_mean"].size if "embedding_mean" in arrays else 0
        network = SpackleNet(len(card["genes"]), params, np.zeros((1, n_features)) if n_features else None)
        network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    except (KeyError, TypeError, RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"the model is damaged: weights and card do not fit ({error}).") from error
    return network.eval(), params


def _visible(values: np.ndarray, known: np.ndarray, median: np.ndarray, params: SpackleParams) -> np.ndarray:
    return median if params.precomplete else np.where(known, values, np.float32(0))


def _training_loss(
    network: SpackleNet,
    data: _Neighbourhoods,
    train_spots: torch.Tensor,
    params: SpackleParams,
    generator: torch.Generator,
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


def _median(values: np.ndarray, known: np.ndarray, lattice: Lattice, library: np.ndarray, n_threads: int) -> np.ndarray:
    with kept_threads():
        return adaptive_median(values, known, lattice, library, n_threads=n_threads)


def _predict(network: SpackleNet, data: _Neighbourhoods, batch_size: int) -> np.ndarray:
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


def _gene_mean(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0, dtype=np.float64)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
