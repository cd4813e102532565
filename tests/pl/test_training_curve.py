"""pl.training_curve."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

import spared_sc as sp
from helpers.figures import legend_texts
from helpers.tissue_plots import collection, trained

pytestmark = pytest.mark.usefixtures("no_traces")


def lines(ax: Axes) -> dict:
    return {line.get_label(): line for line in ax.get_lines()}


def test_training_curve_draws_the_record():
    adata = trained(collection(("A",)))
    record = adata.uns["spared_sc"]["spackle"]["training"]
    ax = sp.pl.training_curve(adata)
    assert isinstance(ax, Axes)
    drawn = lines(ax)
    assert set(drawn) == {
        "training",
        "validation",
        "best step (60)",
        "adaptive median (3.5)",
        "mean of the gene (2.75)",
    }
    np.testing.assert_array_equal(drawn["training"].get_xydata(), np.c_[record["step"], record["train_mse"]])
    np.testing.assert_array_equal(drawn["validation"].get_xydata(), np.c_[record["step"], record["validation_mse"]])
    np.testing.assert_array_equal(drawn["best step (60)"].get_xydata(), [[60, record["validation_mse"][5]]])
    assert set(drawn["adaptive median (3.5)"].get_ydata()) == {3.5}
    assert set(drawn["mean of the gene (2.75)"].get_ydata()) == {2.75}
    assert legend_texts(ax.get_legend()) == list(drawn)
    assert ax.get_yscale() == "linear"
    ax.figure.canvas.draw()


def test_the_default_model_has_no_training_curve():
    adata = trained(collection(("A",)))
    record = adata.uns["spared_sc"]["spackle"]
    del record["training"]
    record["score"] = {"counts": 2.0, "factor": 2.5, "additive": 3.0, "n_entries": 9}
    with pytest.raises(KeyError, match="no training curve.*spackle_complete.*model='paper'"):
        sp.pl.training_curve(adata)
    assert not plt.get_fignums()


def test_training_curve_with_a_wide_range_is_logarithmic():
    adata = trained(collection(("A",)), train_mse=np.geomspace(100, 1, 10))
    assert sp.pl.training_curve(adata).get_yscale() == "log"


def test_training_curve_with_rare_validation_and_without_score():
    rare = np.where(np.arange(10) % 2, 3.0, np.nan)
    adata = trained(collection(("A",)), validation_mse=rare, best_step=20)
    del adata.uns["spared_sc"]["spackle"]["score"]
    drawn = lines(sp.pl.training_curve(adata))
    assert set(drawn) == {"training", "validation", "best step (20)"}
    assert drawn["validation"].get_xdata().tolist() == [20, 40, 60, 80, 100]


def test_training_curve_after_a_round_trip_through_a_file(tmp_path_factory):
    import anndata

    path = tmp_path_factory.mktemp("file") / "a.h5ad"
    trained(collection(("A",))).write_h5ad(path)
    _, ax = plt.subplots()
    assert sp.pl.training_curve(anndata.read_h5ad(path), ax=ax) is ax
    assert "best step (60)" in lines(ax)


def test_training_curve_errors():
    adata = collection(("A",))
    with pytest.raises(KeyError, match="no training curve.*sp.tl.spackle_complete"):
        sp.pl.training_curve(adata)
    with pytest.raises(KeyError, match="no training curve.*median.*spackle.*key="):
        sp.pl.training_curve(trained(adata), key="median")
    assert not plt.get_fignums()


def test_the_only_curve_needs_no_name_and_the_title_names_the_model():
    adata = trained(collection(("A",)))
    records = adata.uns["spared_sc"]
    records["mine"] = {
        **records.pop("spackle"),
        "function": "tl.complete",
        "params": {"method": "paper"},
        "slots": ['layers["mine"]'],
    }
    assert sp.pl.training_curve(adata).get_title() == "mine: SpaCKLE (paper)"
    plt.close("all")
    records["other"] = records["mine"]
    with pytest.raises(ValueError, match=r"several.*'mine', 'other'.*key="):
        sp.pl.training_curve(adata)
