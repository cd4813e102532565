"""pl.alignment."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import spared_sc as sp
from helpers import KEY
from helpers.images import section


def test_plot_of_the_alignment():
    both = ad.concat([section("A"), section("B", 1)], uns_merge="unique")
    both.obsm["spatial"][: both.n_obs // 2] = both.obsm["spatial"][: both.n_obs // 2, ::-1]
    fig = sp.pl.alignment(both, **KEY)
    assert isinstance(fig, Figure)
    table = sp.pp.check_alignment(both, **KEY)
    for ax, name in zip(fig.axes, "AB", strict=True):
        title = ax.get_title()
        assert f"{100 * table.loc[name, 'on_tissue']:.0f} % of" in title
        assert table.loc[name, "verdict"] in title
        drawn = {
            c.get_label(): len(c.get_offsets()) for c in ax.collections if c.get_label() in ("on tissue", "off tissue")
        }
        n = (both.obs["library_id"] == name).sum()
        assert drawn["on tissue"] == round(table.loc[name, "on_tissue"] * n)
        assert sum(drawn.values()) == n
    fig.canvas.draw()
    _, ax = plt.subplots()
    both.uns["spatial"]["A"]["metadata"] = {"source_image_path": "/nowhere.tif"}
    assert sp.pl.alignment(both, libraries="B", ax=ax, **KEY) is ax  # the image of the other one is not looked for
    assert f"{100 * table.loc['B', 'on_tissue']:.0f} % of" in ax.get_title()
    both.obs["in_tissue"] = np.arange(both.n_obs) % 2
    sp.pl.alignment(both, libraries="B", ax=ax, **KEY)
    assert f"of {both.obs['in_tissue'][both.obs['library_id'] == 'B'].sum()} spots" in ax.get_title()
    with pytest.raises(ValueError, match="one panel"):
        sp.pl.alignment(both, ax=ax, **KEY)
    with pytest.raises(KeyError, match="'A', 'B'"):
        sp.pl.alignment(both, libraries=["C"], **KEY)
