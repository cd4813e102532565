"""pl.catalogue."""

from __future__ import annotations

import pytest

import spared_sc as sp
from helpers.figures import assert_nothing_is_cut_off, legend_texts

pytestmark = pytest.mark.usefixtures("no_traces")


def test_bars_are_the_numbers_of_the_paper():
    table = sp.datasets.catalogue()
    fig = sp.pl.catalogue(table[table["collection"] == "SpaRED"])
    assert fig.get_suptitle() == "26 data sets, 105 sections, 308,843 spots"
    widths = [sum(bar.get_width() for bar in ax.patches) for ax in fig.axes]
    assert widths == [26, 105, 308_843]
    by_organism = {
        container.get_label(): sum(bar.get_width() for bar in container) for container in fig.axes[0].containers
    }
    assert by_organism == {"human": 14, "mouse": 12}
    assert legend_texts(fig.legends[0]) == ["human", "mouse"]
    assert fig.axes[0].get_yticklabels()[0].get_text() == "Brain"
    assert_nothing_is_cut_off(fig)


def test_unknown_numbers_of_spots_are_named():
    table = sp.datasets.catalogue()
    some = table[table["collection"] != "SpaRED"]
    fig = sp.pl.catalogue(some)
    assert f"spots of {len(some)} data sets are not known" in fig.get_suptitle()
    assert {text.get_text() for text in fig.axes[2].texts} == {" not known"}


def test_other_tables_are_refused():
    table = sp.datasets.catalogue()
    with pytest.raises(KeyError, match=r"no column 'tissue'.*sp.datasets.catalogue"):
        sp.pl.catalogue(table.drop(columns="tissue"))
    with pytest.raises(ValueError, match="no data set"):
        sp.pl.catalogue(table.iloc[:0])
