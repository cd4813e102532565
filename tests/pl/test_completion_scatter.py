"""pl.completion_scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse as sps
from matplotlib.figure import Figure
from scipy.stats import pearsonr

import spared_sc as sp
from helpers.completion_plots import hidden
from helpers.figures import assert_nothing_is_cut_off

if TYPE_CHECKING:
    from anndata import AnnData

pytestmark = pytest.mark.usefixtures("no_traces")


def entries(adata: AnnData, layer: str, genes=slice(0, 6)) -> tuple[np.ndarray, np.ndarray]:
    values = {name: adata.to_df(name).to_numpy()[:, genes] for name in ("log2tpm", "hidden", layer)}
    mask = values["hidden"].astype(bool) & (adata.X.toarray()[:, genes] > 0)
    return values["log2tpm"][mask].astype(float), values[layer][mask].astype(float)


@pytest.mark.parametrize("sparse", [True, False])
def test_scatter_counts_every_hidden_entry_once(sparse):
    adata = hidden(sparse=sparse)
    fig = sp.pl.completion_scatter(adata, key=["good", "median"])
    assert isinstance(fig, Figure)
    panels = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    assert len(panels) == 2
    for ax, layer in zip(panels, ["good", "median"], strict=True):
        measured, filled = entries(adata, layer)
        mse, pcc = np.mean((measured - filled) ** 2), pearsonr(measured, filled)[0]
        assert ax.get_title() == f"{layer}\nMSE {mse:.3g}, PCC {pcc:.3f}, {measured.size} entries"
        drawn = ax.collections[0].get_array()
        assert drawn.sum() == measured.size
        edges = ax.collections[0].get_coordinates()
        x, y = edges[0, :, 0], edges[:, 0, 1]
        for row, column in zip(*np.nonzero(drawn.filled(0)), strict=True):
            inside_x = (measured >= x[column]) & ((measured < x[column + 1]) | (column == x.size - 2))
            inside_y = (filled >= y[row]) & ((filled < y[row + 1]) | (row == y.size - 2))
            assert (inside_x & inside_y).sum() == drawn[row, column]
        assert ax.collections[0].norm is panels[0].collections[0].norm
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())
        assert ax.get_aspect() == 1
        assert ax.get_xlabel() == "measured, log2(TPM + 1)"
    assert panels[0].get_ylabel() == "filled in, log2(TPM + 1)"
    assert panels[0].get_xlim() == panels[1].get_xlim() == panels[1].get_ylim()
    assert_nothing_is_cut_off(fig)


def test_scatter_of_all_genes_other_layers_and_undetected_entries():
    adata = hidden()
    mask = adata.layers.pop("hidden").toarray()
    mask[:, 0] = True  # also where nothing was detected: there is no measured value to compare with
    adata.layers["mine"] = mask
    adata.layers["raw"] = adata.layers["log2tpm"].copy()
    n = int(((adata.X.toarray() > 0) & mask).sum())
    assert n < mask.sum()
    ax = sp.pl.completion_scatter(adata, key="median", layer="raw", hidden="mine", mask_var=None).axes[0]
    assert ax.get_title().endswith(f"{n} entries")
    assert ax.get_xlabel() == "measured, raw"
    plt.close("all")
    adata.uns["spared_sc"] = {"log2tpm": {"function": "pp.normalize_tpm", "params": {}, "match": "CPM: no lengths"}}
    ax = sp.pl.completion_scatter(adata, key="median", hidden="mine").axes[0]
    assert ax.get_xlabel() == "measured, log2(CPM + 1)"


def test_scatter_of_a_constant_has_no_correlation():
    adata = hidden(sparse=False)
    adata.layers["median"] = np.where(adata.layers["hidden"], 11, adata.layers["median"])
    fig = sp.pl.completion_scatter(adata, key="median")
    assert "PCC none" in fig.axes[0].get_title()
    fig.canvas.draw()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"key": "magic"}, KeyError, ["'magic'", "'median'", "key="]),
        ({"key": []}, ValueError, ["`key` is empty", "'median'"]),
        ({"layer": "tpm"}, KeyError, ["'tpm'", "'log2tpm'", "layer="]),
        ({"hidden": "mask"}, KeyError, ["'mask'", "tl.hide_entries", "hidden="]),
        ({"hidden": "log2tpm"}, TypeError, ["'log2tpm'", "float32", "boolean"]),
        ({"hidden": "nowhere"}, ValueError, ["'nowhere'", "marks no detected entry of the 6 genes", "mask_var="]),
        ({"hidden": "undetected"}, ValueError, ["marks no detected entry"]),
        ({"key": "seen"}, ValueError, ["'seen'", "while they were visible", "tl.hide_entries"]),
        ({"key": "nan"}, ValueError, ["'nan'", "NaN"]),
        ({"mask_var": "mine"}, KeyError, ["'mine'"]),
    ],
)
def test_errors_of_the_scatter(change, kind, words):
    adata = hidden()
    adata.layers["nowhere"] = sps.csr_matrix(adata.shape, dtype=bool)
    adata.layers["undetected"] = adata.X.toarray() == 0
    adata.layers["seen"] = adata.layers["log2tpm"].copy()
    adata.layers["nan"] = np.full(adata.shape, np.nan)
    with pytest.raises(kind) as error:
        sp.pl.completion_scatter(adata, **{"key": "median", **change})
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_layer_made_with_visible_entries_is_refused_only_when_many_repeat():
    adata = hidden(sparse=False)
    mask = adata.layers["hidden"] & adata.var["spared_selected"].to_numpy()
    rows, columns = np.nonzero(mask)
    n = rows.size
    for repeated, refused in ((n // 2 - 1, False), (-(-n // 2), True)):
        layer = adata.layers["median"].copy()
        layer[rows[:repeated], columns[:repeated]] = adata.layers["log2tpm"][rows[:repeated], columns[:repeated]]
        adata.layers["mixed"] = layer
        if refused:
            with pytest.raises(ValueError, match=f"at {repeated} of {n} hidden entries"):
                sp.pl.completion_scatter(adata, key="mixed")
        else:
            plt.close(sp.pl.completion_scatter(adata, key="mixed"))


def test_entries_hidden_by_the_package_are_read_from_their_layer(collection):
    adata = collection(n_libraries=2, shape=(9, 9), n_genes=30, image=False, recipe={"n_genes": 12})
    trial = sp.tl.hide_entries(adata, library_key="library_id")
    with pytest.raises(ValueError, match=r"no layer.*`key`.*tl\.hide_entries"):
        sp.pl.completion_scatter(trial)
    sp.tl.median_complete(trial, library_key="library_id")
    sp.tl.complete(trial, method="additive", key_added="mine", library_key="library_id")
    hidden = trial.layers["hidden"].toarray()
    measured = trial.layers["log2tpm_hidden"].toarray()[hidden]
    assert measured.all()
    fig = sp.pl.completion_scatter(trial)
    for ax, layer, name in zip(fig.axes[:2], ("median", "mine"), ("median", "mine: additive"), strict=True):
        error = measured - trial.layers[layer].toarray()[hidden]
        assert ax.get_title().startswith(f"{name}\nMSE {np.mean(error.astype(float) ** 2):.3g}, ")
        assert ax.get_title().endswith(f"{measured.size:,} entries")
    plt.close(fig)
