"""Folders of fitted completers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spared_sc._models import checkpoint
from spared_sc._models.completion.base import FittedCompleter
from spared_sc._models.completion.registry import COMPLETERS

if TYPE_CHECKING:
    from pathlib import Path

KIND = "completer"
# Of genes that are too rare to be judged.
_GAPS = ("skill", "skill_se", "pattern", "given_detection")


@dataclass(frozen=True)
class SavedCompleter:
    """A fitted completer and the data that it is for."""

    completer: FittedCompleter
    genes: list[str]
    gene_ids: list[str] | None  # Ensembl ids, empty where a gene has none
    layer: str
    data: str  # short name of the data that it was fitted to
    version: str  # of the package that wrote it


def save_completer(
    folder: str | Path,
    completer: FittedCompleter,
    *,
    genes: list[str],
    gene_ids: list[str] | None = None,
    layer: str,
    data: str,
) -> None:
    """Write learned state, genes and layer to a folder; errors as of `checkpoint.save`."""
    arrays, values = completer.state()
    arrays = arrays | {checkpoint.GENES: checkpoint.genes_hash(genes, gene_ids)}
    card: dict[str, Any] = {"method": completer.name, "genes": genes, "layer": layer, "data": data, "values": values}
    if gene_ids is not None:
        card["gene_ids"] = gene_ids
    checkpoint.save(folder, KIND, arrays, card, gaps=_GAPS)


def load_completer(folder: str | Path) -> SavedCompleter:
    """Read what `save_completer` wrote."""
    arrays, card = checkpoint.load(folder, KIND, gaps=_GAPS)
    with checkpoint.fitting(f"the model in {folder}", "Fit and save it again."):
        genes = checkpoint.names_of(card["genes"])
        ids = checkpoint.ids_of(card.get("gene_ids"), genes)
        checkpoint.check_genes(arrays, genes, ids)
        cls = COMPLETERS.load(card["method"])
        if not issubclass(cls, FittedCompleter):
            raise ValueError(f"{card['method']!r} is not fitted")
        completer = cls.from_state(arrays, card["values"])
        if completer.n_genes not in (None, len(genes)):
            raise ValueError(f"weights of {completer.n_genes} genes and names of {len(genes)}")
        return SavedCompleter(completer, genes, ids, str(card["layer"]), str(card["data"]), str(card["version"]))
