"""get.audit."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers.completion_plots import audited

COLUMNS = ["verdict", "skill", "skill_low", "skill_high", "gain", "gain_low", "gain_high", "missing", "n_molecules"]


def test_audit_is_the_table_of_the_audited_genes_the_best_first():
    adata = audited(30, others=5)
    table = sp.get.audit(adata)
    assert list(table.columns) == COLUMNS
    assert set(table.index) == set(adata.var_names[adata.var["audit_verdict"] != "not audited"])
    for gene, row in table.iterrows():
        for column in COLUMNS:
            assert row[column] == adata.var.loc[gene, f"audit_{column}"]
    rank = {"complete": 0, "denoise": 1, "undecided": 2}
    keys = [(rank[verdict], -skill) for verdict, skill in zip(table["verdict"], table["skill"], strict=True)]
    assert keys == sorted(keys)
    assert table["verdict"].min() == "complete"  # an ordered categorical


def test_audit_without_skill_is_sorted_by_gain():
    adata = audited(30, rates=False)
    table = sp.get.audit(adata, key="audit")
    assert table["skill"].isna().all()
    for _, part in table.groupby("verdict", observed=True):
        assert part["gain"].is_monotonic_decreasing


def test_errors_of_the_table():
    adata = audited(key="mine")
    with pytest.raises(KeyError, match="'other'.*'mine'"):
        sp.get.audit(adata, "other")
    adata.uns["spared_sc"]["more"] = adata.uns["spared_sc"]["mine"]
    with pytest.raises(ValueError, match=r"several.*'mine', 'more'.*key="):
        sp.get.audit(adata)
    with pytest.raises(KeyError, match="more_verdict"):
        sp.get.audit(adata, "more")
    adata.var["mine_verdict"] = "not audited"
    with pytest.raises(ValueError, match="no gene was audited"):
        sp.get.audit(adata, "mine")
    del adata.uns["spared_sc"]
    with pytest.raises(KeyError, match="sp.tl.audit_completion"):
        sp.get.audit(adata)


def test_audit_gives_a_copy():
    adata = audited()
    table = sp.get.audit(adata)
    table["skill"] = np.nan
    assert adata.var["audit_skill"].notna().sum() == 30
