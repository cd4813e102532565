"""The device that was asked for; torch is loaded only where one was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spared_sc._core.compute import Compute


def check_device(compute: Compute, *, networks: bool = False) -> Compute:
    """The same with a device that exists: the one that was asked for, and with `networks` the one that these take.

    Raises
    ------
    ValueError
        If it is absent, also where nothing would compute on it.
    """
    if compute.device is None and not networks:
        return compute
    from spared_sc._models.training import on_device

    return on_device(compute)
