"""Memory that a training step on a section will take, by steps on a few of its spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spared_sc._core.memory import available, check_memory
from spared_sc._core.report import logger
from spared_sc._models.training import trainable

if TYPE_CHECKING:
    from collections.abc import Callable

_FEW = 24  # spots of the smaller step; the other one has twice as many
_PER_WEIGHT = 4  # weight, gradient, and the two moments of the optimizer


def saved_bytes(loss: Callable[[], torch.Tensor], network: torch.nn.Module) -> int:
    """Bytes that a loss keeps for its gradient, without the weights of the network."""
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        where = storage.data_ptr()
        if where not in weights:
            kept[where] = max(kept.get(where, 0), min(tensor.nbytes, storage.nbytes()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = loss()  # as long as it lives, no two of its tensors share an address
    del held
    return sum(kept.values())


def step_bytes(loss: Callable[[int], torch.Tensor], network: torch.nn.Module, n_spots: int) -> float:
    """Bytes of a training step on so many spots; `loss` takes a number of spots.

    What is kept for the gradient grows with the spots, and where attention is not fused with their square: both shares are
    told apart by two small steps.
    """
    few = min(_FEW, n_spots)
    once: float = saved_bytes(lambda: loss(few), network)
    if n_spots >= 2 * few:
        square = max(saved_bytes(lambda: loss(2 * few), network) - 2 * once, 0) / (2 * few**2)
        once = (once / few - square * few) * n_spots + square * n_spots**2
    return once + _PER_WEIGHT * sum(one.nbytes for one in trainable(network))


def check_step(
    name: str, loss: Callable[[int], torch.Tensor], network: torch.nn.Module, n_spots: int, remedy: str
) -> None:
    """Say how much memory the largest section takes; a ValueError if it is not there."""
    device = next(network.parameters()).device
    needed = step_bytes(loss, network, n_spots)
    left = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available()
    logger.info("%s: about %.1f GiB for a step on %d spots", name, needed / 2**30, n_spots)
    check_memory(f"a training step of {name!r} on {n_spots} spots", needed, f"{remedy}.", left)
