"""Model folders that were changed by another program, with a right hash."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from spared_sc._models import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def card_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text())


def weights_of(folder: Path) -> Path:
    return next(folder.glob("weights-*.safetensors"))


def put_card(folder: Path, card: dict[str, Any]) -> None:
    """Write a card that fits the weights by size and hash."""
    content = weights_of(folder).read_bytes()
    card = {name: value for name, value in card.items() if name != "sha256"} | {"bytes": len(content)}
    (folder / "card.json").write_text(json.dumps({**card, "sha256": checkpoint._digest(content, card)}))


def put_arrays(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the arrays."""
    from safetensors.numpy import load, save

    weights_of(folder).write_bytes(save(change(load(weights_of(folder).read_bytes()))))
    put_card(folder, card_of(folder))
