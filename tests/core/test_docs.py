"""Docstrings that share their text."""

from __future__ import annotations

import pytest

from spared_sc._core import docs


def test_lines_in_braces_become_shared_texts():
    @docs.fill(mine="\nsize\n    Own text.\n")
    def function(adata, size, name, *, n_jobs=None, alpha=1.0, show=None):
        """Do it.

        Parameters
        ----------
        {adata}
        {mine}
        name, alpha
            Described here.
        {others}

        Returns
        -------
        Nothing: {name} within a line stays.
        """

    lines = function.__doc__.split("\n")
    names = [line for line in lines[lines.index("----------") : lines.index("Returns")] if line[:1].isalpha()]
    assert names == ["adata", "size", "name, alpha", "n_jobs", "show"]
    assert f"    {docs.PARAMETERS['show']}" in lines
    assert "    Own text." in lines
    assert "{name} within a line" in function.__doc__


def test_parameter_without_a_text_is_refused():
    with pytest.raises(KeyError, match="strange"):

        @docs.fill()
        def function(adata, strange):
            """Do it.

            {adata}
            {others}
            """
