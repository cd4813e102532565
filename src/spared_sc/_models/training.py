"""What every network of the package shares: the device it runs on and the loop that fits it."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from spared_sc._core.report import logger, progress_bar
from spared_sc._core.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or else the setting, or else cuda, mps or cpu, in that order."""
    device = settings.device if device is None else device
    if device is None:
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
        logger.info("running on %s", device)
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        present = ["cpu"]
        present += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        present += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"device {str(device)!r} cannot be used here: choose one of {', '.join(present)}, or None."
        ) from error
    return device


@contextmanager
def local_seed(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Seed torch inside a block, for weights and dropout; the global random state is as before after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class Fit:
    """How a fit went; the network itself holds the best weights."""

    step: np.ndarray  # (n_validations,) steps at which the network was validated
    train_mse: np.ndarray  # (n_validations,) mean training loss since the validation before
    validation_mse: np.ndarray  # (n_validations,)
    best_step: int
    stopped: str  # "finished", "patience", "interrupted" or "diverged"


def fit(
    network: torch.nn.Module,
    *,
    training_loss: Callable[[], torch.Tensor],
    validation_error: Callable[[], float],
    n_steps: int,
    learning_rate: float,
    validate_every: int,
    patience: int | None,
    show_progress_bar: bool | None,
    desc: str,
) -> Fit:
    """Adam at a constant rate; the weights with the lowest validation error are kept.

    Parameters
    ----------
    network
        Changed in place; holds the best weights afterwards and is in evaluation mode.
    training_loss
        Draws a batch and returns its loss.
    validation_error
        Error on held-out entries.
    n_steps
        Most steps to take.
    patience
        Stop when the error has not improved for this many steps; `None` never stops early.

    Raises
    ------
    KeyboardInterrupt
        If interrupted before the first validation. Later, the best weights so far are kept.
    FloatingPointError
        If the loss is not finite before the first validation.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    steps: list[int] = []
    train: list[float] = []
    validation: list[float] = []
    best, best_step, best_error = None, 0, np.inf
    running = torch.zeros((), device=next(network.parameters()).device)
    since = 0
    stopped = "finished"
    with progress_bar(total=n_steps, desc=desc, show=show_progress_bar) as bar:
        try:
            for step in range(1, n_steps + 1):
                network.train()
                loss = training_loss()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                running += loss.detach()
                since += 1
                bar.update()
                if step % validate_every and step != n_steps:
                    continue
                network.eval()
                with torch.no_grad():
                    error = validation_error()
                if not np.isfinite(running.item()) or not np.isfinite(error):
                    stopped = "diverged"
                    break
                steps.append(step)
                train.append(running.item() / since)
                validation.append(error)
                running.zero_()
                since = 0
                if error < best_error:
                    best, best_step, best_error = copy.deepcopy(network.state_dict()), step, error
                bar.set_postfix(validation_mse=f"{error:.4f}", best=f"{best_error:.4f}")
                if patience is not None and step - best_step >= patience:
                    stopped = "patience"
                    break
        except KeyboardInterrupt:
            if best is None:
                raise
            stopped = "interrupted"
    if best is None:
        raise FloatingPointError(
            f"the training loss is not finite after {validate_every} steps: "
            f"lower the learning rate (it is {learning_rate:g}) and check that the layer holds no extreme values."
        )
    if stopped in ("interrupted", "diverged"):
        warnings.warn(
            f"training {stopped} after step {steps[-1]}: the best model so far (step {best_step}, "
            f"validation MSE {best_error:.4f}) is used.",
            UserWarning,
            stacklevel=2,
        )
    network.load_state_dict(best)
    network.eval()
    logger.info(
        "%s: %s after %d steps; best validation MSE %.4f at step %d", desc, stopped, steps[-1], best_error, best_step
    )
    return Fit(np.array(steps), np.array(train), np.array(validation), best_step, stopped)
