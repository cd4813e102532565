"""The published splits."""

from __future__ import annotations

from spared_sc.datasets._catalogue import entries, entry_of
from spared_sc.datasets._splits import of_sections, split_faults

SPARED = [entry for entry in entries().values() if entry.collection == "SpaRED"]


def test_published_catalogue():
    splits = [of_sections(entry) for entry in SPARED]
    assert len(splits) == 26
    assert sum(map(len, splits)) == 105
    assert len({section for sections in splits for section in sections}) == 97
    assert sum("test" in sections.values() for sections in splits) == 11
    assert all({"train", "val"} <= set(sections.values()) for sections in splits)


def test_faults_of_the_splits():
    without = [fault for entry in SPARED for fault in split_faults(entry) if "no test split" in fault]
    assert len(without) == 15
    assert all("15 of the 26 sets of SpaRED" in fault for fault in without)
    faults = " ".join(split_faults(entry_of("MMBR")))
    assert "'V11D08-304_A1', 'V11D08-304_C1' of the test split of MMBR are in the train split of MMBP2" in faults
    assert "'V10S29-134_B1', 'V10S29-134_D1' of the train split of MMBR are in the val or test split of MMBP1" in faults
    assert split_faults(entry_of("VLO")) == []


def test_sets_that_share_sections_are_the_three_mouse_brains():
    shared = {entry.key for entry in SPARED if any("do not score" in fault for fault in split_faults(entry))}
    assert shared == {"MMBR", "MMBP1", "MMBP2"}
