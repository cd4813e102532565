"""tl.encoders."""

from __future__ import annotations

import spared_sc as sp


def test_encoders_are_listed():
    table = sp.tl.encoders()
    assert {"classical", "shufflenet_v2_x0_5", "uni", "midnight-12k"} <= set(table.index)
    assert (table["licence"] != "").all()
    assert table.loc["uni", "gated"]
    assert not table.loc["classical", "gated"]
