"""The image encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def encoders() -> pd.DataFrame:
    """List the encoders that :func:`spared_sc.tl.embed_patches` knows by short names; it takes any timm model as well.

    Returns
    -------
    One row per encoder: `source`, `dim` (features), `input_size` (pixels a side), `mpp` (um per pixel that it was trained
    at), `licence`, `gated` (whether access must be requested), `hub` (where the weights are) and `citation`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> bool(sp.tl.encoders().loc["uni", "gated"])
    True
    """
    import pandas as pd

    from spared_sc._models.encoder_cards import CARDS

    columns = ["source", "dim", "input_size", "mpp", "licence", "gated", "hub", "citation"]
    rows = [[getattr(card, column) for column in columns] for card in CARDS.values()]
    return pd.DataFrame(rows, index=pd.Index(CARDS, name="name"), columns=columns)
