"""Random collections have every fault, and often none."""

from __future__ import annotations

from collections import Counter

from hypothesis import given

from properties.collections import FAULTS, MASKS, Case, collections, examples


def test_collections_have_every_fault():
    seen: Counter[str | None] = Counter()

    @examples("collections")
    @given(case=collections(faults=tuple(FAULTS), layer=True, masks=MASKS))
    def draw(case: Case) -> None:
        seen[case.fault] += 1

    draw()
    assert len(seen) > 0.8 * len(sum(FAULTS.values(), []))
    assert seen[None] > seen.total() / 3
