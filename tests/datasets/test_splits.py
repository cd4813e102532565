"""The published splits."""

from __future__ import annotations


def test_published_catalogue():
    from spared_sc.datasets._splits import spared_splits

    splits = spared_splits()
    assert len(splits) == 26
    assert sum(len(sections) for sections in splits.values()) == 105
    assert len({section for sections in splits.values() for section in sections}) == 97
    assert sum("test" in sections.values() for sections in splits.values()) == 11
    assert all({"train", "val"} <= set(sections.values()) for sections in splits.values())
