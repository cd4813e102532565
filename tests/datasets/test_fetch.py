"""datasets.fetch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from helpers.repositories import picture, play, space_ranger

if TYPE_CHECKING:
    from helpers.server import Server


def test_files_are_brought_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    play(server, monkeypatch, "VKO")
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        table = sp.datasets.fetch("VKO", "V19D02-085_B1")
        said = capsys.readouterr().out
        assert "downloading data.tar.gz of VKO (" in said
        assert " MB) from https://data.mendeley.com/datasets/xjtv62ncwr/1 into " in said
        assert table["role"].tolist() == ["counts", "hires", "lowres", "positions", "scalefactors"]
        files = space_ranger("V19D02-085_B1")
        for row in table.itertuples():
            path = Path(row.path)
            content = next(data for name, data in files.items() if name.rpartition("/")[2] == path.name)
            assert path.read_bytes() == content
            assert path.is_relative_to(tmp_path / "villacampa" / "V19D02-085_B1")
            assert row.bytes == len(content)
        asked = len(server.asked)
        assert sp.datasets.fetch("VKO", "V19D02-085_B1").equals(table)
        assert len(server.asked) == asked
        # The other sections are in the archive that is there already, their full images are not.
        more = sp.datasets.fetch("VKO", images="full")
        assert sum("file_downloaded" in path for path, _ in server.asked) == 2
    assert set(more["section"]) == {"V19D02-085_B1", "V19D02-085_C1", "V19D02-085_D1"}
    images = more.loc[more["role"] == "image", "path"]
    assert [Path(path).read_bytes() for path in images] == [picture("JPEG")] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "lowres"}, "images='lowres' is unknown: choose 'hires', 'full' or None"),
        ({"layers": "normalised"}, "PMI has no table 'normalised': it offers 'normalized'"),
        ({"sections": "B2"}, "there is no section 'B2' in PMI: choose from 'B1_S2', 'A1_S1', or a subject, 'S2', 'S1'"),
    ],
)
def test_what_does_not_exist(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        sp.datasets.fetch("PMI", **options)
