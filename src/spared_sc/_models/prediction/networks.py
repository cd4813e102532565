"""How networks that see patches are fitted and applied: reading ahead, augmentation, batches, what is saved."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.report import logger, progress_bar
from spared_sc._core.validate import check_number
from spared_sc._kernels.metrics import masked_mse
from spared_sc._models import training
from spared_sc._models.checkpoint import data_hash
from spared_sc._models.prediction.augment import N_SYMMETRIES, transformed
from spared_sc._models.prediction.backbones import PRETRAINED, RANDOM
from spared_sc._models.prediction.base import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from spared_sc._models.prediction.base import How, PatchReader, Spots
    from spared_sc._models.training import Fit

_VALIDATION_SPOTS = 1024  # enough for a stable error; their patches stay in memory
_BATCH = 256  # spots per forward pass of a validation, so that its result does not depend on the user's batch size
_NETWORK, _MORE, _OFFSET = "network.", "learned.", "offset"  # of names of saved arrays


class Reading:
    """Patches read by one thread, so that a batch arrives while the one before it is computed with."""

    def __init__(self, patches: PatchReader) -> None:
        self.patches = patches

    def __enter__(self) -> Reading:
        self._thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(self, rows: np.ndarray) -> Future[np.ndarray]:
        return self._thread.submit(self.patches.read, rows)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows in order, and their patches."""
        rows = [np.arange(start, min(start + size, len(self.patches))) for start in range(0, len(self.patches), size)]
        ahead = [self.submit(part) for part in rows[:1]]
        for i, part in enumerate(rows):
            ahead += [self.submit(later) for later in rows[i + 1 : i + 2]]
            yield part, ahead.pop(0).result()


class Draws:
    """Random batches; the next one is read ahead, from a copy of the generator, whose own state a checkpoint holds."""

    def __init__(self, reading: Reading, batch_size: int, generator: torch.Generator) -> None:
        self.reading = reading
        self.batch_size = batch_size
        self.generator = generator
        self._ahead: Future[np.ndarray] | None = None

    def _draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        options = {"generator": generator, "device": generator.device}
        rows = torch.randperm(len(self.reading.patches), **options)[: self.batch_size]
        return rows, torch.randint(N_SYMMETRIES, (len(rows),), **options)

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
    """What the loss compares with, on the device."""

    values: torch.Tensor  # (n, g)
    known: torch.Tensor | None  # (n, g)

    @classmethod
    def of(cls, spots: Spots, device: torch.device) -> Targets:
        known = None if spots.known is None else torch.as_tensor(spots.known, device=device)
        return cls(torch.as_tensor(spots.target, dtype=torch.float32, device=device), known)

    def rows(self, index: torch.Tensor) -> Targets:
        return Targets(self.values[index], None if self.known is None else self.known[index])

    def mse(self, estimate: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the known entries."""
        error = (estimate - self.values) ** 2
        return error.mean() if self.known is None else (error * self.known).sum() / self.known.sum().clamp(min=1)


@dataclass(kw_only=True, eq=False)
class NetworkPredictor(Predictor):
    """What the networks share.

    Parameters
    ----------
    weights
        Where the backbone starts: `"pretrained"`, `"random"`, or a file of weights.
    image_size
        Side in pixels to which patches are brought for the network; `None` leaves them.
    delta
        Learn deviations from the mean of each gene over the training spots, and add it again.
    augment
        Whether every training patch is turned and mirrored at random, each by a draw of its own.
    n_steps, train_batch_size
        Steps to take, and spots of each. Without validation spots all steps are taken and the last weights used.
    learning_rate
        A number, or `"search"` for the best of SpaRED's ten by validation error.
    optimizer
        `"adam"` at a constant rate, or `"adamw"` with `weight_decay`, `warmup_steps` and a cosine schedule.
    validate_every, patience
        Steps between validations, and without improvement before an early stop.
    """

    needs: ClassVar[tuple[str, ...]] = ("patches",)
    validates: ClassVar[bool] = True
    weights: str | Path = PRETRAINED
    image_size: int | None = None
    delta: bool = False
    augment: bool = True
    n_steps: int = 1000
    train_batch_size: int = 256
    learning_rate: float | str = 1e-4
    optimizer: str = "adam"
    weight_decay: float = 0.0
    warmup_steps: int = 0
    validate_every: int = 10
    patience: int | None = None

    def __post_init__(self) -> None:
        self.network: nn.Module | None = None
        self.offset: np.ndarray | None = None  # (g,) what is added to the network's output
        self.reference: dict[str, torch.Tensor] = {}  # of the training spots, where predictions need them
        self.search: dict[str, list[float]] = {}  # learning rates tried and their validation errors
        for name in ("image_size", "n_steps", "train_batch_size", "validate_every", "patience"):
            if getattr(self, name) is not None or name in ("n_steps", "train_batch_size", "validate_every"):
                check_number(name, getattr(self, name), 1, whole=True)
        if self.optimizer not in training.OPTIMIZERS:
            raise ValueError(f"optimizer={self.optimizer!r}: expected one of {', '.join(training.OPTIMIZERS)}.")
        rate = self.learning_rate
        if rate != training.SEARCH and not (isinstance(rate, int | float) and 0 < rate < np.inf):
            raise ValueError(f"learning_rate={rate!r}: expected a positive number, or {training.SEARCH!r}.")

    # --- what each model says ------------------------------------------------------------------------------------------

    @abstractmethod
    def make_network(self, n_genes: int, weights: str | Path) -> nn.Module:
        """The network before training."""

    @abstractmethod
    def _loss(self, network: nn.Module, images: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Loss of some training spots: `targets` are those of the `rows`."""

    @abstractmethod
    def _output(self, network: nn.Module, images: torch.Tensor, spots: Spots, own: torch.Tensor | None) -> torch.Tensor:
        """Expression (n, g) of spots; `own` as in `predict`."""

    def _prepare(self, train: Spots, how: How) -> None:
        """Learn what comes before the network, such as `reference`."""

    def _start(self, network: nn.Module, train: Spots) -> None:
        """Set what the network starts from besides its weights."""

    def _before_output(self, network: nn.Module) -> None:
        """What has to be computed once before `_output` is called for some batches."""

    def _learned(self) -> dict[str, np.ndarray]:
        """Arrays to save besides the network."""
        return {name: value.cpu().numpy() for name, value in self.reference.items()}

    def _restore(self, learned: dict[str, np.ndarray]) -> None:
        """Take those arrays back."""
        self.reference = {name: torch.tensor(value) for name, value in learned.items()}

    # --- what they share ---------------------------------------------------------------------------------------------------

    def count_parameters(self, n_genes: int) -> int:
        """Weights that training changes."""
        with torch.device("meta"):
            return sum(weights.numel() for weights in self.make_network(n_genes, RANDOM).parameters())

    def n_parameters(self) -> int:
        """Weights that training changed."""
        return sum(weights.numel() for weights in self.network.parameters())

    def fit(self, train: Spots, validation: Spots | None, how: How) -> None:
        """Learn from `train`; `validation` selects among steps and learning rates and is never trained on."""
        if validation is not None and not len(validation):
            validation = None
        if validation is None and self.learning_rate == training.SEARCH:
            raise ValueError(
                "learning_rate='search' compares rates on validation spots, and there are none: give a split with "
                "a validation library, or a number."
            )
        if len(train) < 2:
            raise ValueError(f"there are too few spots to train on ({len(train)}): expected at least 2.")
        if validation is not None and validation.known is not None and not validation.known.any():
            raise ValueError(
                "no gene is detected in the validation libraries: choose others, or count all entries with loss='all'."
            )
        self.offset = train.gene_means() if self.delta else np.zeros(train.target.shape[1], np.float32)
        train = replace(train, target=train.target - self.offset)
        if validation is not None:
            validation = replace(validation, target=validation.target - self.offset)
        with training.local_seed(how.seed, how.device):
            self._prepare(train, how)
            self._move(how.device)
        targets = Targets.of(train, how.device)
        check = None if validation is None else self._validation(train, validation, how)
        params = self._params()
        identity = {**params, "model": self.name, "seed": how.seed, "data": _hash(train), "validation": None}
        if validation is not None:
            identity["validation"] = _hash(validation)

        def fit_one(rate: float, folder: Path | None) -> tuple[nn.Module, Fit]:
            with training.local_seed(how.seed, how.device) as generator, Reading(train.patches) as reading:
                network = self._placed(self.make_network(train.target.shape[1], self.weights), how.device)
                self._start(network, train)
                draw = Draws(reading, self.train_batch_size, generator)

                def training_loss() -> torch.Tensor:
                    rows, codes, patches = draw()
                    images = self._images(patches, how.device, codes if self.augment else None)
                    return self._loss(network, images, rows, targets.rows(rows))

                desc = self.name if rate == self.learning_rate else f"{self.name}, learning rate {rate:.2g}"
                result = training.fit(
                    network,
                    training_loss=training_loss,
                    validation_error=None if check is None else lambda: check(network),
                    generator=generator,
                    n_steps=self.n_steps,
                    learning_rate=rate,
                    validate_every=min(self.validate_every, self.n_steps),
                    patience=self.patience,
                    show_progress_bar=how.show_progress_bar,
                    desc=desc,
                    checkpoint=folder,
                    identity={**identity, "learning_rate": rate},
                    optimizer=self.optimizer,
                    weight_decay=self.weight_decay,
                    warmup_steps=min(self.warmup_steps, self.n_steps - 1),
                )
            return network, result

        try:
            if self.learning_rate == training.SEARCH:
                self.network, self.fit_report, self.search = training.search_learning_rate(fit_one, how.checkpoint)
            else:
                self.network, self.fit_report = fit_one(self.learning_rate, how.checkpoint)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"{self.train_batch_size} patches at a time are too many to train {self.name} in the memory of "
                f"{how.device}: lower `train_batch_size`, which the result depends on."
            ) from error

    def predict(self, spots: Spots, how: How, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Expression of spots.

        Parameters
        ----------
        own_library
            (n,) for models that look training spots up (BLEEP, EGN): the code, as in the `train` of `fit`, of the library
            that a spot is in, and -1 if it was not trained on. Nothing is looked up there, unless training had one library
            only. `None` means new libraries.

        Returns
        -------
        Float32 (n, g).
        """
        network = self._placed(self.network, how.device)
        library = self.reference.get("library")
        if own_library is not None and (own_library < 0).all():
            own_library = None  # nothing to leave out
        if library is not None and (library == library[0]).all():
            own_library = None  # there is no other library to look spots up in
        with (
            Reading(spots.patches) as reading,
            progress_bar(
                total=len(spots), desc=f"{self.name}, predicting", show=how.show_progress_bar, unit="spot"
            ) as bar,
        ):
            batches = reading.batches(how.batch_size)
            return self._apply(network, spots, batches, how.batch_size, own_library, bar.update) + self.offset

    def report(self) -> dict[str, Any]:
        """How training went."""
        values: dict[str, Any] = {"n_parameters": self.n_parameters()}
        if self.fit_report is not None:
            report = vars(self.fit_report)
            values["training"] = {name: np.asarray(report[name]) for name in ("step", "train_mse", "validation_mse")}
            values["training"] |= {name: report[name] for name in ("best_step", "stopped")}
        if self.search:
            values["search"] = {name: np.asarray(tried) for name, tried in self.search.items()}
        return values

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All that was learned, as arrays and as plain values that JSON can hold."""
        arrays = {_NETWORK + name: value.cpu().numpy() for name, value in self.network.state_dict().items()}
        arrays |= {_MORE + name: value for name, value in self._learned().items()}
        arrays[_OFFSET] = self.offset
        return arrays, {"params": self._params(), "n_genes": self._n_genes}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> NetworkPredictor:
        """The predictor whose `state` this is.

        Raises
        ------
        ValueError
            If arrays and values do not fit.
        """
        try:
            predictor = cls(**values["params"])
            predictor.offset = arrays[_OFFSET]
            with training.local_seed(0, torch.device("cpu")):  # leaves the user's random state as it is
                predictor._restore({name[len(_MORE) :]: a for name, a in arrays.items() if name.startswith(_MORE)})
                network = predictor.make_network(values["n_genes"], RANDOM)
            network.load_state_dict(
                {name[len(_NETWORK) :]: torch.tensor(a) for name, a in arrays.items() if name.startswith(_NETWORK)}
            )
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"the model is damaged: weights and card do not fit ({error}).") from error
        predictor.network = network.eval()
        return predictor

    def _params(self) -> dict[str, Any]:
        params = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**params, "weights": str(self.weights)}

    @property
    def _n_genes(self) -> int:
        return self.network.n_genes

    @staticmethod
    def _placed(network: nn.Module, device: torch.device) -> nn.Module:
        return network.to(device, memory_format=torch.channels_last if device.type == "cuda" else torch.preserve_format)

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
        network: nn.Module,
        spots: Spots,
        batches: Iterable[tuple[np.ndarray, np.ndarray]],
        batch_size: int,
        own_library: np.ndarray | None,
        on_done: Callable[[int], object],
    ) -> np.ndarray:
        """Expression of spots, from their patches in batches."""
        device = next(network.parameters()).device
        own = None if own_library is None else torch.as_tensor(own_library, dtype=torch.int64, device=device)

        def output(images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
            return self._output(network, images, spots.rows(rows), None if own is None else own[rows])

        self._move(device)
        with torch.no_grad():
            network.eval()
            self._before_output(network)
            parts = list(self._in_pieces(output, batches, batch_size, device, on_done))
        return torch.cat(parts).numpy() if parts else np.empty((0, self._n_genes), np.float32)

    def _in_pieces(
        self,
        compute: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
        batches: Iterable[tuple[np.ndarray, np.ndarray]],
        size: int,
        device: torch.device,
        on_done: Callable[[int], object] = lambda n: None,
    ) -> Iterator[torch.Tensor]:
        """Some function of images and rows, piece by piece; pieces are halved where memory does not suffice."""
        for rows, patches in batches:
            done = 0
            while done < len(rows):
                some = rows[done : done + size]
                try:
                    part = compute(self._images(patches[done : done + size], device), some).float().cpu()
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

    def _validation(self, train: Spots, validation: Spots, how: How) -> Callable[[nn.Module], float]:
        """Function of a network: its error on some validation spots, whose patches are read once."""
        some = np.random.default_rng(how.seed).permutation(len(validation))[:_VALIDATION_SPOTS]
        spots = validation.rows(np.sort(some))
        with Reading(spots.patches) as reading:
            batches = list(reading.batches(_BATCH))
        known = np.ones(spots.target.shape, bool) if spots.known is None else spots.known
        # Where there is another library to look spots up in, the own one would flatter.
        own = spots.library if len(np.unique(train.library)) > 1 else None

        def error(network: nn.Module) -> float:
            estimate = self._apply(network, spots, iter(batches), _BATCH, own, lambda _: None)
            return masked_mse(spots.target, estimate, known)

        return error


def _hash(spots: Spots) -> str:
    """Short name of what a fit is of; of the patches it takes a sample."""
    sample = spots.patches.read(np.unique(np.linspace(0, len(spots) - 1, 16).astype(int)))
    arrays = (spots.target, spots.known, spots.library, spots.embedding, sample)
    return data_hash(*(array for array in arrays if array is not None))
