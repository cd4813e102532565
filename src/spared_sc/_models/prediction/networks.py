"""Fitting and applying networks that see patches: reading ahead, augmentation, batches, saving."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._core.report import logger
from spared_sc._kernels.at_depth import size_by_moments
from spared_sc._kernels.metrics import masked_mse, poisson_deviance
from spared_sc._kernels.prediction_shrinkage import expected_counts
from spared_sc._kernels.threads import limited_threads, run_chunks
from spared_sc._models import training
from spared_sc._models.checkpoint import data_hash
from spared_sc._models.prediction.augment import N_SYMMETRIES, transformed
from spared_sc._models.prediction.backbones import PRETRAINED, RANDOM
from spared_sc._models.prediction.base import MSE, NEGATIVE_BINOMIAL, Predictor, Reading, present

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from spared_sc._core.compute import Compute
    from spared_sc._models.prediction.base import Spots
    from spared_sc._models.training import Fit

BATCH = 256  # spots per forward pass; of a validation always, so that its result does not depend on the user's choice
_CPU_CHUNK = 16  # spots that a thread predicts at a time
_VALIDATION_SPOTS = 1024  # enough for a stable error; their patches stay in memory
_NETWORK, _MORE, _OFFSET = "network.", "learned.", "offset"  # of names of saved arrays
_BOOL = (False, True)
_LN2 = np.log(2.0)
_LARGEST_LOG = 15.0  # of a rate over the one at the gene's share
_LEAST_LEVEL = 1e-6  # scaled expression at the share of a gene without a count


class GeneNetwork(nn.Module):
    """A network with an output per gene."""

    n_genes: int


Net = TypeVar("Net", bound=GeneNetwork)


@dataclass
class Draws:
    """Random batches; the next one is read ahead, drawn from a copy of the generator, whose own state a checkpoint holds."""

    reading: Reading
    batch_size: int
    generator: torch.Generator
    _ahead: Future[np.ndarray] | None = None

    def _draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        device = generator.device
        rows = torch.randperm(len(self.reading.patches), generator=generator, device=device)[: self.batch_size]
        return rows, torch.randint(N_SYMMETRIES, (len(rows),), generator=generator, device=device)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Rows, the symmetry of each, and their patches."""
        rows, codes = self._draw(self.generator)
        patches = (self._ahead or self.reading.submit(rows.cpu().numpy())).result()
        copy = torch.Generator(self.generator.device)
        copy.set_state(self.generator.get_state())
        self._ahead = self.reading.submit(self._draw(copy)[0].cpu().numpy())
        return rows, codes, patches


@dataclass
class Targets:
    """Values that the loss compares with, on the device."""

    values: torch.Tensor  # (n, g), counts where they are compared
    known: torch.Tensor | None  # (n, g)
    # (n, g) counts at the gene's share; outputs are logarithms of what that is off by
    expected: torch.Tensor | None = None
    size: torch.Tensor | None = None  # (g,) of negative binomial counts

    @classmethod
    def of(cls, spots: Spots, device: torch.device) -> Targets:
        """Targets of spots, which are on the scale of the network's output."""

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=device)

        if spots.loss == MSE:
            known = None if spots.known is None else torch.as_tensor(spots.known, device=device)
            return cls(tensor(present(spots.target, "target")), known)
        counts = present(spots.counts, "counts")
        expected = expected_counts(spots.flat(), present(spots.exposure, "exposure"))
        size = size_by_moments(counts, expected) if spots.loss == NEGATIVE_BINOMIAL else None
        return cls(tensor(counts), None, tensor(expected), None if size is None else tensor(size))

    def take(self, index: torch.Tensor) -> Targets:
        """Those of some spots."""
        known, expected = (None if x is None else x[index] for x in (self.known, self.expected))
        return replace(self, values=self.values[index], known=known, expected=expected)

    def loss(self, output: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the known entries, or of counts the mean negative log-likelihood, but for a constant."""
        if self.expected is None:
            error = (output - self.values) ** 2
            return error.mean() if self.known is None else (error * self.known).sum() / self.known.sum().clamp(min=1)
        output = output.clamp(max=_LARGEST_LOG)  # here and below: else the likelihood would grow without bound
        rate = self.expected * output.exp()
        if self.size is None:
            return (rate - self.values * output).mean()
        return ((self.values + self.size) * torch.log1p(rate / self.size) - self.values * output).mean()


@dataclass(frozen=True)
class _Training(Generic[Net]):
    """One fit, apart from its learning rate."""

    train: Spots
    targets: Targets
    error: Callable[[Net], float] | None  # on validation spots
    identity: dict[str, Any]
    device: torch.device
    compute: Compute


def rate(default: float) -> Any:
    """Field of a learning rate."""
    return parameter(default, least=1e-12, choices=(training.SEARCH,))


@dataclass(kw_only=True, eq=False)
class NetworkPredictor(Predictor, Generic[Net]):
    """A network that sees the patch of a spot.

    Parameters
    ----------
    weights
        Where the backbone starts: `"pretrained"`, `"random"`, or a file of weights.
    image_size
        Side in pixels to which patches are scaled for the network; `None` leaves them.
    delta
        Learn deviations from the mean of each gene over the training spots, and add it again.
    augment
        Whether every training patch is rotated and mirrored at random.
    n_steps
        Training steps. Without validation spots all are taken and the last weights used.
    train_batch_size
        Spots per training step.
    learning_rate
        A number, or `"search"` for the best of SpaRED's ten by validation error.
    optimizer
        `"adam"`, `"adamw"`, or `"sgd"`, gradient descent with momentum 0.9.
    weight_decay
        Weight decay of AdamW.
    schedule
        `"none"` for a constant rate, or `"cosine"` for a rate that falls along half a cosine.
    final_rate
        Where the cosine ends, as a share of `learning_rate`.
    warmup_steps
        Steps over which the rate rises linearly before the cosine.
    validate_every
        Steps between validations.
    patience
        Steps without improvement before an early stop; `None` never stops early.
    """

    validates: ClassVar[bool] = True
    weights: str | Path = PRETRAINED
    image_size: int | None = parameter(None, least=1, whole=True)
    delta: bool = parameter(False, choices=_BOOL)
    augment: bool = parameter(True, choices=_BOOL)
    n_steps: int = parameter(1000, least=1, whole=True)
    train_batch_size: int = parameter(256, least=1, whole=True)
    learning_rate: float | str = rate(1e-4)
    optimizer: str = parameter("adam", choices=training.OPTIMIZERS)
    weight_decay: float = parameter(0.0, least=0)
    schedule: str = parameter("none", choices=training.SCHEDULES)
    final_rate: float = parameter(0.0, least=0, most=1)
    warmup_steps: int = parameter(0, least=0, whole=True)
    validate_every: int = parameter(10, least=1, whole=True)
    patience: int | None = parameter(None, least=1, whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        training.check_descent(
            self.optimizer,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            final_rate=self.final_rate,
            warmup_steps=self.warmup_steps,
        )
        self.network: Net | None = None
        self.offset = np.zeros(0, np.float32)  # (g,) added to the network's output
        self.counted = False  # whether that is the logarithm of scaled expression, as counts taught it
        self.reference: dict[str, torch.Tensor] = {}  # of the training spots, where predictions need them
        self.fit_report: Fit | None = None
        self.search: dict[str, list[float]] = {}  # learning rates tried and their validation errors

    # --- hooks of a model -----------------------------------------------------------------------------------------------

    @abstractmethod
    def make_network(self, n_genes: int, weights: str | Path) -> Net:
        """The network before training."""

    @abstractmethod
    def _loss(self, network: Net, images: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Loss of some training spots: `targets` are those of the `rows`."""

    @abstractmethod
    def _output(self, network: Net, images: torch.Tensor, spots: Spots, own: torch.Tensor | None) -> torch.Tensor:
        """Expression (n, g) of spots; `own` as in `predict`."""

    def _prepare(self, train: Spots, compute: Compute, device: torch.device) -> None:
        """Learn everything that precedes the network, such as `reference`."""

    def _start(self, network: Net, train: Spots) -> None:
        """Set the starting values of the network besides its weights."""

    def _before_output(self, network: Net) -> None:
        """Compute everything that calls of `_output` share."""

    def _learned(self) -> dict[str, np.ndarray]:
        """Arrays to save besides the network."""
        return {name: value.cpu().numpy() for name, value in self.reference.items()}

    def _restore(self, learned: dict[str, np.ndarray]) -> None:
        """Take those arrays back."""
        self.reference = {name: torch.tensor(value) for name, value in learned.items()}

    # --- shared by all models -------------------------------------------------------------------------------------------

    @classmethod
    def place(cls, compute: Compute) -> Compute:
        """The same, with the device that is used."""
        return training.on_device(compute)

    @property
    def interrupted(self) -> bool:
        """Whether the fit was interrupted; the best state up to then is kept."""
        return self.fit_report is not None and self.fit_report.stopped == "interrupted"

    def params(self) -> dict[str, Any]:
        """Parameters by name."""
        return {**super().params(), "weights": str(self.weights)}

    def trained(self) -> Net:
        """The network after `fit`."""
        if self.network is None:
            raise ValueError(f"{self.name} is not fitted: call `fit` first.")
        return self.network

    def n_parameters(self) -> int:
        """Weights that training changed."""
        return training.n_weights(self.trained())

    def fit(self, train: Spots, validation: Spots | None, compute: Compute) -> None:
        """Learn from `train`; `validation` selects among steps and learning rates and is never trained on."""
        if validation is not None and not len(validation):
            validation = None
        self._check(train, validation)
        device = training.resolve_device(compute.device)
        self.counted, self.offset = train.loss != MSE, self._offset_of(train)
        if not self.counted:
            train = replace(train, target=present(train.target, "target") - self.offset)
        with training.local_seed(compute.seed, device):
            self._prepare(train, compute, device)
            self._move(device)
        identity = {**self.params(), "model": self.name, "seed": compute.seed, "data": _hash(train), "loss": train.loss}
        identity["validation"] = None if validation is None else _hash(validation)
        error = None if validation is None else self._validation(train, validation, compute)
        fit_at = partial(self._fit_at, _Training(train, Targets.of(train, device), error, identity, device, compute))
        try:
            if self.learning_rate == training.SEARCH:
                self.network, self.fit_report, self.search = training.search_learning_rate(fit_at, compute.checkpoint)
            else:
                self.network, self.fit_report = fit_at(float(self.learning_rate), compute.checkpoint)
        except torch.OutOfMemoryError as caught:
            raise MemoryError(
                f"{self.train_batch_size} patches at a time do not fit into the memory of {device} to train {self.name}: "
                "lower `train_batch_size` (it changes the result)."
            ) from caught

    def _offset_of(self, train: Spots) -> np.ndarray:
        """What is added to the network's output, (g,): the means of the genes, or the logarithms of their shares."""
        if train.loss != MSE:
            return np.log(np.maximum(np.expm1(train.flat() * _LN2), _LEAST_LEVEL)).astype(np.float32)
        return train.gene_means() if self.delta else np.zeros(train.targets()[0].shape[1], np.float32)

    def _mean_output(self, train: Spots) -> np.ndarray:
        """Output (g,) at the mean of each gene."""
        return np.zeros_like(self.offset) if self.counted else train.gene_means()

    def _finished(self, output: np.ndarray) -> np.ndarray:
        """Predictions, from the network's output."""
        output = output + self.offset
        return (np.logaddexp(0, output) / _LN2).astype(np.float32) if self.counted else output

    def _check(self, train: Spots, validation: Spots | None) -> None:
        """Refuse spots that cannot be trained on."""
        if validation is None and self.learning_rate == training.SEARCH:
            raise ValueError(
                "learning_rate='search' compares rates on validation spots, and there are none: give a split with "
                "a validation library, or a number."
            )
        if len(train) < 2:
            raise ValueError(f"there are too few spots to train on ({len(train)}): expected at least 2.")
        if validation is not None and validation.counts is None and not validation.targets()[1].any():
            raise ValueError(
                "no gene is detected in the validation libraries: choose others, or count all entries with loss='all'."
            )

    def _fit_at(self, setup: _Training[Net], learning_rate: float, folder: Path | None) -> tuple[Net, Fit]:
        """The network fitted at a learning rate, with its checkpoint in a folder."""
        train, device, compute = setup.train, setup.device, setup.compute
        with (
            training.local_seed(compute.seed, device) as generator,
            Reading(present(train.patches, "patches")) as reading,
        ):
            network = self._placed(self.make_network(setup.targets.values.shape[1], self.weights), device)
            self._start(network, train)
            draw = Draws(reading, self.train_batch_size, generator)

            def training_loss() -> torch.Tensor:
                rows, codes, patches = draw()
                images = self._images(patches, device, codes if self.augment else None)
                return self._loss(network, images, rows, setup.targets.take(rows))

            searched = self.learning_rate == training.SEARCH
            result = training.Trainer(
                network,
                training_loss=training_loss,
                validation_error=None if setup.error is None else partial(setup.error, network),
                generator=generator,
                n_steps=self.n_steps,
                learning_rate=learning_rate,
                validate_every=min(self.validate_every, self.n_steps),
                patience=self.patience,
                show_progress_bar=compute.show_progress_bar,
                desc=f"{self.name}, learning rate {learning_rate:.2g}" if searched else self.name,
                checkpoint=folder,
                identity={**setup.identity, "learning_rate": learning_rate},
                optimizer=self.optimizer,
                weight_decay=self.weight_decay,
                schedule=self.schedule,
                final_rate=self.final_rate,
                warmup_steps=min(self.warmup_steps, self.n_steps - 1),
            ).run()
        return network, result

    def predict(self, spots: Spots, compute: Compute, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g).

        `own_library` (n,) matters to models that look training spots up (BLEEP, EGN): nothing is looked up in the
        library that a spot is in, unless training had one library only.
        """
        network = self._placed(self.trained(), training.resolve_device(compute.device))
        library = self.reference.get("library")
        if own_library is not None and (own_library < 0).all():
            own_library = None  # nothing to leave out
        if library is not None and (library == library[0]).all():
            own_library = None  # there is no other library to look spots up in
        size = compute.batch_size or BATCH
        with (
            Reading(present(spots.patches, "patches")) as reading,
            compute.bar(len(spots), f"{self.name}, predicting", "spot") as bar,
        ):
            output = self._apply(
                network, spots, reading.batches(size), size, own_library, bar.update, n_threads=compute.n_threads
            )
        return self._finished(output)

    def report(self) -> dict[str, Any]:
        """Summary of the fit for the record."""
        values: dict[str, Any] = {"n_parameters": self.n_parameters()}
        if self.fit_report is not None:
            values["training"] = training.curve(self.fit_report)
        if self.search:
            values["search"] = {name: np.asarray(tried) for name, tried in self.search.items()}
        return values

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Learned state: arrays, and values that JSON can hold."""
        network = self.trained()
        arrays = {_NETWORK + name: value.cpu().numpy() for name, value in network.state_dict().items()}
        arrays |= {_MORE + name: value for name, value in self._learned().items()}
        arrays[_OFFSET] = self.offset
        return arrays, {"params": self.params(), "n_genes": network.n_genes, "counted": self.counted}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The predictor with that state; a ValueError if arrays and values do not fit."""

        def named(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        try:
            predictor = cls(**values["params"])
            predictor.offset, predictor.counted = arrays[_OFFSET], bool(values["counted"])
            with training.local_seed(0, torch.device("cpu")):  # leaves the user's random state as it is
                predictor._restore(named(_MORE))
                network = predictor.make_network(values["n_genes"], RANDOM)
            network.load_state_dict({name: torch.tensor(array) for name, array in named(_NETWORK).items()})
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"the model is damaged: weights and card do not fit ({error}).") from error
        network.eval()
        predictor.network = network
        return predictor

    @staticmethod
    def _placed(network: Net, device: torch.device) -> Net:
        network.to(device)
        return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network

    def _move(self, device: torch.device) -> None:
        self.reference = {name: value.to(device) for name, value in self.reference.items()}

    def _images(self, patches: np.ndarray, device: torch.device, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Patches (n, side, side, 3) as the network takes them: (n, 3, size, size), values 0 to 255."""
        images = torch.from_numpy(np.require(patches, np.uint8, ["C", "W"])).to(device).permute(0, 3, 1, 2)
        if codes is not None:
            images = transformed(images, codes)
        images = images.float()
        if self.image_size is not None and images.shape[-1] != self.image_size:
            images = functional.interpolate(images, (self.image_size,) * 2, mode="bilinear", antialias=True)
        return images.contiguous(
            memory_format=torch.channels_last if device.type == "cuda" else torch.contiguous_format
        )

    def _apply(
        self,
        network: Net,
        spots: Spots,
        batches: Iterable[tuple[np.ndarray, np.ndarray]],
        batch_size: int,
        own_library: np.ndarray | None,
        on_done: Callable[[int], object] = lambda n: None,
        *,
        n_threads: int,
    ) -> np.ndarray:
        """Expression of spots, from their patches in batches."""
        device = next(network.parameters()).device
        own = None if own_library is None else torch.as_tensor(own_library, dtype=torch.int64, device=device)

        def output(images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
            return self._output(network, images, spots.take(rows), None if own is None else own[rows])

        self._move(device)
        with torch.no_grad():
            network.eval()
            self._before_output(network)
            parts = list(self._in_pieces(output, batches, batch_size, device, on_done, n_threads=n_threads))
        return torch.cat(parts).numpy() if parts else np.empty((0, network.n_genes), np.float32)

    def _in_pieces(
        self,
        compute: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
        batches: Iterable[tuple[np.ndarray, np.ndarray]],
        size: int,
        device: torch.device,
        on_done: Callable[[int], object] = lambda n: None,
        *,
        n_threads: int,
    ) -> Iterator[torch.Tensor]:
        """Some function of images and rows, piece by piece; pieces are halved where memory does not suffice."""
        for rows, patches in batches:
            done = 0
            while done < len(rows):
                some = rows[done : done + size]
                try:
                    part = self._outputs(compute, patches[done : done + size], some, device, n_threads)
                except torch.OutOfMemoryError:
                    if len(some) == 1:
                        raise
                    part = None
                if part is None:  # outside of the handler, which still holds on to the tensors of the attempt
                    size = len(some) // 2
                    logger.info("the device's memory does not suffice: going on with %d spots at a time", size)
                    torch.cuda.empty_cache()
                    continue
                yield part
                done += len(some)
                on_done(len(some))

    def _outputs(
        self,
        compute: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
        patches: np.ndarray,
        rows: np.ndarray,
        device: torch.device,
        n_threads: int,
    ) -> torch.Tensor:
        """Some function of images and rows, without gradients; on the CPU in chunks, which threads take in turn."""
        parts: dict[int, torch.Tensor] = {}

        @limited_threads(1)  # OpenMP's number is each thread's own, and so is whether there are gradients
        @torch.no_grad()
        def part(start: int, stop: int) -> None:
            images = self._images(patches[start:stop], device)
            parts[start] = compute(images, rows[start:stop]).float().cpu()

        run_chunks(part, len(rows), _CPU_CHUNK if device.type == "cpu" else len(rows), n_threads)
        return torch.cat([parts[start] for start in sorted(parts)])

    def _validation(self, train: Spots, validation: Spots, compute: Compute) -> Callable[[Net], float]:
        """Function of a network: its error on some validation spots, whose patches are read once."""
        some = np.random.default_rng(compute.seed).permutation(len(validation))[:_VALIDATION_SPOTS]
        spots = validation.take(np.sort(some))
        target, known = spots.targets()
        with Reading(present(spots.patches, "patches")) as reading:
            batches = list(reading.batches(BATCH))
        # Where there is another library to look spots up in, the own one would flatter.
        own = spots.library if len(np.unique(train.library)) > 1 else None

        def error(network: Net) -> float:
            output = self._apply(network, spots, iter(batches), BATCH, own, n_threads=compute.n_threads)
            estimate = self._finished(output)
            if spots.counts is None:
                return masked_mse(target, estimate, known)
            # Expression is compared with what was measured, whatever the network was trained on.
            expected = expected_counts(estimate, present(spots.exposure, "exposure"))
            return float(poisson_deviance(spots.counts, expected).mean())

        return error


def _hash(spots: Spots) -> str:
    """Short name of the data of a fit; of the patches it takes a sample."""
    sample = present(spots.patches, "patches").read(np.unique(np.linspace(0, len(spots) - 1, 16).astype(int)))
    arrays = (spots.target, spots.known, spots.counts, spots.exposure, spots.library, sample)
    return data_hash(*(array for array in arrays if array is not None))
