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
from spared_sc._models.training import Fit, fit, local_seed

if TYPE_CHECKING:
    from spared_sc._kernels.lattice import Lattice

_VALIDATE_EVERY = 50
_VALIDATION_SPOTS = 4096  # enough for a stable error, however large the collection
_HELD_OUT = 0.1  # share of the detected entries that a fit without a split does not train on


@dataclass(frozen=True)
class SpackleParams:
    """Hyper-parameters; what the paper fixes is marked."""

    n_rings: int = 2  # paper
    mask_share: float = 0.3  # paper
    width: int = 128  # paper
    n_layers: int = 2
    n_heads: int = 4
    feedforward: int = 256
    dropout: float = 0.1
    n_steps: int = 10_000  # paper
    train_batch_size: int = 256  # paper
    learning_rate: float = 1e-3  # paper: the best of ten between 1e-5 and 1e-2
    patience: int | None = 1_000


class SpackleNet(nn.Module):
    """Linear adapter, transformer encoder over the spots of a neighbourhood, linear adapter."""

    def __init__(self, n_genes: int, params: SpackleParams) -> None:
        super().__init__()
        self.adapter_in = nn.Linear(n_genes, params.width)
        layer = nn.TransformerEncoderLayer(
            params.width, params.n_heads, params.feedforward, params.dropout, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, params.n_layers, enable_nested_tensor=False)
        self.adapter_out = nn.Linear(params.width, n_genes)

    def forward(self, values: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Expression of every spot of every neighbourhood.

        Parameters
        ----------
        values
            (n_batch, 1 + k, n_genes); the spot itself comes first.
        padding
            (n_batch, 1 + k), true where there is no spot.
        """
        hidden = self.encoder(self.adapter_in(values), src_key_padding_mask=padding)
        return self.adapter_out(hidden)


class _Neighbourhoods:
    """Values on the device, gathered by neighbourhood; place `n` stands for "no spot"."""

    def __init__(self, values: np.ndarray, known: np.ndarray, lattice: Lattice, n_rings: int, device: torch.device):
        n, n_genes = values.shape
        self.n = n
        none = np.zeros((1, n_genes))
        self.values = torch.as_tensor(np.vstack([values, none]), dtype=torch.float32, device=device)
        self.known = torch.as_tensor(np.vstack([known, none]), dtype=torch.bool, device=device)
        spots = np.column_stack([np.arange(n), lattice.table(n_rings)])
        self.spots = torch.as_tensor(spots, device=device)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values and known entries (n_batch, 1 + k, n_genes), and padding (n_batch, 1 + k)."""
        spots = self.spots[index]
        return self.values[spots], self.known[spots], spots == self.n

    def complete(self, network: SpackleNet, index: torch.Tensor) -> torch.Tensor:
        """Estimate of the spots in `index`, from known entries of the spot and completed ones of its neighbours."""
        values, known, padding = self.batch(index)
        values[:, 0] *= known[:, 0]
        return network(values, padding)[:, 0]


@dataclass(frozen=True)
class SpackleResult:
    """A fitted network, what it fills in, and how well it did on entries that nobody saw."""

    completed: np.ndarray  # (n_spots, n_genes) estimate of every entry, detected or not
    fit: Fit
    score: dict[str, float]  # MSE on hidden entries of the model, the adaptive median and the gene mean
    n_parameters: int


def fit_and_complete(
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
) -> SpackleResult:
    """Train SpaCKLE on the detected entries and complete all spots.

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

    with local_seed(seed, device) as generator:
        network = SpackleNet(values.shape[1], params)
        # The paper leaves the start open; from the gene means the first thousand steps need not find them.
        network.adapter_out.bias.data = torch.as_tensor(gene_mean, dtype=torch.float32)
        network.to(device)
        data = _Neighbourhoods(median, known, lattice, params.n_rings, device)
        train_spots = torch.as_tensor(np.flatnonzero(train), device=device)

        def training_loss() -> torch.Tensor:
            draw = torch.randint(len(train_spots), (params.train_batch_size,), generator=generator, device=device)
            target, known_here, padding = data.batch(train_spots[draw])
            chance = torch.rand(target.shape, generator=generator, device=device)
            masked = known_here & (chance < params.mask_share)
            error = network(target.masked_fill(masked, 0), padding) - target
            return (error[~padding] ** 2).mean()

        choice_spots = np.flatnonzero(for_choice.any(axis=1))
        choice_spots = torch.as_tensor(rng.permutation(choice_spots)[:_VALIDATION_SPOTS], device=device)
        choice_mask = torch.as_tensor(for_choice, device=device)
        truth = torch.as_tensor(values, dtype=torch.float32, device=device)

        def validation_error() -> float:
            # In batches of a fixed size, so that the chosen step does not depend on the user's batch size.
            total = torch.zeros((), device=device)
            count = torch.zeros((), device=device)
            for part in choice_spots.split(512):
                hidden = choice_mask[part]
                total += ((data.complete(network, part) - truth[part])[hidden] ** 2).sum()
                count += hidden.sum()
            return (total / count).item()

        result = fit(
            network,
            training_loss=training_loss,
            validation_error=validation_error,
            n_steps=params.n_steps,
            learning_rate=params.learning_rate,
            validate_every=min(_VALIDATE_EVERY, params.n_steps),
            patience=params.patience,
            show_progress_bar=show_progress_bar,
            desc="SpaCKLE",
        )

    score = {
        "spackle": masked_mse(values, _predict(network, data, batch_size), for_score),
        "median": masked_mse(values, median, for_score),
        "gene_mean": masked_mse(values, np.broadcast_to(gene_mean, values.shape), for_score),
        "n_entries": int(for_score.sum()),
    }
    median = _median(values, detected, lattice, library, n_threads)
    data = _Neighbourhoods(median, detected, lattice, params.n_rings, device)
    return SpackleResult(
        completed=_predict(network, data, batch_size),
        fit=result,
        score=score,
        n_parameters=sum(p.numel() for p in network.parameters()),
    )


def _median(values: np.ndarray, known: np.ndarray, lattice: Lattice, library: np.ndarray, n_threads: int) -> np.ndarray:
    # Both use OpenMP, and the first parallel kernel of numba changes torch's number of threads.
    torch_threads = torch.get_num_threads()
    try:
        return adaptive_median(values, known, lattice, library, n_threads=n_threads)
    finally:
        torch.set_num_threads(torch_threads)


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


def params_as_dict(params: SpackleParams) -> dict[str, Any]:
    """Hyper-parameters for the record."""
    return asdict(params)
