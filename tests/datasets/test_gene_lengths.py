"""datasets.gene_lengths."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp

if TYPE_CHECKING:
    from pathlib import Path


GTF = (
    'chr1\tx\texon\t1\t50\t.\t+\t.\tgene_id "ENSG00000000001.1"; gene_name "A"; gene_type "lncRNA";\n'
    'chrM\tx\texon\t1\t70\t.\t+\t.\tgene_id "ENSG00000000002.1"; gene_name "MT-A"; gene_type "Mt_rRNA";\n'
)


def test_tables_need_no_network_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with sp.settings.override(data_dir=None, cache_dir=tmp_path / "cache"):
        human, mouse = sp.datasets.gene_lengths(), sp.datasets.gene_lengths("mouse")
    assert human.set_index("gene_name")["length"]["ACTB"] > 1000
    assert mouse.set_index("gene_name")["length"]["Actb"] > 1000
    assert not (tmp_path / "cache").exists()


def test_a_file_of_ones_own(tmp_path: Path):
    (tmp_path / "own.gtf").write_text(GTF)
    table = sp.datasets.gene_lengths(tmp_path / "own.gtf")
    assert table["length"].tolist() == [50, 70]
    with pytest.raises(FileNotFoundError, match="expected 'human', 'mouse' or the path"):
        sp.datasets.gene_lengths("rat")
