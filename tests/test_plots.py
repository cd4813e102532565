"""What every plot promises: its file and signature, what it returns and shows, and that it leaves the data alone."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import spared_sc as sp
from helpers import KEY, dense
from helpers.benchmark_tables import made_results
from helpers.completion_plots import table
from helpers.figures import assert_nothing_is_cut_off

if TYPE_CHECKING:
    from anndata import AnnData

pytestmark = pytest.mark.usefixtures("no_traces")

FOLDER = Path(sp.__file__).parent / "pl"
NAMES = re.findall(r"import (\w+) as", (FOLDER / "__init__.pyi").read_text())


def plotted(adata: AnnData) -> AnnData:
    """All that plots read, made as quickly as possible."""
    sp.pp.combat(adata, **KEY)
    sp.tl.median_complete(adata, **KEY)
    options = {"device": "cpu", "show_progress_bar": False}
    sp.tl.spackle_complete(adata, model="paper", model_params={"n_steps": 4}, **options, **KEY)
    sp.tl.audit_completion(adata, method="soft_impute_kernel", quick=True, show_progress_bar=False, **KEY)
    sp.tl.predict_expression(adata, model="position_only", **KEY)
    return adata


@pytest.fixture(scope="module")
def data(collection) -> SimpleNamespace:
    options = {"n_libraries": 2, "shape": (9, 9), "n_genes": 30, "depth": 400, "recipe": {"n_genes": 12}}
    adata = collection(**options, then=plotted)
    trial = sp.tl.hide_entries(adata, **KEY)
    sp.tl.median_complete(trial, **KEY)
    sp.tl.complete(trial, method="additive", **KEY)
    return SimpleNamespace(
        adata=adata,
        trial=trial,
        gene=adata.var_names[adata.var["spared_selected"]][0],
        completion=table(shares=(0.1, 0.3)),
        benchmark=made_results(targets=("expression", "log2tpm")),
        comparison=sp.benchmark.compare(made_results(), "mse"),
        sets=sp.datasets.catalogue(),
        prediction=sp.tl.score_prediction(adata, **KEY),
    )


# plot -> (its call, the arguments for a single panel)
ONE = {"libraries": "library_1"}
CALLS = {
    "alignment": (lambda d, **kw: sp.pl.alignment(d.adata, **KEY, **kw), ONE),
    "audit": (lambda d, **kw: sp.pl.audit(d.adata, **kw), None),
    "batch_effect": (lambda d, **kw: sp.pl.batch_effect(d.adata, **KEY, **kw), None),
    "benchmark_categories": (lambda d, **kw: sp.pl.benchmark_categories(d.benchmark, **kw), {"by": "organism"}),
    "benchmark_data_sets": (lambda d, **kw: sp.pl.benchmark_data_sets(d.benchmark, **kw), {}),
    "benchmark_methods": (lambda d, **kw: sp.pl.benchmark_methods(d.benchmark, **kw), {}),
    "benchmark_parameters": (lambda d, **kw: sp.pl.benchmark_parameters(d.benchmark, **kw), {}),
    "benchmark_wins": (lambda d, **kw: sp.pl.benchmark_wins(d.benchmark, **kw), {}),
    "catalogue": (lambda d, **kw: sp.pl.catalogue(d.sets, **kw), None),
    "completion_curve": (lambda d, **kw: sp.pl.completion_curve(d.completion, **kw), {}),
    "completion_scatter": (lambda d, **kw: sp.pl.completion_scatter(d.trial, **kw), {"key": "median"}),
    "completion_scores": (lambda d, **kw: sp.pl.completion_scores(d.completion, **kw), {"regime": "detected"}),
    "critical_difference": (lambda d, **kw: sp.pl.critical_difference(d.comparison, **kw), {}),
    "gene_scores": (lambda d, **kw: sp.pl.gene_scores(d.prediction, **kw), {}),
    "lattice": (lambda d, **kw: sp.pl.lattice(d.adata, **KEY, **kw), ONE),
    "missing": (lambda d, **kw: sp.pl.missing(d.adata, **KEY, **kw), {}),
    "moran_ranking": (lambda d, **kw: sp.pl.moran_ranking(d.adata, **kw), {}),
    "patches": (lambda d, **kw: sp.pl.patches(d.adata, **KEY, **kw), None),
    "predicted": (lambda d, **kw: sp.pl.predicted(d.adata, d.gene, **KEY, **kw), {**ONE, "panels": "predicted"}),
    "prediction_scatter": (lambda d, **kw: sp.pl.prediction_scatter(d.adata, **KEY, **kw), {"n_genes": 1}),
    "spatial_compare": (
        lambda d, **kw: sp.pl.spatial_compare(d.adata, d.gene, **KEY, **kw),
        {**ONE, "layers": "median"},
    ),
    "training_curve": (lambda d, **kw: sp.pl.training_curve(d.adata, **kw), {}),
}


def figure_of(drawn: Figure | Axes) -> Figure:
    return drawn if isinstance(drawn, Figure) else drawn.figure


def test_every_plot_is_called_here():
    assert sorted(CALLS) == sorted(NAMES) == sorted(sp.pl.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_file_and_signature(name):
    tree = ast.parse((FOLDER / f"_{name}.py").read_text())
    public = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    assert public == [name]
    signature = inspect.signature(getattr(sp.pl, name))
    assert {"figsize", "show"} <= set(signature.parameters)
    assert ("ax" in signature.parameters) == (CALLS[name][1] is not None)
    assert signature.return_annotation in ({"Axes", "Figure | Axes"} if "ax" in signature.parameters else {"Figure"})


@pytest.mark.parametrize("name", NAMES)
def test_figure_is_new_and_only_show_true_shows(name, data, monkeypatch):
    plot, _ = CALLS[name]
    shown = []
    for show in (None, False, True):
        if show:
            monkeypatch.setattr(plt, "show", lambda: shown.append(1))
        drawn = plot(data, show=show)
        assert isinstance(drawn, Figure | Axes)
        assert plt.get_fignums() == [figure_of(drawn).number]
        plt.close("all")
    assert shown == [1]


@pytest.mark.parametrize("name", [name for name in NAMES if CALLS[name][1] is not None])
def test_given_axes_are_drawn_into(name, data):
    plot, single = CALLS[name]
    fig, ax = plt.subplots(layout="constrained")
    assert plot(data, ax=ax, **single) is ax
    assert plt.get_fignums() == [fig.number]
    assert ax.has_data()


@pytest.mark.parametrize("name", NAMES)
def test_size_texts_and_the_data(name, data):
    plot, _ = CALLS[name]
    before = {key: value.copy() for key, value in vars(data).items() if key not in ("gene", "comparison")}
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what must stay
    for size in (None, (9, 6)):
        fig = figure_of(plot(data, figsize=size))
        assert size is None or tuple(fig.get_size_inches()) == size
        assert_nothing_is_cut_off(fig)
        plt.close(fig)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    for key, old in before.items():
        new = getattr(data, key)
        if isinstance(old, pd.DataFrame):
            pd.testing.assert_frame_equal(new, old)
            continue
        pd.testing.assert_frame_equal(new.obs, old.obs)
        pd.testing.assert_frame_equal(new.var, old.var)
        for attr in ("layers", "obsm", "obsp", "uns"):
            assert set(getattr(new, attr)) == set(getattr(old, attr))
        assert all(np.array_equal(dense(new.layers[layer]), dense(old.layers[layer])) for layer in old.layers)
