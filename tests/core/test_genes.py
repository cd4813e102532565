"""Gene lengths: tables, GTF files, matching."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from spared_sc._core import genes
from spared_sc._core.genes import guess_organism, load_gene_table, match_lengths, parse_gtf, resolve_lengths

if TYPE_CHECKING:
    from pathlib import Path


COLUMNS = ["gene_id", "gene_name", "gene_type", "chromosome", "length", "former_names"]


def table_of(*rows: tuple) -> pd.DataFrame:
    """A table as it is loaded; former names are left out where there are none."""
    return pd.DataFrame([row if len(row) == len(COLUMNS) else (*row, "") for row in rows], columns=COLUMNS)


TABLE = table_of(
    ("ENSG00000000001.5", "AAA", "protein_coding", "chr1", 1000.0, "A-OLD|OLD|BBB"),
    ("ENSG00000000002.1", "BBB", "lncRNA", "chr1", 9000.0),
    ("ENSG00000000003.2", "BBB", "protein_coding", "chr2", 500.0),
    ("ENSG00000000004.2", "BBB", "protein_coding", "chr3", 700.0),
    ("ENSG00000000005.3_PAR_Y", "PAR", "protein_coding", "chrY", 320.0),
    ("ENSG00000000005.3", "PAR", "protein_coding", "chrX", 300.0),
    ("ENSG00000000006.1", "NKX2-1", "protein_coding", "chr14", 2000.0, "TITF1"),
    ("ENSG00000000007.1", "MT-X", "Mt_tRNA", "chrM", np.nan),
)


def adata_of(names: list[str], **var: list) -> ad.AnnData:
    return ad.AnnData(np.ones((2, len(names)), dtype=np.float32), var=pd.DataFrame(var, index=names))


def gtf_line(chromosome: str, feature: str, start: int, end: int, attributes: str) -> str:
    return f"{chromosome}\tHAVANA\t{feature}\t{start}\t{end}\t.\t+\t.\t{attributes}\n"


def write_gtf(path: Path, seed: int = 0) -> dict[str, int]:
    """Genes with random exons of several transcripts, and the bp that they cover, counted one by one."""
    rng = np.random.default_rng(seed)
    text, covered = "##format: gtf\n#!genome-build x\n", {}
    for number in range(1, 40):
        gene_id = f"ENSG{number:011d}.1"
        attributes = f'gene_id "{gene_id}"; gene_type "lncRNA"; gene_name "G{number}";'
        text += gtf_line("chr1", "gene", 1, 5000, attributes)
        places: set[int] = set()
        for _ in range(rng.integers(0, 9)):
            start = int(rng.integers(1, 4000))
            end = start + int(rng.integers(0, 900))
            places.update(range(start, end + 1))
            text += gtf_line("chr1", "exon", start, end, attributes + ' transcript_id "T"; exon_number 1;')
            text += gtf_line("chr1", "CDS", 1, 4999, attributes)
        covered[gene_id] = len(places)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return covered


@pytest.mark.parametrize("name", ["a.gtf", "a.gtf.gz"])
def test_exon_union_against_brute_force(tmp_path: Path, name: str):
    covered = write_gtf(tmp_path / name)
    table = load_gene_table(tmp_path / name)
    assert table.columns.tolist() == COLUMNS
    assert table["former_names"].eq("").all()
    assert table["gene_id"].tolist() == list(covered)
    assert table["gene_name"].tolist() == [f"G{i}" for i in range(1, 40)]
    assert set(table["gene_type"]) == {"lncRNA"}
    expected = np.array([np.nan if n == 0 else n for n in covered.values()], dtype=float)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(table["length"], expected)


def test_ensembl_style_gtf(tmp_path: Path):
    """No gene lines, gene_biotype for gene_type, no symbol, and one id on both sex chromosomes."""
    path = tmp_path / "a.gtf"
    path.write_text(
        gtf_line("X", "exon", 1, 10, 'gene_id "ENSG00000000001"; gene_biotype "protein_coding";')
        + gtf_line("Y", "exon", 101, 150, 'gene_id "ENSG00000000001"; gene_biotype "protein_coding";')
        + gtf_line("1", "exon", 1, 5, 'gene_id "ENSG00000000002"; gene_name "B"; gene_biotype "lncRNA";')
    )
    assert parse_gtf(path).to_numpy().tolist() == [
        ["ENSG00000000001", "ENSG00000000001", "protein_coding", "X", 10.0, ""],
        ["ENSG00000000002", "B", "lncRNA", "1", 5.0, ""],
    ]


def test_chr21_agrees_with_prepared_table(data_dir: Path):
    folder = data_dir / "annotation"
    parsed = parse_gtf(folder / "gencode.v43.basic.annotation.chr21.gtf.gz")
    prepared = load_gene_table(folder / "gencode.v43.basic.gene_lengths.tsv.gz")
    prepared = prepared[prepared["chromosome"] == "chr21"]
    assert len(parsed) == 898
    pd.testing.assert_frame_equal(
        parsed.sort_values("gene_id", ignore_index=True), prepared.sort_values("gene_id", ignore_index=True)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chr1\tx\texon\t1\t5\n", "found 5 fields, expected 9, after line 0"),
        ("# x\n" + gtf_line("1", "exon", 9, 5, 'gene_id "A";'), "found positions 9 to 5, after line 1"),
        ("1\tx\texon\tone\t5\t.\t+\t.\tx\n", "invalid literal"),
        (gtf_line("1", "exon", 1, 5, 'gene_name "A";'), "line 1: a exon without a gene_id"),
        (gtf_line("1", "gene", 1, 5, 'gene_id "A";'), "no exon lines"),
        ("", "no exon lines"),
    ],
)
def test_malformed_gtf(tmp_path: Path, content: str, message: str):
    (tmp_path / "a.gtf").write_text(content)
    with pytest.raises(ValueError, match=rf"a.gtf.*{message}"):
        parse_gtf(tmp_path / "a.gtf")


def test_truncated_gtf(tmp_path: Path):
    path = tmp_path / "a.gtf.gz"
    write_gtf(path)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"<html>not found</html>"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a.gtf.gz cannot be read as a GTF file.*download it again"):
            parse_gtf(path)


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz", "t.csv"])
def test_table_files(tmp_path: Path, name: str):
    table = TABLE.assign(gene_name=["NA", "nan", *TABLE["gene_name"][2:]])
    table.to_csv(tmp_path / name, sep="," if name.endswith("csv") else "\t", index=False)
    pd.testing.assert_frame_equal(load_gene_table(tmp_path / name), table)
    table.drop(columns="former_names").to_csv(tmp_path / name, sep="," if name.endswith("csv") else "\t", index=False)
    pd.testing.assert_frame_equal(load_gene_table(tmp_path / name), table.assign(former_names=""))


def test_bad_table_files(tmp_path: Path):
    path = tmp_path / "t.tsv"
    with pytest.raises(FileNotFoundError, match=r"expected 'human', 'mouse' or the path"):
        load_gene_table(path)
    TABLE.drop(columns="length").to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"t.tsv lacks the columns 'length' \(found 'gene_id'"):
        load_gene_table(path)
    TABLE.assign(length=[0, *TABLE["length"][1:]]).to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"1 genes have a length that is not a positive number \('ENSG00000000001.5'"):
        load_gene_table(path)
    pd.concat([TABLE, TABLE.iloc[:1]]).to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"1 genes have more than one length \('ENSG00000000001.5'"):
        load_gene_table(path)
    TABLE.assign(length="long").to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"t.tsv cannot be read as a gene table"):
        load_gene_table(path)
    path = tmp_path / "t.tsv.gz"
    TABLE.to_csv(path, sep="\t", index=False)
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ValueError, match=r"t.tsv.gz cannot be read as a gene table"):
        load_gene_table(path)


@pytest.fixture(scope="module", params=[("human", "ENSG"), ("mouse", "ENSMUSG")], ids=["human", "mouse"])
def packaged(request: pytest.FixtureRequest) -> tuple[str, str, pd.DataFrame]:
    """Organism, start of its ids and table in the package, read without data folder, cache and network."""
    organism, start = request.param
    with sp.settings.override(data_dir=None, cache_dir=None):
        return organism, start, load_gene_table(organism)


def test_packaged_table(packaged):
    _, start, table = packaged
    assert table.columns.tolist() == COLUMNS
    assert table["gene_id"].str.match(start + r"\d{11}\.\d+(_PAR_Y)?$").all()
    assert table["gene_id"].is_unique
    assert (table["length"] >= 1).all()
    assert (table["length"] % 1 == 0).all()
    assert table["gene_name"].ne("").all()
    assert (table["gene_type"] == "protein_coding").sum() > 19_000
    assert table.loc[table["chromosome"] == "chrM", "gene_type"].value_counts().to_dict() == {
        "Mt_tRNA": 22,
        "protein_coding": 13,
        "Mt_rRNA": 2,
    }


def test_packaged_lengths_are_those_of_the_annotation(packaged, data_dir: Path):
    organism, _, table = packaged
    release = {"human": "v43", "mouse": "vM33"}[organism]
    path = data_dir / "annotation" / f"gencode.{release}.basic.gene_lengths.tsv.gz"
    annotation = pd.read_csv(path, sep="\t", keep_default_na=False, na_values={"length": [""]})
    nuclear = annotation["length"].notna()
    assert (nuclear == (annotation["chromosome"] != "chrM")).all()
    pd.testing.assert_frame_equal(table[COLUMNS[:-2]], annotation[COLUMNS[:-2]], check_dtype=False)
    np.testing.assert_array_equal(table["length"][nuclear], annotation["length"][nuclear])


@pytest.mark.parametrize(
    ("organism", "symbol", "positions"),
    [  # of RefSeq NC_012920.1 and NC_005089.1; each of these genes is one exon
        ("human", "MT-RNR1", (648, 1601)),
        ("human", "MT-ND1", (3307, 4262)),
        ("human", "MT-CO1", (5904, 7445)),
        ("human", "MT-CYB", (14747, 15887)),
        ("mouse", "mt-Rnr2", (1094, 2675)),
        ("mouse", "mt-Co1", (5328, 6872)),
        ("mouse", "mt-Cytb", (14145, 15288)),
    ],
)
def test_mitochondrial_lengths(organism: str, symbol: str, positions: tuple[int, int]):
    match = resolve_lengths(adata_of([symbol]), organism)
    assert match.lengths.tolist() == [positions[1] - positions[0] + 1]


def test_former_names_in_the_package_name_one_gene_each(packaged):
    _, _, table = packaged
    names = table.loc[table["former_names"] != "", "former_names"].str.split("|").explode()
    assert names.is_unique
    assert not names.isin(table["gene_name"]).any()
    assert not names.str.match(r"ENS[A-Z]*G\d").any()


@pytest.mark.parametrize(
    ("organism", "former", "now"),
    [
        ("human", "CYR61", "CCN1"),
        ("human", "YARS", "YARS1"),
        ("human", "SEPN1", "SELENON"),
        ("human", "SEPT7", "SEPTIN7"),
        ("human", "ATP5B", "ATP5F1B"),
        ("human", "H2AFZ", "H2AZ1"),
        ("mouse", "Cyr61", "Ccn1"),
        ("mouse", "Usmg5", "Atp5md"),
        ("mouse", "Sepn1", "Selenon"),
    ],
)
def test_symbols_of_older_annotations(organism: str, former: str, now: str):
    by_former, by_present = (match_lengths(pd.Index([name]), None, load_gene_table(organism)) for name in (former, now))
    assert by_former.matched_by == {"id": 0, "symbol": 0, "former symbol": 1}
    np.testing.assert_array_equal(by_former.lengths, by_present.lengths)


@pytest.mark.parametrize("prefixes", [("GRCh38_", "mm10_"), ("GRCh38______", "GRCm39______"), ("hg19_", "mm10___")])
def test_mixed_references_match_their_own_species(prefixes: tuple[str, str]):
    """Symbols of both species, one that both could have, and former ones; with ids, and without."""
    human, mouse = ["ACTB", "CYR61", "MT-ND1"], ["Actb", "Cyr61", "mt-Nd1", "ACTB", "CYR61"]
    names = pd.Index([prefixes[0] + name for name in human] + [prefixes[1] + name for name in mouse])
    of_human = np.arange(8) < 3
    for organism, own, own_names in (("human", of_human, human), ("mouse", ~of_human, ["Actb", "Cyr61", "mt-Nd1"])):
        match = match_lengths(names, None, load_gene_table(organism))
        alone = match_lengths(pd.Index(own_names), None, load_gene_table(organism))
        assert not np.isfinite(match.lengths[~own]).any()
        np.testing.assert_array_equal(match.lengths[own][:3], alone.lengths)
    # Without prefixes, the ids say it.
    ids = pd.Series(["ENSG00000075624", "ENSMUSG00000029580", "ENSMUSG99999999999"])
    match = match_lengths(pd.Index(["ACTB", "Actb", "GAPDH"]), ids, load_gene_table("human"))
    assert np.isfinite(match.lengths).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("names", "ids", "expected"),
    [
        (["MT-CO1", "mt-Co1", "GRCh38_MT-CYB", "mm10___mt-Nd1", "MT1X", "MTOR", "AMT-1"], None, [1, 1, 1, 1, 0, 0, 0]),
        (["x", "y", "z"], ["ENSG00000198888.2", "ENSMUSG00000064341", "ENSG00000075624"], [1, 1, 0]),
        (["ENSG00000198888", "ENSG00000075624.7"], None, [1, 0]),
        ([], None, []),
    ],
)
def test_mitochondrial_genes(names: list[str], ids: list[str] | None, expected: list[int]):
    assert genes.mitochondrial(names, ids).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("name", "gene_id", "length"),
    [
        ("AAA", None, 1000),
        ("x", "ENSG00000000001", 1000),
        ("x", "ENSG00000000001.99", 1000),  # another version
        ("AAA", "ENSG00000000002.1", 9000),  # the id decides
        ("AAA", "ENSG99999999999", 1000),  # unknown id, known symbol
        ("ENSG00000000001.5", None, 1000),
        ("BBB", None, 700),  # protein-coding, then the longest
        ("BBB-1", None, 700),  # scanpy's suffix
        ("NKX2-1", None, 2000),  # no suffix: the symbol itself
        ("NKX2-1-2", None, 2000),
        ("OLD", None, 1000),  # a symbol that the gene had before
        ("A-OLD", None, 1000),
        ("TITF1-3", None, 2000),
        ("GRCh38_OLD", "x", 1000),
        ("PAR", None, 300),  # the copy on X, though that on Y is longer
        ("x", "ENSG00000000005", 300),
        ("x", "ENSG00000000005.3_PAR_Y", 320),
        ("GRCh38_AAA", None, 1000),
        ("GRCh38__AAA", None, 1000),
        ("hg19_AAA", "hg19_x", 1000),
        ("mm10___x", "mm10___ENSG00000000001.2", 1000),
        ("MT-X", None, np.nan),  # known, but without a length
        ("nothing", "nothing", np.nan),
        ("", None, np.nan),
    ],
)
def test_match_rules(name: str, gene_id: str | None, length: float):
    match = match_lengths(pd.Index([name]), None if gene_id is None else pd.Series([gene_id]), TABLE)
    np.testing.assert_array_equal(match.lengths, [length])
    assert match.unmatched == ([name] if np.isnan(length) else [])


@pytest.mark.parametrize(
    ("names", "ids", "lengths"),
    [
        # Across species: neither by an id of the other one nor by a prefix.
        (["AAA"], ["ENSMUSG00000000001"], [np.nan]),
        (["mm10___AAA", "GRCh38_AAA"], None, [np.nan, 1000]),
        (["GRCm39_AAA", "AAA"], None, [np.nan, 1000]),
        (["AAA", "AAA"], ["mm10___x", "x"], [np.nan, 1000]),
        # An old symbol that a gene with another id has now.
        (["old", "AAA"], ["ENSG00000000001", "ENSG88888888888"], [1000, np.nan]),
        (["old", "AAA"], ["ENSG00000000001", None], [1000, np.nan]),
        (["BBB", "BBB-1"], ["ENSG00000000004", "ENSG00000000003"], [700, 500]),
        # Ids among the names, symbols among the ids.
        (["ENSG00000000002.7"], ["AAA"], [9000]),
        # A former symbol of a gene that is there by its present one, or by its id.
        (["OLD", "AAA"], None, [np.nan, 1000]),
        (["OLD", "x"], [None, "ENSG00000000001"], [np.nan, 1000]),
        (["mm10_OLD", "OLD"], None, [np.nan, 1000]),
        # Case makes another name.
        (["aaa", "Aaa"], None, [np.nan, np.nan]),
        (["ensg00000000001"], None, [np.nan]),
    ],
)
def test_the_wrong_half_never_wins(names: list[str], ids: list | None, lengths: list[float]):
    match = match_lengths(pd.Index(names), None if ids is None else pd.Series(ids), TABLE)
    np.testing.assert_array_equal(match.lengths, lengths)


def test_ids_and_symbols_that_disagree_are_said(caplog: pytest.LogCaptureFixture):
    names = ["BBB", "AAA", "NKX2-1"]  # the first two are exchanged
    match = match_lengths(pd.Index(names), pd.Series(["ENSG00000000001", "ENSG00000000002", "ENSG00000000006"]), TABLE)
    np.testing.assert_array_equal(match.lengths, [1000, 9000, 2000])
    assert match.disagreeing == ["BBB", "AAA"]
    assert "the symbols of 2 are those of other genes than their ids, and the ids were used" in match.summary()
    adata = adata_of(names, gene_ids=["ENSG00000000001", "ENSG00000000002", "ENSG00000000006"])
    resolve_lengths(adata, pd.Series({"ENSG00000000001": 10, "ENSG00000000002": 20, "ENSG00000000006": 30}))
    assert "other genes than their ids" not in caplog.text  # this table has no symbols


def test_genes_of_one_object_in_another(caplog: pytest.LogCaptureFixture):
    own_ids = ["ENSG00000000001.1", "GRCh38_ENSG00000000002", "ENSG00000000003", None, "ENSG00000000005", "x"]
    own = ["A", "B", "C", "D", "E", "F"]
    other_ids = ["ENSG00000000001.9", "ENSG00000000009", "ENSG00000000002", "ENSG00000000004", "ENSG00000000003", "F"]
    other = ["renamed", "A", "B", "D", "B-1", "F"]
    at = genes.match_genes(own, own_ids, other, other_ids)
    assert at.tolist() == [0, 2, 4, 3, -1, 5]
    assert genes.match_genes(own, None, other, other_ids).tolist() == [1, 2, -1, 3, -1, 5]
    assert genes.match_genes(["A"], ["ENSG00000000007"], other, other_ids).tolist() == [-1]
    assert "1 genes have the same name and another id, and are not matched: 'A'" in caplog.text


def test_match_counts_and_summary():
    names = pd.Index(["a", "AAA", "BBB-1", "MT-X", "zzz", "TITF1"])
    ids = pd.Series(["ENSG00000000003", "x", None, "ENSG00000000007", "y", None])
    match = match_lengths(names, ids, TABLE)
    np.testing.assert_array_equal(match.lengths, [500, 1000, 700, np.nan, np.nan, 2000])
    assert match.matched_by == {"id": 1, "symbol": 2, "former symbol": 1}
    assert match.unmatched == ["MT-X", "zzz"]
    found = "lengths for 4 of 6 genes (1 by id, 2 by symbol, 1 by former symbol)"
    assert match.summary() == found + "; 2 without: 'MT-X', 'zzz'"


def test_match_does_not_depend_on_the_table_order():
    names = pd.Index(["OLD", "BBB", "PAR", "NKX2-1"])
    expected = match_lengths(names, None, TABLE).lengths
    for seed in range(5):
        shuffled = TABLE.sample(frac=1, random_state=seed)
        np.testing.assert_array_equal(match_lengths(names, None, shuffled).lengths, expected)


def test_real_section_by_id_and_by_symbol(data_dir: Path):
    """Former symbols included, both ways give nearly all genes the same length."""
    sections = [("villacampa/lung_organoid/V19D02-088_A1", 0.94), ("mouse_embryo_cytassist", 0.99)]
    for folder, least in sections:
        adata = sp.datasets.read_visium(data_dir / folder, load_images=False)
        with sp.settings.override(data_dir=None):
            by_id = resolve_lengths(adata, "auto")
            del adata.var["gene_ids"]
            by_symbol = resolve_lengths(adata, "auto")
        assert np.isfinite(by_id.lengths).mean() > 0.98
        assert by_id.matched_by["id"] > 100 * by_id.matched_by["symbol"]
        assert by_symbol.matched_by["former symbol"] > 1000
        both = np.isfinite(by_id.lengths) & np.isfinite(by_symbol.lengths)
        assert both.mean() > least
        assert (by_id.lengths == by_symbol.lengths)[both].mean() > 0.998


@pytest.mark.parametrize(
    ("names", "ids", "organism"),
    [
        (["x", "y"], ["ENSG00000000001", "ENSG00000000002.4"], "human"),
        (["x", "y"], ["ENSMUSG00000000001", "mm10_ENSMUSG00000000002"], "mouse"),
        (["ENSMUSG00000000001.1"], None, "mouse"),
        (["ACTB", "GAPDH", "C1orf112", "MT-CO1"], None, "human"),
        (["Actb", "Gapdh", "Gm1234", "mt-Co1"], None, "mouse"),
        (["GRCh38_ACTB", "GRCh38_GAPDH"], None, "human"),
    ],
)
def test_guess_organism(names: list[str], ids: list[str] | None, organism: str):
    assert guess_organism(pd.Index(names), None if ids is None else pd.Series(ids)) == organism


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["Actb", "Gapdh"], ["ENSRNOG00000000001", "ENSRNOG00000000002"]),  # rat symbols look like those of mice
        (["ACTB", "Actb"], ["ENSG00000000001", "ENSMUSG00000000001"]),
        (["ACTB", "Actb"], None),
        (["1", "2"], None),
        ([], None),
    ],
)
def test_organism_cannot_be_told(names: list[str], ids: list[str] | None):
    with pytest.raises(ValueError, match=r'gene_lengths="human", "mouse"'):
        guess_organism(pd.Index(names, dtype=object), None if ids is None else pd.Series(ids))


def test_resolve_none_and_column():
    adata = adata_of(["a", "b", "c"], gene_length=[100, 200.0, np.nan])
    assert resolve_lengths(adata, None) is None
    match = resolve_lengths(adata, "auto")
    np.testing.assert_array_equal(match.lengths, [100, 200, np.nan])
    assert match.unmatched == ["c"]
    assert match.summary() == "lengths for 2 of 3 genes (2 by adata.var[\"gene_length\"]); 1 without: 'c'"
    assert resolve_lengths(sp.datasets.synthetic(n_libraries=1, n_genes=5, shape=(3, 3)), "auto").unmatched == []


@pytest.mark.parametrize("kind", [dict, pd.Series])
def test_resolve_user_lengths(kind):
    adata = adata_of(["A", "B-1", "C"], gene_ids=["x", "y", "ENSG00000000003.7"])
    match = resolve_lengths(adata, kind({"GRCh38_A": 10, "B": 20, "ENSG00000000003": 30, "other": 40}))
    np.testing.assert_array_equal(match.lengths, [10, 20, 30])
    assert match.matched_by == {"id": 1, "symbol": 2, "former symbol": 0}


def test_resolve_path(tmp_path: Path):
    TABLE.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    for path in (tmp_path / "t.tsv", str(tmp_path / "t.tsv")):
        np.testing.assert_array_equal(resolve_lengths(adata_of(["BBB", "AAA"]), path).lengths, [700, 1000])


def test_resolve_errors():
    adata = adata_of(["A", "B"])
    for bad in (0, -5, np.inf):
        with pytest.raises(ValueError, match=r"1 genes have a length that is not a positive number \('A'\)"):
            resolve_lengths(adata, {"A": bad, "B": 1})
        with pytest.raises(ValueError, match=r"gene_length.*not a positive number \('A'\)"):
            resolve_lengths(adata_of(["A", "B"], gene_length=[bad, 1]), "auto")
    with pytest.raises(ValueError, match=r"more than one length \('A'\)"):
        resolve_lengths(adata, pd.Series([1, 2], index=["A", "A"]))
    with pytest.raises(ValueError, match=r"more than one length \('ENSG00000000001'\)"):
        resolve_lengths(adata, {"ENSG00000000001.1": 1, "ENSG00000000001.2": 2})
    with pytest.raises(ValueError, match=r"no numbers"):
        resolve_lengths(adata, {"A": "long"})
    with pytest.raises(ValueError, match=r"none of the 2 genes \(such as 'A', 'B'\).*'x'.*gene_lengths=None"):
        resolve_lengths(adata, {"x": 1})
    with pytest.raises(TypeError, match=r"gene_lengths is a int"):
        resolve_lengths(adata, 5)
    with pytest.raises(FileNotFoundError, match=r"no gene table 'humans'"):
        resolve_lengths(adata, "humans")
