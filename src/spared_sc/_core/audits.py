"""Readers of what an audit of a completion left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.record import records_of
from spared_sc._core.validate import choose_key, listing
from spared_sc._kernels.audit import NOT_AUDITED
from spared_sc._kernels.verdicts import COMPLETE, DENOISE, UNDECIDED

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

VERDICTS = (COMPLETE, DENOISE, UNDECIDED)  # the best first
COLUMNS = (
    "verdict",
    *("skill", "skill_low", "skill_high"),
    *("gain", "gain_low", "gain_high"),
    *("missing", "n_molecules"),
)


def audit_key(adata: AnnData, key: str | None) -> str:
    """The audit that is asked for, or the only one."""
    records = records_of(adata)
    audits = [name for name, record in records.items() if record.get("function") == "tl.audit_completion"]
    return choose_key(key, audits, "audit", "call `sp.tl.audit_completion(adata)`, which writes one")


def audit_table(adata: AnnData, key: str) -> pd.DataFrame:
    """`COLUMNS` of the audited genes, by verdict, and by skill or, without rates, by gain."""
    import pandas as pd

    columns = [f"{key}_{name}" for name in COLUMNS]
    missing = [column for column in columns if column not in adata.var]
    if missing:
        raise KeyError(
            f"there is no adata.var[{missing[0]!r}]: call `sp.tl.audit_completion(adata, key_added={key!r})`, which writes it."
        )
    table = adata.var[columns].set_axis(list(COLUMNS), axis=1)
    verdict = table["verdict"].astype(object)
    table = table[~verdict.isin([NOT_AUDITED, ""]) & verdict.notna()].copy()
    unknown = sorted(set(table["verdict"]) - set(VERDICTS))
    if unknown:
        raise ValueError(
            f"adata.var['{key}_verdict'] holds {listing(unknown)}; expected {listing(VERDICTS)}: "
            "run `sp.tl.audit_completion(adata)` again."
        )
    if table.empty:
        raise ValueError("no gene was audited: run `sp.tl.audit_completion(adata)` on genes of this object.")
    table["verdict"] = pd.Categorical(table["verdict"].astype(object), categories=VERDICTS, ordered=True)
    score = "skill" if table["skill"].notna().any() else "gain"
    return table.sort_values(["verdict", score], ascending=[True, False], kind="stable")
