"""Published splits of the catalogue, and what is known to be wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.validate import listing
from spared_sc.datasets._catalogue import entries

if TYPE_CHECKING:
    from spared_sc.datasets._entries import DataSet


def of_sections(entry: DataSet) -> dict[str, str]:
    """Section -> split, for those that have one."""
    return {name: section.split for name, section in entry.sections.items() if section.split is not None}


def split_faults(entry: DataSet) -> list[str]:
    """What is known to be wrong with the split of a data set, a sentence each."""
    known = {key: other for key, other in entries().items() if other.collection == entry.collection != ""}
    own, faults = of_sections(entry), []
    if own and "test" not in own.values() and known:
        without = [key for key, other in known.items() if "test" not in of_sections(other).values()]
        faults.append(
            f"{entry.key} has no test split: it is one of {len(without)} of the {len(known)} sets of {entry.collection} "
            f"without one ({', '.join(without)})."
        )
    for key, other in known.items():
        theirs = of_sections(other) if key != entry.key and other.folder == entry.folder else {}
        for split in ("test", "val"):
            seen = [name for name in own if own[name] == split and theirs.get(name) == "train"]
            if seen:
                faults.append(
                    f"{listing(seen)} of the {split} split of {entry.key} are in the train split of {key}: do not score a "
                    f"model here that has seen {key}."
                )
        learned = [name for name in own if own[name] == "train" and theirs.get(name) in ("val", "test")]
        if learned:
            faults.append(
                f"{listing(learned)} of the train split of {entry.key} are in the val or test split of {key}: do not score "
                f"a model there that has seen {entry.key}."
            )
    return faults
