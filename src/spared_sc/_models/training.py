"""Shared by all networks: the device, seeds, mixed precision, and the training loop."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from spared_sc._core.report import logger, progress_bar, warn
from spared_sc._core.settings import settings
from spared_sc._models import checkpoint as files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from spared_sc._core.compute import Compute

Network = TypeVar("Network", bound=torch.nn.Module)

SEARCH = "search"  # instead of a learning rate
LEARNING_RATES = [float(rate) for rate in np.geomspace(1e-5, 1e-2, 10)]  # as searched by SpaRED
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("none", "cosine")
_MOMENTUM = 0.9  # of "sgd"
_GAPS = ("optimizer.",)  # of a network that is finite itself
_ELSEWHERE = "remove that folder, or choose another one with `checkpoint=`."
_one_thread = threading.RLock()
_SAVE_EVERY = 10.0  # seconds between checkpoints; times the seconds that one takes, where those are more than one


def devices() -> list[str]:
    """Names of the devices of this machine."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _say_forked() -> None:
    global _forked
    _forked = True


_forked = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_say_forked)


def resolve_device(device: str | torch.device | None, *, alone: bool = False) -> torch.device:
    """The device asked for, or else the setting, or else cuda, mps or cpu, in that order.

    A process that was forked from one that has torch is refused: it would wait for ever for the threads of its parent. Work
    that the calling thread does `alone` on the CPU needs none of them.
    """
    device = settings.device if device is None else device
    if device is None:
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
        logger.info("running on %s", device)
    try:
        device = torch.device(device)
        if _forked and not (alone and device.type == "cpu"):
            raise ChildProcessError(
                "networks cannot run in a forked process, where torch would wait for the threads of its parent: start "
                'processes with `multiprocessing.get_context("spawn")`, or use a method without a network.'
            )
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used here: choose one of {', '.join(devices())}, or None."
        ) from error
    return device


def on_device(compute: Compute) -> Compute:
    """The same with the name of the device that the networks take."""
    return replace(compute, device=str(resolve_device(compute.device, alone=True)))


def mixed_precision(device: torch.device) -> torch.autocast:
    """Context in which matrix products run in bfloat16, where the settings and the device allow it."""
    enabled = settings.mixed_precision
    if enabled is None:
        enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


class Fixed(torch.nn.Module):
    """Part of a network that training leaves as it is: no gradients, in evaluation mode, in no checkpoint of a fit."""

    def train(self, mode: bool = True) -> Fixed:
        """Stay in evaluation mode."""
        return super().train(False)


def changing(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State of a network without what is `Fixed`."""
    fixed = tuple(f"{name}." for name, part in network.named_modules() if isinstance(part, Fixed))
    return {name: value for name, value in network.state_dict().items() if not name.startswith(fixed)}


def trainable(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Weights that training changes."""
    return [weights for weights in network.parameters() if weights.requires_grad]


@contextmanager
def local_seed(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Seed torch inside a block, for weights and dropout; the global random state is as before after it.

    Torch's dropout takes no generator but the one of the process, so one thread at a time is in such a block: the others
    wait, and get the results that they would get alone.
    """
    with _one_thread, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield torch.Generator(device).manual_seed(seed)


@dataclass
class Fit:
    """Progress and result of a fit; the network itself ends with the best weights."""

    step: list[int] = field(default_factory=list)  # steps at which the network was validated
    train_mse: list[float] = field(default_factory=list)  # mean training loss since the validation before
    validation_mse: list[float] = field(default_factory=list)
    best_step: int = 0
    best_error: float = np.inf  # stays so without validation
    stopped: str = ""  # "finished", "patience", "interrupted" or "diverged"; empty while it runs


@dataclass
class Trainer:
    """Gradient descent that keeps the weights with the lowest validation error, or else the last."""

    network: torch.nn.Module  # changed in place; holds the best weights afterwards and is in evaluation mode
    _: KW_ONLY
    training_loss: Callable[[], torch.Tensor]  # draws a batch and returns its loss
    validation_error: Callable[[], float] | None  # on held-out entries; `None` takes all steps, keeps the last weights
    generator: torch.Generator  # of the batches; its state is part of a checkpoint
    n_steps: int  # at most
    learning_rate: float
    validate_every: int
    patience: int | None  # steps without a smaller error before an early stop; `None` never stops early
    show_progress_bar: bool | None
    desc: str
    checkpoint: Path | None = None  # a fit that finds its own state there ends as it would have without the break
    identity: Mapping[str, Any] | None = None  # plain values; the checkpoint of another fit is refused
    optimizer: str = "adam"  # of OPTIMIZERS
    weight_decay: float = 0.0  # of "adamw"
    schedule: str = "none"  # a constant rate; "cosine": see `warm_cosine`
    final_rate: float = 0.0  # of "cosine"
    warmup_steps: int = 0  # of "cosine"

    def __post_init__(self) -> None:
        weights = trainable(self.network)
        self._state = _State(self.network, self._descent(weights), self.generator)
        self._loss = torch.zeros((), device=weights[0].device)  # sum since the last validation
        self._n_losses = 0
        self._saved, self._cost = time.monotonic(), 0.0  # time of the last checkpoint, and the seconds that it took

    def _descent(self, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's optimizer of that name."""
        rate = self.learning_rate
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, lr=rate, weight_decay=self.weight_decay)
        if self.optimizer == "sgd":
            return torch.optim.SGD(weights, lr=rate, momentum=_MOMENTUM)
        return torch.optim.Adam(weights, lr=rate)

    def run(self) -> Fit:
        """Take the steps.

        An interrupt, or a loss that is not finite, is raised before the first validation; later, the best weights are
        kept. One process at a time fits with a checkpoint.
        """
        with files.reserved(self.checkpoint):
            return self._run()

    def _run(self) -> Fit:
        progress = self._resume()
        first = progress.step[-1] + 1 if progress.step else 1
        with progress_bar(total=self.n_steps, desc=self.desc, show=self.show_progress_bar) as bar:
            bar.update(first - 1)
            try:
                for step in range(first, self.n_steps + 1):
                    if progress.stopped:
                        break
                    self.step(step)
                    bar.update()
                    if step % self.validate_every == 0 or step == self.n_steps:
                        bar.set_postfix(self.validate(step))
                        self._save_at_times()
            except KeyboardInterrupt:
                if not progress.best_step:
                    raise
                progress.stopped = "interrupted"
        return self.finish()

    def step(self, step: int) -> None:
        """Take one step."""
        self.network.train()
        descent = self._state.optimizer
        if self.schedule == "cosine":  # a function of the step, so that there is nothing of it to save
            for group in descent.param_groups:
                group["lr"] = warm_cosine(step, self.n_steps, self.learning_rate, self.warmup_steps, self.final_rate)
        loss = self.training_loss()
        descent.zero_grad(set_to_none=True)
        loss.backward()
        descent.step()
        self._loss += loss.detach()
        self._n_losses += 1

    def validate(self, step: int) -> dict[str, str]:
        """Record loss and error, and stop if one is not finite or the patience is over; values for the progress bar."""
        progress = self._state.progress
        loss, self._n_losses = self._loss.item() / self._n_losses, 0
        self._loss.zero_()
        error = self._error() if np.isfinite(loss) else np.inf
        if not np.isfinite(loss) or (self.validation_error is not None and not np.isfinite(error)):
            progress.stopped = "diverged"
            return {}
        progress.step.append(step)
        progress.train_mse.append(loss)
        if self.validation_error is None:
            self._state.keep_best(step, error)
            return {"loss": f"{loss:.4f}"}
        progress.validation_mse.append(error)
        if error < progress.best_error:
            self._state.keep_best(step, error)
        if self.patience is not None and step - progress.best_step >= self.patience:
            progress.stopped = "patience"
        return {"validation_mse": f"{error:.4f}", "best": f"{progress.best_error:.4f}"}

    def finish(self) -> Fit:
        """Leave the best weights in the network, and say how training ended."""
        progress = self._state.progress
        progress.stopped = progress.stopped or "finished"
        if not progress.best_step:
            raise FloatingPointError(
                f"the training loss is not finite after {self.validate_every} steps: lower the learning rate (it is "
                f"{self.learning_rate:g}) and check that the layer holds no extreme values."
            )
        if self.checkpoint is not None and progress.stopped in ("finished", "patience"):
            self._state.save(self.checkpoint, self.identity)
        reached = "" if self.validation_error is None else f", validation MSE {progress.best_error:.4f}"
        if progress.stopped in ("interrupted", "diverged"):
            warn(
                f"training {progress.stopped} after step {progress.step[-1]}: the best model so far (step "
                f"{progress.best_step}{reached}) is used.",
            )
        self.network.load_state_dict(self._state.best, strict=False)
        self.network.eval()
        logger.info(
            "%s: %s after %d steps; weights of step %d%s",
            self.desc,
            progress.stopped,
            progress.step[-1],
            progress.best_step,
            reached,
        )
        return progress

    def _resume(self) -> Fit:
        """Restore the state in the checkpoint, if there is one."""
        if self.checkpoint is not None and files.exists(self.checkpoint):
            self._state.restore(self.checkpoint, self.identity)
            if self._state.progress.step:
                logger.info("%s: resumes after step %d", self.desc, self._state.progress.step[-1])
        return self._state.progress

    def _error(self) -> float:
        """Validation error; infinite without validation."""
        if self.validation_error is None:
            return np.inf
        self.network.eval()
        with torch.no_grad():
            return self.validation_error()

    def _save_at_times(self) -> None:
        """Save the state, unless the fit has stopped or the last checkpoint is recent."""
        due = time.monotonic() - self._saved >= _SAVE_EVERY * max(self._cost, 1.0)
        if self.checkpoint is None or self._state.progress.stopped or not due:
            return
        started = time.monotonic()
        self._state.save(self.checkpoint, self.identity)
        self._saved = time.monotonic()
        self._cost = self._saved - started


def n_weights(network: torch.nn.Module) -> int:
    """Number of weights that training changes."""
    return sum(weights.numel() for weights in trainable(network))


def network_from(network: Network, arrays: Mapping[str, np.ndarray]) -> Network:
    """The network with these weights, in evaluation mode."""
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    return network.eval()


def curve(fit: Fit) -> dict[str, Any]:
    """Training curve for the record."""
    return {
        "step": np.asarray(fit.step),
        "train_mse": np.asarray(fit.train_mse),
        "validation_mse": np.asarray(fit.validation_mse),
        "best_step": fit.best_step,
        "stopped": fit.stopped,
    }


def check_descent(optimizer: str, *, weight_decay: float, schedule: str, final_rate: float, warmup_steps: int) -> None:
    """Refuse values that would have no effect with this optimizer or schedule."""
    if weight_decay and optimizer != "adamw":
        raise ValueError(
            f"weight_decay={weight_decay:g} has no effect with optimizer={optimizer!r}: give weight_decay=0, or "
            "optimizer='adamw'."
        )
    idle = {"final_rate": final_rate, "warmup_steps": warmup_steps}
    idle = {name: value for name, value in idle.items() if value and schedule == "none"}
    if idle:
        raise ValueError(
            f"{' and '.join(f'{name}={value:g}' for name, value in idle.items())}: no effect with schedule='none', where "
            f"the rate is constant. Give {' and '.join(f'{name}=0' for name in idle)}, or schedule='cosine'."
        )


def warm_cosine(step: int, n_steps: int, learning_rate: float, warmup_steps: int, final_rate: float) -> float:
    """Rate at a step from 1 to `n_steps`: a linear rise to `learning_rate`, then half a cosine down to a share of it.

    The share is `final_rate`, which the rate would reach at the step after the last.
    """
    if step <= warmup_steps:
        return learning_rate * step / warmup_steps
    done = (step - 1 - warmup_steps) / (n_steps - warmup_steps)
    return learning_rate * (final_rate + (1 - final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def search_learning_rate(
    fit_one: Callable[[float, Path | None], tuple[Network, Fit]], checkpoint: Path | None
) -> tuple[Network, Fit, dict[str, list[float]]]:
    """The best by validation error of `LEARNING_RATES`; `fit_one` takes a rate and a folder for its checkpoint."""
    best, errors = None, []
    for rate in LEARNING_RATES:
        folder = None if checkpoint is None else checkpoint / f"learning-rate-{rate:.1e}"
        try:
            network, result = fit_one(rate, folder)
        except FloatingPointError:  # too high a rate; another one will do
            errors.append(float("nan"))
            continue
        errors.append(result.best_error)
        if best is None or result.best_error < best[1].best_error:
            best = network, result
        if result.stopped == "interrupted":
            break
    if best is None:
        raise FloatingPointError(
            "training diverged at every learning rate: check that the layer holds no extreme values."
        )
    return *best, {"learning_rate": LEARNING_RATES[: len(errors)], "validation_mse": errors}


@dataclass(eq=False)
class _State:
    """The state of a fit between two steps, to be written to and read from a checkpoint."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    progress: Fit = field(default_factory=Fit)
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def keep_best(self, step: int, error: float) -> None:
        self.best = {name: value.clone() for name, value in changing(self.network).items()}
        self.progress.best_step, self.progress.best_error = step, error

    def save(self, folder: Path, identity: Mapping[str, Any] | None) -> None:
        tensors = {f"network.{name}": value for name, value in changing(self.network).items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        tensors |= self._random_states()
        progress = vars(self.progress)
        arrays = {name: value.cpu().numpy() for name, value in tensors.items()}
        files.save(folder, "training", arrays, {"identity": identity, "progress": progress}, gaps=_GAPS)

    def restore(self, folder: Path, identity: Mapping[str, Any] | None) -> None:
        arrays, card = files.load(folder, "training", gaps=_GAPS)
        if card.get("identity") != identity:
            old, new = (it if isinstance(it, dict) else {} for it in (card.get("identity"), identity))
            differs = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            raise ValueError(
                f"the checkpoint in {folder} belongs to another fit, which differs in {', '.join(differs)}: {_ELSEWHERE}"
            )
        with files.fitting(f"the checkpoint in {folder}", f"To fit anew, {_ELSEWHERE}"):
            self._take(arrays, card["progress"])

    def _take(self, arrays: Mapping[str, np.ndarray], progress: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        groups: dict[str, dict[str, torch.Tensor]] = {"network": {}, "best": {}, "optimizer": {}, "random": {}}
        for name, array in arrays.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = torch.from_numpy(array.copy())
        here = changing(self.network)
        for group in ("network", "best") if groups["best"] else ("network",):
            _check_tensors(groups[group], here)
        for name, value in groups["optimizer"].items():
            weights = trainable(self.network)[int(name.partition(".")[0])]
            if value.shape not in (weights.shape, ()):
                raise ValueError(f"optimizer.{name} has the shape {tuple(value.shape)}")
        fit = _progress(progress)
        self.network.load_state_dict(groups["network"], strict=False)
        device = self.generator.device
        self.best = {name: value.to(device) for name, value in groups["best"].items()}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in groups["optimizer"].items():
            i, _, moment = name.partition(".")
            moments.setdefault(int(i), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.generator.set_state(groups["random"]["batches"])
        torch.set_rng_state(groups["random"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(groups["random"]["cuda"], device)
        self.progress = fit

    def _random_states(self) -> dict[str, torch.Tensor]:
        states = {"random.batches": self.generator.get_state(), "random.cpu": torch.get_rng_state()}
        if self.generator.device.type == "cuda":
            states["random.cuda"] = torch.cuda.get_rng_state(self.generator.device)
        return states


def _check_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """A ValueError if tensors are not those of a network by name, shape and type."""
    kinds = [{name: (tuple(value.shape), value.dtype) for name, value in group.items()} for group in (found, expected)]
    if kinds[0] != kinds[1]:
        differs = sorted(name for name in {*found, *expected} if kinds[0].get(name) != kinds[1].get(name))
        raise ValueError(f"{len(differs)} arrays are not those of the network, such as {differs[0]!r}")


def _progress(values: Mapping[str, Any]) -> Fit:
    """The progress in a card; a ValueError or TypeError if it is none."""
    fit = Fit(**values)
    lists = (fit.step, fit.train_mse, fit.validation_mse)
    plain = all(isinstance(value, list) and {*map(type, value)} <= {int, float} for value in lists)
    if not plain or len(fit.train_mse) != len(fit.step) or len(fit.validation_mse) not in (0, len(fit.step)):
        raise ValueError("there is not one loss for each step")
    if any(type(step) is not int or step < 1 for step in fit.step) or sorted(fit.step) != fit.step:
        raise ValueError("the steps are no ascending numbers")
    if (
        type(fit.best_step) is not int
        or not isinstance(fit.best_error, int | float)
        or not isinstance(fit.stopped, str)
    ):
        raise ValueError("the best step or its error is no number")
    return fit
