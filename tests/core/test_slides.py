"""The entries of `uns["spatial"]`."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spared_sc._core.slides import entry_of, slides_of

PARTS = {"images": {}, "scalefactors": {}, "metadata": {}}


@pytest.mark.parametrize("slides", [None, {}, {"A": None}, {"A": {}}, {"A": {"images": None, "other": 1}}])
def test_what_is_missing_is_empty(slides):
    adata = AnnData(np.ones((2, 2)), uns={} if slides is None else {"spatial": slides})
    assert entry_of(adata, "A") == PARTS


@pytest.mark.parametrize("slides", ["text", 3, [], True, {"A": "text"}, {"A": [1]}, {"A": {"images": 3}}])
def test_what_is_something_else_is_refused(slides):
    adata = AnnData(np.ones((2, 2)), uns={"spatial": slides})
    with pytest.raises(TypeError, match=r"adata.uns\['spatial'\].* is a .*: expected a dictionary"):
        entry_of(adata, "A")
    if isinstance(slides, dict):
        assert slides_of(adata) == slides
