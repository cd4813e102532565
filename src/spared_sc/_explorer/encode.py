"""Values in eight bits, and pieces of data as scripts, which a page can load from a folder without a server."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np

MISSING = 255  # code of a spot without a value
STEPS = 254  # between the smallest and the largest value


@dataclass(frozen=True)
class Coded:
    """Values as eight-bit codes: `low + code * (high - low) / STEPS`, and `MISSING`."""

    codes: np.ndarray  # (n,) uint8
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


def coded(values: np.ndarray) -> Coded | None:
    """The values (n,) in eight bits; `None` where no spot has a finite one. The error is at most half a step."""
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return None
    low, high = float(values[known].min()), float(values[known].max())
    codes = np.full(len(values), MISSING, dtype=np.uint8)
    # Halved first: the range of the largest floats is no float.
    span = high / 2 - low / 2
    share = (values[known] / 2 - low / 2) / span if span > 0 else np.zeros(known.sum())
    codes[known] = np.rint(STEPS * share).astype(np.uint8)
    return Coded(codes, low, high)


def packed(mask: np.ndarray) -> bytes:
    """A mask with eight spots in a byte, the first one in the lowest bit."""
    return np.packbits(np.asarray(mask, dtype=bool), bitorder="little").tobytes()


def floats(values: np.ndarray) -> bytes:
    """Four bytes each, the lowest first."""
    return np.asarray(values, dtype="<f4").tobytes()


def piece(name: str, head: Any, body: bytes = b"") -> bytes:
    """A script that hands a page the values `head`, and bytes. Whatever text they hold, the script holds base64 only."""
    text = json.dumps(head, allow_nan=False, separators=(",", ":"))
    return b'SparedExplorer.receive("%s","%s","%s");\n' % (
        name.encode("ascii"),
        b64encode(text.encode("ascii")),
        b64encode(body),
    )


def piece_size(n_bytes: int) -> int:
    """Bytes of a script that holds that many."""
    return 4 * -(-n_bytes // 3)


def number(value: float) -> float | None:
    """A number as JSON holds it; `None` for NaN and infinite ones."""
    return float(value) if np.isfinite(value) else None
