"""The script that makes the gene tables of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.docs import module
from spared_sc._core.genes import load_gene_table

SCRIPTS = Path(__file__).parents[2] / "scripts"
script = module(SCRIPTS / "gene_tables.py")


def exon(chromosome: str, start: int, end: int, gene: str, symbol: str, kind: str = "protein_coding") -> str:
    attributes = f'gene_id "{gene}"; gene_type "{kind}"; gene_name "{symbol}"; transcript_id "T";'
    return f"{chromosome}\tHAVANA\texon\t{start}\t{end}\t.\t+\t.\t{attributes}\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """An annotation with overlapping exons, a copy on Y and old names of its genes; and the folder it lies in."""
    text = exon("chr1", 11, 30, "ENSG00000000001.2", "A") + exon("chr1", 21, 40, "ENSG00000000001.2", "A")
    text += exon("chr1", 101, 110, "ENSG00000000002.1", "B") + exon("chrX", 1, 7, "ENSG00000000003.5", "C")
    text += exon("chrY", 1, 7, "ENSG00000000003.5_PAR_Y", "C") + exon("chrM", 1, 9, "ENSG00000000004.1", "MT-A")
    (tmp_path / "a.gtf").write_text(text)
    (tmp_path / "84.tsv").write_text(
        "ENSG00000000001\tOLDA\tGene Expression\n"
        "ENSG00000000002\tA\tGene Expression\n"  # the symbol of another gene now
        "ENSG00000000003\tTWICE\tGene Expression\n"
        "ENSG00000000009\tGONE\tGene Expression\n"
        "ENSG00000000004\tENSG00000000004\tGene Expression\n"
    )
    (tmp_path / "93.tsv").write_text("ENSG00000000001.1\tA1\nENSG00000000002\tTWICE\nENSG00000000003\tNA\n")
    return tmp_path / "a.gtf", tmp_path


def test_from_a_gtf_file(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    gtf, folder = files
    former = [str(folder / "84.tsv"), str(folder / "93.tsv")]
    script.main(["human", str(gtf), "--former", *former, "--folder", str(folder)])
    said = capsys.readouterr().out
    assert "human.tsv.xz: 5 genes, 0 without a length, 3 former names" in said
    table = load_gene_table(folder / "human.tsv.xz")
    assert table["gene_id"].tolist() == [f"ENSG0000000000{x}" for x in ("1.2", "2.1", "3.5", "3.5_PAR_Y", "4.1")]
    np.testing.assert_array_equal(table["length"], [30, 10, 7, 7, 9])
    assert table["former_names"].tolist() == ["A1|OLDA", "", "NA", "", ""]
    content = (folder / "human.tsv.xz").read_bytes()
    script.main(["human", str(gtf), "--former", *former[::-1], "--folder", str(folder)])
    assert (folder / "human.tsv.xz").read_bytes() == content


def test_from_a_table_and_a_gtf_file(files: tuple[Path, Path]):
    """The first says which genes there are; the others give lengths that it lacks, and no more."""
    gtf, folder = files
    table = load_gene_table(gtf)
    table.iloc[:4].assign(length=[np.nan, 99, np.nan, np.nan]).to_csv(folder / "t.tsv", sep="\t", index=False)
    made = script.make_table([folder / "t.tsv", gtf], [])
    assert made["gene_id"].tolist() == table["gene_id"].tolist()[:4]
    assert made["length"].tolist() == [30, 99, 7, 7]


def test_packaged_tables_are_made_by_the_script(data_dir: Path):
    """All but the former names, whose lists are not here."""
    for organism, release in (("human", "v43"), ("mouse", "vM33")):
        lengths = data_dir / "annotation" / f"gencode.{release}.basic.gene_lengths.tsv.gz"
        made = script.make_table([lengths, SCRIPTS / "mitochondria.gtf"], [])
        packaged = load_gene_table(organism)
        assert packaged["former_names"].ne("").sum() > 4000
        pd.testing.assert_frame_equal(packaged.drop(columns="former_names"), made.drop(columns="former_names"))


def test_chr21_of_the_package_is_that_of_the_gtf_file(data_dir: Path):
    made = script.make_table([data_dir / "annotation" / "gencode.v43.basic.annotation.chr21.gtf.gz"], [])
    packaged = load_gene_table("human").query("chromosome == 'chr21'")
    columns = ["gene_id", "gene_name", "gene_type", "length"]
    made, packaged = (t[columns].sort_values("gene_id", ignore_index=True) for t in (made, packaged))
    pd.testing.assert_frame_equal(made, packaged)


def test_lengths_of_chr21_by_counting_positions(data_dir: Path):
    """Against the sets of positions that the exons cover."""
    import gzip

    places: dict[str, set[int]] = {}
    with gzip.open(data_dir / "annotation" / "gencode.v43.basic.annotation.chr21.gtf.gz", "rt") as lines:
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if len(fields) == 9 and fields[2] == "exon":
                gene = dict(pair.split(" ", 1) for pair in fields[8].rstrip(";").split("; "))["gene_id"].strip('"')
                places.setdefault(gene, set()).update(range(int(fields[3]), int(fields[4]) + 1))
    packaged = load_gene_table("human").set_index("gene_id")["length"]
    assert len(places) > 800
    assert {gene: len(covered) for gene, covered in places.items()} == packaged[list(places)].to_dict()
