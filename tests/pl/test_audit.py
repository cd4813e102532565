"""pl.audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import spared_sc as sp
from helpers.completion_plots import BLUE, ORANGE, VERMILION, artist, audited
from helpers.figures import assert_nothing_is_cut_off, legend_texts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes


pytestmark = pytest.mark.usefixtures("no_traces")


def assert_texts_are_apart(texts: list) -> None:
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 1
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if a.overlaps(b)]


def panel(fig: Figure, name: str) -> Axes:
    found = [ax for ax in fig.axes if ax.get_label() == f"<{name}>"]
    assert len(found) == 1
    return found[0]


def row_segments(collection) -> dict:
    """Row -> the two ends of its horizontal line."""
    return {round(line[0, 1]): (line[0, 0], line[1, 0]) for line in collection.get_segments()}


GREY = to_hex("0.55")
COLOURS = {"complete": BLUE, "denoise": ORANGE, "undecided": GREY}


def ranked(adata: AnnData, key="audit", by="skill") -> pd.DataFrame:
    """The audited genes, by verdict and by skill."""
    frame = adata.var[adata.var[f"{key}_verdict"].isin(COLOURS)].copy()
    rank = frame[f"{key}_verdict"].map({name: i for i, name in enumerate(COLOURS)}).astype(int)
    return frame.iloc[np.lexsort([-frame[f"{key}_{by}"], rank])]


def test_audit_counts_the_verdicts():
    adata = audited()
    fig = sp.pl.audit(adata)
    assert isinstance(fig, Figure)
    ax = panel(fig, "verdicts")
    number = adata.var["audit_verdict"].value_counts()
    bars = {c.get_label(): c.patches[0] for c in ax.containers}
    assert list(bars) == ["undecided", "denoise", "complete"]
    bottom = 0
    for name, bar in bars.items():
        assert (bar.get_y(), bar.get_height()) == (bottom, number[name])
        bottom += number[name]
    assert len({to_hex(bar.get_facecolor()) for bar in bars.values()}) == 3
    assert ax.get_ylim() == (0, 30)
    written = " ".join(text.get_text() for text in ax.texts)
    for name in bars:
        assert f"{name}: {number[name]} genes ({100 * number[name] / 30:.0f} %)" in written
    assert ax.get_xlabel() == "5 other genes\nwere not audited"
    plt.close(fig)
    assert panel(sp.pl.audit(audited(others=0)), "verdicts").get_xlabel() == ""


@pytest.mark.parametrize("name", ["skill", "gain"])
def test_audit_draws_every_gene_at_its_rank_in_the_colour_of_its_verdict(name):
    adata = audited()
    fig = sp.pl.audit(adata)
    ax, genes = panel(fig, name), ranked(adata)
    if name == "skill":
        assert [text.get_text() for text in ax.get_yticklabels()] == list(genes.index)
    assert ax.get_ylim() == (29.5, -0.5)
    points = np.concatenate([artist(ax, verdict).get_offsets() for verdict in COLOURS])
    np.testing.assert_allclose(points[np.argsort(points[:, 1])], np.c_[genes[f"audit_{name}"], np.arange(30)])
    row = dict(zip(genes.index, range(30), strict=True))
    intervals = [c for c in ax.collections if hasattr(c, "get_segments")]
    for verdict, colour in COLOURS.items():
        mine = genes[genes["audit_verdict"] == verdict]
        drawn = artist(ax, verdict)
        assert to_hex(drawn.get_facecolors()[0]) == colour
        assert sorted(drawn.get_offsets()[:, 1]) == sorted(row[gene] for gene in mine.index)
        segments = next(row_segments(c) for c in intervals if to_hex(c.get_colors()[0]) == colour)
        for gene in mine.index:
            ends = mine.loc[gene, [f"audit_{name}_low", f"audit_{name}_high"]].to_numpy(dtype=float)
            assert segments[row[gene]] == pytest.approx(tuple(np.clip(ends, *ax.get_xlim())))
    zero = [line for line in ax.lines if set(line.get_xdata()) == {0}]
    assert len(zero) == 1
    assert f"{name}: share of\nthe" in ax.get_xlabel()
    assert legend_texts(fig.legends[0])[0] == "estimate and 95 % interval"
    bars = panel(fig, "missing").collections[0]
    segments = row_segments(bars)
    for gene, value in genes["audit_missing"].items():
        assert segments[row[gene]] == pytest.approx((0, 100 * value))
    assert [to_hex(c) for c in bars.get_colors()] == [COLOURS[v] for v in genes["audit_verdict"]]
    assert panel(fig, "missing").get_ylim() == ax.get_ylim()


@pytest.mark.parametrize("harm", [False, True, np.True_])
def test_audit_says_the_summary_and_when_it_would_harm(harm):
    adata = audited(harm=harm)
    fig = sp.pl.audit(adata)
    (text,) = panel(fig, "summary").texts
    assert text.get_text().replace("\n", " ") == adata.uns["spared_sc"]["audit"]["summary"]
    assert "\n" in text.get_text()
    if harm:
        assert "nothing is gained" in fig.get_suptitle()
        assert fig._suptitle.get_color().lower() == VERMILION
    else:
        assert fig.get_suptitle() == ""
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("n", [3, 30, 128, 5000])
def test_audit_of_few_and_of_many_genes(n):
    adata = audited(n, harm=True)
    fig = sp.pl.audit(adata)
    assert_nothing_is_cut_off(fig)
    ax = panel(fig, "skill")
    names = [text.get_text() for text in ax.get_yticklabels()]
    if n <= 30:
        assert names == list(ranked(adata).index)
        assert_texts_are_apart(ax.get_yticklabels())
    else:
        assert not names
        assert ax.get_ylabel() == f"{n:,} genes, best first"
    points = [c for c in ax.collections if c.get_label() in COLOURS]
    assert sum(len(c.get_offsets()) for c in points) == n
    assert_texts_are_apart(panel(fig, "verdicts").texts)


@pytest.mark.parametrize("figsize", [(9, 5), (14, 6)])
def test_audit_texts_do_not_overlap(figsize):
    fig = sp.pl.audit(audited(40), figsize=figsize)
    assert tuple(fig.get_size_inches()) == figsize
    assert_nothing_is_cut_off(fig)
    verdicts, skill, summary = (panel(fig, name) for name in ("verdicts", "skill", "summary"))
    assert_texts_are_apart([*verdicts.texts, *summary.texts, verdicts.title, skill.title, skill.yaxis.label])


def test_audit_of_some_genes():
    adata = audited()
    order = list(ranked(adata).index)
    fig = sp.pl.audit(adata, n_genes=4)
    names = [text.get_text() for text in panel(fig, "skill").get_yticklabels()]
    assert names == [order[i] for i in (0, 10, 19, 29)]
    assert sum(c.patches[0].get_height() for c in panel(fig, "verdicts").containers) == 30  # the bar is of all
    plt.close(fig)
    fig = sp.pl.audit(adata, genes=[order[7], order[2]], n_genes=50)
    assert [text.get_text() for text in panel(fig, "skill").get_yticklabels()] == [order[2], order[7]]
    plt.close(fig)
    fig = sp.pl.audit(adata, genes=order[0])
    assert [text.get_text() for text in panel(fig, "skill").get_yticklabels()] == order[:1]


def test_audit_of_extreme_genes():
    adata = audited(100)
    worst = ranked(adata).index[-1]
    adata.var.loc[worst, ["audit_skill", "audit_skill_low", "audit_skill_high"]] = [-30, -35, -25]
    fig = sp.pl.audit(adata)
    ax = panel(fig, "skill")
    left, right = ax.get_xlim()
    assert -1.1 < left < -0.2
    assert 0.5 < right < 1
    np.testing.assert_allclose(artist(ax, "undecided, left").get_offsets(), [[left, 99]])
    assert legend_texts(fig.legends[0])[-1] == "further left"


def test_audit_of_a_method_without_expected_counts():
    adata = audited(rates=False)
    fig = sp.pl.audit(adata)
    assert not [ax for ax in fig.axes if ax.get_label() == "<skill>"]
    names = [text.get_text() for text in panel(fig, "gain").get_yticklabels()]
    assert names == list(ranked(adata, by="gain").index)
    assert_nothing_is_cut_off(fig)


def test_audit_of_genes_of_which_nothing_was_filled():
    adata = audited(key="mine")
    full = ranked(adata, "mine").index[:2]
    adata.var.loc[full, ["mine_gain", "mine_gain_low", "mine_gain_high"]] = np.nan
    adata.var["mine_verdict"] = adata.var["mine_verdict"].astype(object).replace("not audited", None)
    fig = sp.pl.audit(adata, key="mine")
    assert len(panel(fig, "skill").get_yticklabels()) == 30
    drawn = [c for c in panel(fig, "gain").collections if c.get_label() in COLOURS]
    assert sum(len(c.get_offsets()) for c in drawn) == 28
    assert panel(fig, "verdicts").get_ylim() == (0, 30)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"key": "other"}, KeyError, ["'other'", "'audit'", "key=", "sp.tl.audit_completion"]),
        ({"genes": "ACTB"}, KeyError, ["'ACTB'", "genes="]),
        ({"genes": []}, ValueError, ["none of the genes"]),
        ({"genes": "skipped"}, ValueError, ["none of the genes"]),
        ({"n_genes": 0}, ValueError, ["n_genes=0"]),
        ({"n_genes": 2.5}, ValueError, ["n_genes=2.5", "whole number"]),
    ],
)
def test_errors_of_the_audit(change, kind, words):
    adata = audited()
    names = adata.var_names.to_numpy(dtype=object)
    names[np.flatnonzero(adata.var["audit_verdict"] == "not audited")[0]] = "skipped"
    adata.var_names = names
    with pytest.raises(kind) as error:
        sp.pl.audit(adata, **change)
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_errors_about_what_the_audit_left():
    adata = audited()
    del adata.var["audit_gain"]
    with pytest.raises(KeyError, match="audit_gain"):
        sp.pl.audit(adata)
    adata = audited()
    del adata.uns["spared_sc"]["audit"]["summary"]
    with pytest.raises(KeyError, match="summary"):
        sp.pl.audit(adata)
    adata = audited()
    with pytest.raises(ValueError, match="no gene was audited"):
        sp.pl.audit(adata[:, adata.var["audit_verdict"] == "not audited"].copy())
    adata.var["audit_verdict"] = adata.var["audit_verdict"].cat.rename_categories({"undecided": "bin"})
    with pytest.raises(ValueError, match="'bin'.*'undecided'"):
        sp.pl.audit(adata)


def test_the_only_audit_needs_no_name():
    adata = audited(key="mine")
    plt.close(sp.pl.audit(adata))
    adata.uns["spared_sc"]["other"] = adata.uns["spared_sc"]["mine"]
    with pytest.raises(ValueError, match=r"several.*'mine', 'other'.*key="):
        sp.pl.audit(adata)
