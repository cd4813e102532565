"""Fitting and applying networks: batches, reading ahead, augmentation, validation, saving."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import nn

from spared_sc._core.params import parameter
from spared_sc._core.report import logger
from spared_sc._kernels.metrics import masked_mse, poisson_deviance
from spared_sc._kernels.prediction_shrinkage import expected_counts
from spared_sc._kernels.threads import limited_threads, run_chunks
from spared_sc._models import training
from spared_sc._models.checkpoint import data_hash
from spared_sc._models.prediction.augment import N_SYMMETRIES
from spared_sc._models.prediction.backbones import PRETRAINED, RANDOM
from spared_sc._models.prediction.base import Predictor
from spared_sc._models.prediction.batch import Batch, Targets
from spared_sc._models.prediction.components import mean_and_scale
from spared_sc._models.prediction.footprint import check_step
from spared_sc._models.prediction.sampling import Chosen, SingleSpots, WholeSections
from spared_sc._models.prediction.spots import MSE, Reading, present

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from pathlib import Path

    from spared_sc._core.compute import Compute
    from spared_sc._models.prediction.sampling import Sampler
    from spared_sc._models.prediction.spots import Spots
    from spared_sc._models.training import Fit

    Batches = Iterable[tuple[Chosen, np.ndarray | None]]  # with their patches

BATCH = 256  # spots per forward pass; of a validation always, so that its result does not depend on the user's choice
_CPU_CHUNK = 16  # spots that a thread predicts at a time
_VALIDATION_SPOTS = 1024  # enough for a stable error; their patches stay in memory
_NETWORK, _FRONT, _OFFSET = "network.", "front.", "offset"  # of names of saved arrays
_EMBEDDING_MEAN, _EMBEDDING_FACTOR = "embedding_mean", "embedding_factor"
_BOOL = (False, True)
_LN2 = np.log(2.0)
_LEAST_LEVEL = 1e-6  # scaled expression at the share of a gene without a count


class GeneNetwork(nn.Module):
    """A network with an output per gene."""

    n_genes: int


Net = TypeVar("Net", bound=GeneNetwork)


@dataclass(frozen=True)
class Shape:
    """Sizes that a network takes from the data."""

    n_genes: int
    n_features: int | None  # of the embedding; None where the network sees patches alone
    n_train: int  # training spots

    def __post_init__(self) -> None:
        sizes = [self.n_genes, self.n_train, *([] if self.n_features is None else [self.n_features])]
        if any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"the sizes {sizes} are no whole numbers from 1")

    @classmethod
    def of(cls, train: Spots) -> Shape:
        """Those of training spots."""
        n_features = None if train.embedding is None else train.embedding.shape[1]
        return cls(train.targets()[0].shape[1], n_features, len(train))


@dataclass
class Draws:
    """Random batches; the next one is read ahead, drawn from a copy of the generator, whose own state a checkpoint holds."""

    reading: Reading
    sampler: Sampler
    generator: torch.Generator
    _ahead: Future[np.ndarray | None] | None = None

    def _draw(self, generator: torch.Generator) -> tuple[Chosen, torch.Tensor]:
        chosen = self.sampler.draw(generator)
        n = len(chosen.rows)
        return chosen, torch.randint(N_SYMMETRIES, (n,), generator=generator, device=generator.device)

    def __call__(self) -> tuple[Chosen, torch.Tensor, np.ndarray | None]:
        """Rows, the symmetry of each, and their patches."""
        chosen, codes = self._draw(self.generator)
        patches = (self._ahead or self.reading.submit(chosen.rows)).result()
        copy = torch.Generator(self.generator.device)
        copy.set_state(self.generator.get_state())
        self._ahead = self.reading.submit(self._draw(copy)[0].rows)
        return chosen, codes, patches


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
    """A network that sees the patches of spots, or an embedding of them.

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
    smaller: ClassVar[str]  # what to do where a training batch does not fit into memory
    sees_patches: ClassVar[bool] = False  # beside the features of `front`
    weights: str | Path = PRETRAINED
    image_size: int | None = parameter(None, least=1, whole=True)
    delta: bool = parameter(False, choices=_BOOL)
    augment: bool = parameter(True, choices=_BOOL)
    n_steps: int = parameter(1000, least=1, whole=True)
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
        self.shape: Shape | None = None
        self.front: nn.Module | None = None  # gives the features that the network sees
        self.scaling: tuple[np.ndarray, np.ndarray] | None = None  # of the embedding: mean, and factor, each (d,)
        self.offset = np.zeros(0, np.float32)  # (g,) added to the network's output
        self.counted = False  # whether that is the logarithm of scaled expression, as counts taught it
        self.fit_report: Fit | None = None
        self.search: dict[str, list[float]] = {}  # learning rates tried and their validation errors

    # --- hooks of a model -----------------------------------------------------------------------------------------------

    @abstractmethod
    def sampler(self, spots: Spots) -> Sampler:
        """Which of the spots come together in a batch."""

    @abstractmethod
    def make_network(self, shape: Shape, weights: str | Path) -> Net:
        """The network before training."""

    @abstractmethod
    def output(self, network: Net, batch: Batch) -> torch.Tensor:
        """Expression (n, g) of the predicted spots of a batch."""

    def loss(self, network: Net, batch: Batch) -> torch.Tensor:
        """Loss of a training batch."""
        return present(batch.targets, "target").loss(self.output(network, batch))

    def prepare(self, network: Net, train: Spots) -> None:
        """Set what the network knows of the training spots before it is trained."""

    def make_front(self, shape: Shape, weights: str | Path) -> nn.Module | None:
        """A network that gives the features (n, d) of patches or embeddings, which `network` sees in their place."""
        return None

    def fit_front(self, train: Spots, validation: Spots | None, compute: Compute) -> nn.Module | None:
        """That network, trained, where it has to be; its input is scaled already."""
        return self.make_front(Shape.of(train), self.weights)

    # --- shared by all models -------------------------------------------------------------------------------------------

    @classmethod
    def place(cls, compute: Compute) -> Compute:
        """The same, with the device that is used."""
        return training.on_device(compute)

    @property
    def on_patches(self) -> bool:
        """Whether its tokens are patches, and not an embedding."""
        return self.scaling is None

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
        identity = {**self.params(), "model": self.name, "seed": compute.seed, "data": _hash(train), "loss": train.loss}
        identity["validation"] = None if validation is None else _hash(validation)
        train, validation = self._with_features(train, validation, compute, device)
        self.shape = Shape.of(train)
        with training.local_seed(compute.seed, device):
            self._check_memory(train, device)
        error = None if validation is None else self._validation(train, validation, compute)
        fit_at = partial(self._fit_at, _Training(train, Targets.of(train, device), error, identity, device, compute))
        try:
            if self.learning_rate == training.SEARCH:
                self.network, self.fit_report, self.search = training.search_learning_rate(fit_at, compute.checkpoint)
            else:
                self.network, self.fit_report = fit_at(float(self.learning_rate), compute.checkpoint)
        except torch.OutOfMemoryError as caught:
            raise MemoryError(
                f"a batch does not fit into the memory of {device} to train {self.name}: {self.smaller}."
            ) from caught

    def _with_features(
        self, train: Spots, validation: Spots | None, compute: Compute, device: torch.device
    ) -> tuple[Spots, Spots | None]:
        """Spots with the features that the network sees."""
        if train.embedding is not None:
            mean, scale = mean_and_scale(train.embedding)
            self.scaling = mean.astype(np.float32), (1 / scale).astype(np.float32)
            train = self._scaled(train)
            validation = None if validation is None else self._scaled(validation)
        with training.local_seed(compute.seed, device):
            self.front = self.fit_front(train, validation, compute)
        return self._through_front(train, compute, device), (
            None if validation is None else self._through_front(validation, compute, device)
        )

    def _scaled(self, spots: Spots) -> Spots:
        """Spots with a standardised embedding."""
        if self.scaling is None:
            return spots
        mean, factor = self.scaling
        embedding = present(spots.embedding, "embedding")
        if embedding.shape[1] != mean.size:
            raise ValueError(
                f"the embedding has {embedding.shape[1]} columns, and {self.name} was fitted on one of {mean.size}: make it "
                "with the encoder and the sizes of the training data."
            )
        return replace(spots, embedding=((embedding - mean) * factor).astype(np.float32))

    def _through_front(self, spots: Spots, compute: Compute, device: torch.device) -> Spots:
        """Spots with the features of the front network as their embedding."""
        if self.front is None:
            return spots
        front = self.front.to(device).eval()
        sampler = SingleSpots(spots, 1)
        with Reading(spots.patches) as reading:
            batches = reading.ahead(sampler.sweep(compute.batch_size or BATCH), _rows)
            _, features = self._applied(
                lambda batch: front(batch.tokens), spots, sampler, batches, compute, device, None
            )
        return replace(spots, embedding=features, patches=spots.patches if self.sees_patches else None)

    def _offset_of(self, train: Spots) -> np.ndarray:
        """What is added to the network's output, (g,): the means of the genes, or the logarithms of their shares."""
        if train.loss != MSE:
            return np.log(np.maximum(np.expm1(train.flat() * _LN2), _LEAST_LEVEL)).astype(np.float32)
        return train.gene_means() if self.delta else np.zeros(train.targets()[0].shape[1], np.float32)

    def mean_output(self, train: Spots) -> np.ndarray:
        """Output (g,) at the mean of each gene over training spots."""
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
        if validation is not None and validation.exposure is None and not validation.targets()[1].any():
            raise ValueError(
                "no gene is detected in the validation libraries: choose others, or count all entries with loss='all'."
            )

    def _check_memory(self, train: Spots, device: torch.device) -> None:
        """Refuse, before training, batches that will not fit into memory."""

    def _fit_at(self, setup: _Training[Net], learning_rate: float, folder: Path | None) -> tuple[Net, Fit]:
        """The network fitted at a learning rate, with its checkpoint in a folder."""
        train, device, compute = setup.train, setup.device, setup.compute
        own = train.library if train.section is None else train.section  # copies of a spot are not looked up either
        with training.local_seed(compute.seed, device) as generator, Reading(train.patches) as reading:
            network = self.make_network(present(self.shape, "shape"), self.weights)
            self.prepare(network, train)
            network = _placed(network, device)
            draw = Draws(reading, self.sampler(train), generator)

            def training_loss() -> torch.Tensor:
                chosen, codes, patches = draw()
                batch = Batch.of(
                    train,
                    chosen,
                    patches,
                    device,
                    image_size=self.image_size,
                    own=own,
                    codes=codes if self.augment else None,
                    targets=setup.targets,
                )
                return self.loss(network, batch)

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

        `own_library` (n,) matters to models that look training spots up (BLEEP, EGN, EGGN): nothing is looked up in the
        library that a spot is in, unless training had one library only.
        """
        device = training.resolve_device(compute.device)
        network = _placed(self.trained(), device)
        if own_library is not None and (own_library < 0).all():
            own_library = None  # nothing to leave out
        spots = self._through_front(self._scaled(spots), compute, device)
        sampler = self.sampler(spots)
        try:
            with (
                Reading(spots.patches) as reading,
                compute.bar(len(spots), f"{self.name}, predicting", "spot") as bar,
            ):
                batches = reading.ahead(sampler.sweep(compute.batch_size or BATCH), _rows)
                _, output = self._outputs(network, spots, sampler, batches, compute, own_library, bar.update)
        except torch.OutOfMemoryError as caught:
            if sampler.divisible:
                raise
            raise MemoryError(
                f"a section does not fit into the memory of {device} to apply {self.name}: {self.smaller}."
            ) from caught
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
        arrays = {_NETWORK + name: value.cpu().numpy() for name, value in self.trained().state_dict().items()}
        if self.front is not None:
            arrays |= {_FRONT + name: value.cpu().numpy() for name, value in self.front.state_dict().items()}
        if self.scaling is not None:
            arrays |= dict(zip((_EMBEDDING_MEAN, _EMBEDDING_FACTOR), self.scaling, strict=True))
        arrays[_OFFSET] = self.offset
        return arrays, {"params": self.params(), "shape": asdict(present(self.shape, "shape")), "counted": self.counted}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The predictor with that state; a ValueError if arrays and values do not fit."""
        try:
            predictor = cls(**values["params"])
            predictor.offset, predictor.counted = arrays[_OFFSET], values["counted"]
            if type(predictor.counted) is not bool:
                raise ValueError(f"'counted' holds {predictor.counted!r}")
            predictor.shape = shape = Shape(**values["shape"])
            if predictor.offset.shape != (shape.n_genes,):
                raise ValueError(f"there are {predictor.offset.size} genes and not {shape.n_genes}")
            if _EMBEDDING_MEAN in arrays:
                predictor.scaling = arrays[_EMBEDDING_MEAN], arrays[_EMBEDDING_FACTOR]
            seen = replace(shape, n_features=None if predictor.scaling is None else predictor.scaling[0].size)
            with training.local_seed(0, torch.device("cpu")):  # leaves the user's random state as it is
                front = predictor.make_front(seen, RANDOM)
                network = predictor.make_network(shape, RANDOM)
            for part, prefix in ((network, _NETWORK), (front, _FRONT)):
                if part is not None:
                    _load(part, arrays, prefix)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"the model is damaged: weights and card do not fit ({error}).") from error
        predictor.network, predictor.front = network.eval(), None if front is None else front.eval()
        return predictor

    def _outputs(
        self,
        network: Net,
        spots: Spots,
        sampler: Sampler,
        batches: Batches,
        compute: Compute,
        own: np.ndarray | None,
        on_done: Callable[[int], object] = lambda n: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the predicted spots, ascending, and the network's output (n, g) for them."""
        network.eval()
        device = next(network.parameters()).device
        rows, output = self._applied(
            partial(self.output, network), spots, sampler, batches, compute, device, own, on_done
        )
        return rows, output if len(rows) else np.empty((0, network.n_genes), np.float32)

    def _applied(
        self,
        function: Callable[[Batch], torch.Tensor],
        spots: Spots,
        sampler: Sampler,
        batches: Batches,
        compute: Compute,
        device: torch.device,
        own: np.ndarray | None,
        on_done: Callable[[int], object] = lambda n: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predicted rows, ascending, and a function of the batches; these are halved where memory does not suffice."""
        at_once = len(spots)
        rows, values = [np.zeros(0, dtype=np.int64)], [np.zeros((0, 0), dtype=np.float32)]

        def applied(chosen: Chosen, patches: np.ndarray | None) -> torch.Tensor:
            batch = Batch.of(spots, chosen, patches, device, image_size=self.image_size, own=own)
            return function(batch).float().cpu()

        for batch, patches in batches:
            todo = [batch]
            while todo:
                some = todo[0]
                if sampler.divisible and len(some.centres) > at_once:
                    todo[:1] = sampler.sweep(at_once, some.centres)
                    continue
                try:
                    part = _in_threads(applied, sampler, some, _of(batch, patches, some), device, compute.n_threads)
                except torch.OutOfMemoryError:
                    if not sampler.divisible or len(some.centres) == 1:
                        raise
                    part = None
                if part is None:  # outside of the handler, which still holds on to the tensors of the attempt
                    at_once = len(some.centres) // 2
                    logger.info("the device's memory does not suffice: going on with %d spots at a time", at_once)
                    torch.cuda.empty_cache()
                    continue
                rows.append(some.centres)
                values.append(part.numpy())
                on_done(len(some.centres))
                del todo[0]
        found = np.concatenate(rows)
        order = np.argsort(found)
        return found[order], np.concatenate(values[1:])[order] if len(found) else values[0]

    def _validation(self, train: Spots, validation: Spots, compute: Compute) -> Callable[[Net], float]:
        """Function of a network: its error on some validation spots, whose patches are read once."""
        sampler = self.sampler(validation)
        some = None
        if sampler.divisible:
            some = np.sort(np.random.default_rng(compute.seed).permutation(len(validation))[:_VALIDATION_SPOTS])
        with Reading(validation.patches) as reading:
            batches = list(reading.ahead(sampler.sweep(BATCH, some), _rows))
        # Where there is another library to look spots up in, the own one would flatter.
        own = validation.library if len(np.unique(train.library)) > 1 else None

        def error(network: Net) -> float:
            rows, output = self._outputs(network, validation, sampler, batches, compute, own)
            estimate = self._finished(output)
            if validation.exposure is None:
                target, known = validation.targets()
                return masked_mse(target[rows], estimate, known[rows])
            # Expression is compared with what was measured, whatever the network was trained on.
            expected = expected_counts(estimate, validation.exposure[rows])
            return float(poisson_deviance(present(validation.counts, "counts")[rows], expected).mean())

        return error


@dataclass(kw_only=True, eq=False)
class SpotPredictor(NetworkPredictor[Net]):
    """A network that sees every spot by itself.

    Parameters
    ----------
    train_batch_size
        Spots per training step.
    """

    smaller: ClassVar[str] = "lower `train_batch_size` (it changes the result)"
    train_batch_size: int = parameter(256, least=1, whole=True)

    def sampler(self, spots: Spots) -> Sampler:
        """Spots one by one."""
        return SingleSpots(spots, self.train_batch_size)


@dataclass(kw_only=True, eq=False)
class SectionPredictor(NetworkPredictor[Net]):
    """A network that sees a whole section at once, one per training step.

    Parameters
    ----------
    most_spots
        Spots of a section that are computed at once, in training and in prediction; a larger section is cut into tiles.
        `None` never cuts.
    halo
        Rings of spots around a tile that the network sees and that it does not predict.
    """

    smaller: ClassVar[str] = "lower `most_spots` (it changes the result)"
    augment: bool = parameter(False, choices=_BOOL)
    most_spots: int | None = parameter(None, least=1, whole=True)
    halo: int = parameter(4, least=0, whole=True)

    def sampler(self, spots: Spots) -> WholeSections:
        """Sections, or tiles of them."""
        return WholeSections(spots, self.most_spots, self.halo)

    def _check_memory(self, train: Spots, device: torch.device) -> None:
        largest = max(self.sampler(train).tiles, key=lambda tile: len(tile.rows))
        targets = Targets.of(train, device)
        network = self.make_network(present(self.shape, "shape"), RANDOM)
        self.prepare(network, train)
        network = _placed(network, device).train()

        def loss(n: int) -> torch.Tensor:
            some = Chosen(largest.rows[:n], np.ones(n, dtype=bool))
            patches = None if train.patches is None else train.patches.read(some.rows)
            batch = Batch.of(
                train, some, patches, device, image_size=self.image_size, own=train.library, targets=targets
            )
            return self.loss(network, batch)

        check_step(self.name, loss, network, len(largest.rows), self.smaller)


def _placed(network: Net, device: torch.device) -> Net:
    network.to(device)
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


def _load(network: nn.Module, arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Take the weights of a network from saved arrays."""
    network.load_state_dict(
        {name.removeprefix(prefix): torch.tensor(array) for name, array in arrays.items() if name.startswith(prefix)}
    )


def _rows(chosen: Chosen) -> np.ndarray:
    return chosen.rows


def _of(batch: Chosen, patches: np.ndarray | None, part: Chosen) -> np.ndarray | None:
    """The patches of a part of a batch."""
    if patches is None or part is batch:
        return patches
    order = np.argsort(batch.rows)
    return patches[order[np.searchsorted(batch.rows, part.rows, sorter=order)]]


def _in_threads(
    function: Callable[[Chosen, np.ndarray | None], torch.Tensor],
    sampler: Sampler,
    chosen: Chosen,
    patches: np.ndarray | None,
    device: torch.device,
    n_threads: int,
) -> torch.Tensor:
    """A function of a batch, without gradients; of spots by themselves on the CPU in chunks, which threads take in turn."""
    if device.type != "cpu" or not sampler.alone:
        with torch.no_grad():
            return function(chosen, patches)
    parts: dict[int, torch.Tensor] = {}

    @limited_threads(1)  # OpenMP's number is each thread's own, and so is whether there are gradients
    @torch.no_grad()
    def part(start: int, stop: int) -> None:
        some = Chosen(chosen.rows[start:stop], chosen.predicted[start:stop])
        parts[start] = function(some, None if patches is None else patches[start:stop])

    run_chunks(part, len(chosen.rows), _CPU_CHUNK, n_threads)
    return torch.cat([parts[start] for start in sorted(parts)])


def _hash(spots: Spots) -> str:
    """Short name of the data of a fit; of the patches it takes a sample."""
    sample = None
    if spots.patches is not None:
        sample = spots.patches.read(np.unique(np.linspace(0, len(spots) - 1, 16).astype(int)))
    of_spots = (spots.target, spots.known, spots.counts, spots.exposure, spots.library, spots.embedding, spots.place)
    arrays = (*of_spots, sample)
    return data_hash(*(array for array in arrays if array is not None))
