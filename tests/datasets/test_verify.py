"""datasets.verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from helpers.repositories import play

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.server import Server


def test_drift_is_seen(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    play(server, monkeypatch, "VHS", "HER2ST")
    own = tmp_path / "data" / "her2st"
    with sp.settings.override(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"):
        sp.datasets.fetch("VHS", "V11T17-102_A1")
        sp.datasets.fetch("HER2ST", ["A1", "E1"], images=None)
        # What the user has: one file that is known, one that nobody knows.
        for name in ("A2", "E2"):
            path = own / "ST-cnts" / f"{name}.tsv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"something")
        table = sp.datasets.verify()
        assert set(table["folder"]) == {"vicari", "her2st"}
        cached = table[~table["path"].str.startswith(str(own))]
        assert len(cached) == 4 + 6
        assert set(cached["status"]) == {"fine"}
        assert cached["checked_against"].value_counts().to_dict() == {"the first download": 7, "the catalogue": 3}
        (tmp_path / "cache" / "vicari" / "V11T17-102_A1" / "V11T17-102_A1.scalefactors_json.json").write_text("{}")
        (tmp_path / "cache" / "her2st" / "ST-cnts" / "E1.tsv.gz").unlink()
        table = sp.datasets.verify().set_index("path")
        odd = table.loc[table["status"] != "fine", "status"]
        assert {path.rpartition("/")[2]: status for path, status in odd.items()} == {
            "V11T17-102_A1.scalefactors_json.json": "changed",
            "E1.tsv.gz": "missing",
            "A2.tsv.gz": "changed",
            "E2.tsv.gz": "not checked",
        }
        assert set(sp.datasets.verify("vhs")["folder"]) == {"vicari"}
    with sp.settings.override(data_dir=None, cache_dir=tmp_path / "empty"):
        assert sp.datasets.verify().empty
    with pytest.raises(ValueError, match="no data set 'VHX'; near are"):
        sp.datasets.verify("VHX")
