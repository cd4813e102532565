"""datasets.gene_lengths."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

import spared_sc as sp
from spared_sc._core import genes

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from helpers.server import Server


GTF = (
    'chr1\tx\texon\t1\t50\t.\t+\t.\tgene_id "ENSG00000000001.1"; gene_name "A"; gene_type "lncRNA";\n'
    'chrM\tx\texon\t1\t70\t.\t+\t.\tgene_id "ENSG00000000002.1"; gene_name "MT-A"; gene_type "Mt_rRNA";\n'
)


def test_gencode_over_http(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import gzip

    packed = gzip.compress(GTF.encode())
    digest = hashlib.md5(packed).hexdigest()
    server.files |= {"/r.annotation.gtf.gz": packed, "/MD5SUMS": f"{digest}  r.annotation.gtf.gz\n".encode()}
    monkeypatch.setitem(genes._GENCODE, "human", ("r", server.url))
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        tables = [sp.datasets.gene_lengths("human") for _ in range(2)]
    assert [path for path, _ in server.asked] == ["/MD5SUMS", "/r.annotation.gtf.gz"]
    assert [path.name for path in (tmp_path / "annotation").iterdir()] == ["r.gene_lengths.tsv.gz"]
    for table in tables:
        np.testing.assert_array_equal(table["length"], [50, np.nan])
    (tmp_path / "own.gtf").write_text(GTF)
    assert sp.datasets.gene_lengths(tmp_path / "own.gtf")["length"].tolist() == [50, 70]
