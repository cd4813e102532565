"""What is known of SpaRED's 26 data sets: which section belongs to which split."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files


@cache
def spared_splits() -> dict[str, dict[str, str]]:
    """Abbreviation of the data set -> section -> `"train"`, `"val"` or `"test"`.

    Facts from the released configuration of SpaRED (Ruiz et al. 2025), with its names of the sections.
    """
    text = (files("spared_sc.datasets") / "spared_splits.json").read_text()
    return {
        name: {section: split for split, sections in splits.items() for section in sections}
        for name, splits in json.loads(text).items()
    }
