"""Gene lengths for TPM: annotation tables (GENCODE), and the matching of a data set's genes to them."""

from __future__ import annotations

import gzip
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spared_sc._core.keys import Key
from spared_sc._core.report import logger
from spared_sc._core.validate import listing

if TYPE_CHECKING:
    from anndata import AnnData

_COLUMNS = ("gene_id", "gene_name", "gene_type", "chromosome", "length")
_FORMER = "former_names"
ORGANISMS = ("human", "mouse")  # with a table in the package, which scripts/gene_tables.py makes
_TABLES = Path(__file__).with_name("gene_tables")
# References of several species put the genome in front of ids and symbols: GRCh38_, GRCh38__, mm10___.
_GENOME_PREFIX = re.compile(r"^(?:GRCh|GRCm|hg|mm)\d+_+")
# GENCODE marks the copies of the pseudo-autosomal genes on chromosome Y by their ending.
_ENSEMBL_ID = r"^(ENS[A-Z]*G\d{6,})(?:\.\d+)?(_PAR_Y)?$"
_ENSEMBL_SPECIES = r"^ENS([A-Z]*)G\d"  # empty for human
_GENOME = r"^(GRCh|GRCm|hg|mm)\d+_"
_GENOMES = {"GRCh": "", "hg": "", "GRCm": "MUS", "mm": "MUS"}
_FEW = 0.05  # share of the genes whose symbols changed between two annotations


@dataclass(frozen=True)
class GeneMatch:
    """Lengths found for a data set's genes, and how they were found."""

    lengths: np.ndarray  # (n_genes,) bp, NaN where unknown
    matched_by: dict[str, int]  # way of matching -> number of genes that got a length by it
    unmatched: list[str]  # genes without a length
    disagreeing: list[str]  # genes whose symbol is that of another gene than their id; the id was used

    def summary(self) -> str:
        """One line for the log."""
        ways = ", ".join(f"{count} by {way}" for way, count in self.matched_by.items() if count)
        text = f"lengths for {sum(self.matched_by.values())} of {len(self.lengths)} genes ({ways or 'no match'})"
        if self.unmatched:
            text += f"; {len(self.unmatched)} without: {listing(self.unmatched, 3)}"
        if self.disagreeing:
            text += (
                f"; the symbols of {len(self.disagreeing)} are those of other genes than their ids, and the ids were used: "
                f"{listing(self.disagreeing, 3)}"
            )
        return text


def load_gene_table(source: str | Path) -> pd.DataFrame:
    """Table of genes with their lengths, from an organism or a path; see `spared_sc.datasets.gene_lengths`."""
    if str(source) in ORGANISMS:
        return _read_table(_TABLES / f"{source}.tsv.xz")
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no gene table {str(source)!r}: expected {listing(ORGANISMS)} or the path of a .gtf, .tsv or .csv "
            "file (also .gz)."
        )
    return parse_gtf(path) if ".gtf" in path.suffixes else _read_table(path)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        # Without the default missing values: a gene may be called "NA" or "nan".
        table = pd.read_csv(
            path,
            sep="," if ".csv" in path.suffixes else "\t",
            dtype=dict.fromkeys((*_COLUMNS[:-1], _FORMER), str) | {"length": float},
            keep_default_na=False,
            na_values={"length": ["", "NA", "nan", "NaN"]},
        )
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise ValueError(
            f"{path.name} cannot be read as a gene table ({error}): expected tab-separated columns "
            f"{listing(_COLUMNS)} (commas in a .csv), the length in bp."
        ) from error
    missing = [column for column in _COLUMNS if column not in table]
    if missing:
        raise ValueError(
            f"{path.name} lacks the columns {listing(missing)} (found {listing(table.columns)}): a gene table has "
            f"{listing(_COLUMNS)}; pass a plain list of lengths as a pandas Series or a dict."
        )
    _check_lengths(table["gene_id"], table["length"], path.name)
    return table.assign(**{_FORMER: table.get(_FORMER, "")})[[*_COLUMNS, _FORMER]]


def _check_lengths(names: pd.Series, lengths: pd.Series, where: str) -> None:
    wrong = names[(lengths <= 0) | np.isinf(lengths)]
    if len(wrong):
        raise ValueError(
            f"{where}: {len(wrong)} genes have a length that is not a positive number ({listing(wrong, 5)}); "
            "give the length in bp, or leave it out where it is unknown."
        )
    twice = names[names.duplicated()].unique()
    if len(twice):
        raise ValueError(f"{where}: {len(twice)} genes have more than one length ({listing(twice, 5)}); keep one each.")


def parse_gtf(path: str | Path) -> pd.DataFrame:
    """Table as of `load_gene_table` from a GTF file such as those of GENCODE and Ensembl, genes in the file's order."""
    path = Path(path)
    genes: dict[str, tuple[int, str, str, str]] = {}  # id -> number, symbol, type, chromosome
    codes, starts, ends = [], [], []
    for number, chromosome, feature, start, end, attributes in _gtf_lines(path):
        gene_id = _attribute(attributes, "gene_id")
        if not gene_id:
            raise ValueError(f"{path.name}, line {number}: a {feature} without a gene_id; expected a GTF file.")
        if gene_id not in genes:
            symbol = _attribute(attributes, "gene_name") or gene_id
            kind = _attribute(attributes, "gene_type") or _attribute(attributes, "gene_biotype")
            genes[gene_id] = (len(genes), symbol, kind, chromosome)
        code, _, _, home = genes[gene_id]
        # Some annotations give the copies on X and Y the same id: only the exons of the first are counted.
        if feature == "exon" and chromosome == home:
            codes.append(code)
            starts.append(start)
            ends.append(end)
    if not codes:
        raise ValueError(f"{path.name} has no exon lines: expected a GTF file with genes and exons.")
    table = pd.DataFrame([(gene_id, *values[1:]) for gene_id, values in genes.items()], columns=list(_COLUMNS[:-1]))
    table["length"] = _covered(np.array(codes), np.array(starts), np.array(ends), len(genes))
    return table.assign(**{_FORMER: ""})


def _gtf_lines(path: Path) -> Iterator[tuple[int, str, str, int, int, str]]:
    """Line number, chromosome, feature, start, end and attributes of the gene and exon lines."""
    number = 0
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for number, line in enumerate(file, start=1):
                fields = _gtf_fields(line)
                if fields is not None:
                    yield number, *fields
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise ValueError(
            f"{path.name} cannot be read as a GTF file: {error}, after line {max(number - 1, 0)}. "
            "It seems to be cut short or to be of another kind: download it again."
        ) from error


def _gtf_fields(line: str) -> tuple[str, str, int, int, str] | None:
    """Chromosome, feature, start, end and attributes; `None` for a line that is neither a gene nor an exon."""
    if line.startswith("#") or line == "\n":
        return None
    fields = line.split("\t", 8)
    if len(fields) != 9:
        raise ValueError(f"found {len(fields)} fields, expected 9")
    if fields[2] not in ("exon", "gene"):
        return None
    start, end = int(fields[3]), int(fields[4])
    if not 1 <= start <= end:
        raise ValueError(f"found positions {start} to {end}")
    return fields[0], fields[2], start, end, fields[8]


def _attribute(attributes: str, name: str) -> str:
    """Value of one attribute of a GTF line, empty when it is not there."""
    # Searching the text is several times faster than splitting all attributes of two million lines.
    start = attributes.find(name + ' "')
    if start < 0:
        return ""
    start += len(name) + 2
    end = attributes.find('"', start)
    return attributes[start:end] if end > 0 else ""


def _covered(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray, n_genes: int) -> np.ndarray:
    """Positions covered by closed intervals, per gene; NaN for a gene without intervals."""
    order = np.lexsort((starts, codes))
    # Genes are laid out one after the other, so that one running maximum serves them all.
    offset = codes[order] * (ends.max() + 1)
    starts, ends = starts[order] + offset, ends[order] + offset
    reached = np.maximum.accumulate(np.r_[0, ends[:-1]])  # end of all intervals before this one
    new = np.maximum(ends - np.maximum(starts - 1, reached), 0)
    length = np.bincount(codes[order], weights=new, minlength=n_genes)
    return np.where(length > 0, length, np.nan)


def _without_genome(names: Any) -> pd.Series:
    return pd.Series(np.asarray(names, dtype=str), dtype=object).str.replace(_GENOME_PREFIX, "", regex=True)


def _ensembl_ids(names: pd.Series) -> pd.Series:
    """Ensembl ids without their version; NaN for names of another kind."""
    parts = names.str.extract(_ENSEMBL_ID)
    return parts[0] + parts[1].fillna("")


def _position(names: pd.Series, known: pd.Series) -> np.ndarray:
    """Index label in `known` of the first match of each name, -1 without one."""
    known = known[known.notna() & (known != "")].drop_duplicates()
    if not len(known):
        return np.full(len(names), -1)
    place = pd.Index(known.to_numpy()).get_indexer(pd.Index(names.to_numpy(dtype=object)))
    return np.where(place >= 0, known.index.to_numpy()[place], -1)


def match_lengths(names: pd.Index, ids: pd.Series | None, table: pd.DataFrame) -> GeneMatch:
    """Lengths of genes with these names and, where there are some, ids, from a table as of `load_gene_table`.

    Ensembl ids come first (those in `ids`, then those in `names`), without their version; then symbols as they are; then
    symbols that the gene had before; then both without the `-1` that scanpy adds to repeated ones. A symbol is not matched
    across species, which ids and genome prefixes such as `GRCh38_` name, nor to a gene that another one of the data has by
    its id: it is then an old symbol. An old symbol is not matched to a gene that another one of the data has by its id or
    its present symbol. Of several genes with the same symbol, protein-coding ones come first, then the longest.
    """
    table = table.reset_index(drop=True)
    symbols, own_ids = _without_genome(names), canonical_ids(names, ids)
    table_ids = _ensembl_ids(table["gene_id"])
    bare = symbols.str.replace(r"-\d+$", "", regex=True)
    present, former = _ranked_symbols(table), _former_symbols(table)

    by_id, by_symbol = _position(own_ids, table_ids), _position(symbols, present)
    disagreeing = (by_id >= 0) & (by_symbol >= 0) & (table["gene_name"].reindex(by_id).to_numpy() != symbols.to_numpy())
    by_former, by_bare = _position(symbols, former), _position(bare, present)
    by_symbol = np.where((by_symbol < 0) & (by_former < 0), by_bare, by_symbol)
    by_former = np.where(by_former < 0, _position(bare, former), by_former)
    foreign = _foreign(names, ids, own_ids, table_ids)
    by_symbol[foreign | np.isin(by_symbol, by_id[by_id >= 0])] = -1
    by_former[foreign | np.isin(by_former, np.r_[by_id[by_id >= 0], by_symbol[by_symbol >= 0]])] = -1

    ways = {"id": by_id, "symbol": by_symbol, "former symbol": by_former}
    row = np.full(len(symbols), -1)  # of the table
    matched_by = {}
    for way, place in ways.items():
        new = (row < 0) & (place >= 0)
        row[new] = place[new]
        matched_by[way] = int((new & table["length"].notna().reindex(row, fill_value=False).to_numpy()).sum())
    lengths = table["length"].astype(float).reindex(row).to_numpy()  # NaN where nothing was found
    return GeneMatch(
        lengths=lengths,
        matched_by=matched_by,
        unmatched=[str(gene) for gene in np.asarray(names)[np.isnan(lengths)]],
        disagreeing=[str(gene) for gene in np.asarray(names)[disagreeing]],
    )


def _ranked_symbols(table: pd.DataFrame) -> pd.Series:
    """Symbols of the table, of genes that share one the best first."""
    ranks = table.assign(
        noncoding=table["gene_type"] != "protein_coding",
        copy_on_y=table["gene_id"].str.endswith("_PAR_Y"),
        shorter=-table["length"],
    )
    return ranks.sort_values(["noncoding", "copy_on_y", "shorter"], kind="stable")["gene_name"]


def _former_symbols(table: pd.DataFrame) -> pd.Series:
    """Symbols that one gene alone had before and none has now, with the gene's index label."""
    symbols = table.loc[table[_FORMER] != "", _FORMER].str.split("|").explode()
    return symbols[~symbols.duplicated(keep=False) & ~symbols.isin(table["gene_name"])]


def mitochondrial(names: Any, ids: Any = None) -> np.ndarray:
    """Which genes lie on the mitochondrial genome: by Ensembl id, else by a symbol such as `MT-CO1` or `mt-Co1`."""
    own_ids = canonical_ids(names, ids)
    found = _without_genome(names).str.match("(?i)mt-").to_numpy(dtype=bool)
    for organism, start in (("human", "ENSG"), ("mouse", "ENSMUSG")):
        if own_ids.str.startswith(start, na=False).any():
            table = load_gene_table(organism)
            found = found | own_ids.isin(_ensembl_ids(table.loc[table["chromosome"] == "chrM", "gene_id"])).to_numpy()
    return found


def canonical_ids(names: Any, ids: Any) -> pd.Series:
    """Ensembl id of each gene without genome and version, from its id or else its name; NaN where neither is one."""
    of_names = _ensembl_ids(_without_genome(names))
    if ids is None:
        return of_names
    of_ids = _ensembl_ids(_without_genome(ids))
    return of_ids.where(of_ids.notna(), of_names)


def _foreign(names: Any, ids: Any, own_ids: pd.Series, table_ids: pd.Series) -> np.ndarray:
    """Genes that are of a species of which the table has no gene."""
    species = own_ids.astype(object).str.extract(_ENSEMBL_SPECIES, expand=False)
    for texts in (names, ids):
        if texts is not None:
            prefix = pd.Series(np.asarray(texts, dtype=str), dtype=object).str.extract(_GENOME, expand=False)
            species = species.where(species.notna(), prefix.map(_GENOMES))
    known = set(table_ids.astype(object).str.extract(_ENSEMBL_SPECIES, expand=False).dropna())
    return (species.notna() & ~species.isin(known)).to_numpy() if known else np.zeros(len(species), dtype=bool)


def saved_ids(adata: AnnData, genes: np.ndarray) -> list[str] | None:
    """Ensembl ids of these columns for a model's card, empty where a gene has none; `None` where no gene has one."""
    ids = canonical_ids(adata.var_names, adata.var.get(Key.var.gene_ids))
    if ids.isna().all():
        return None
    return ids.where(ids.notna(), "").iloc[genes].astype(str).tolist()


def match_genes(names: Any, ids: Any, other_names: Any, other_ids: Any) -> np.ndarray:
    """Where the genes of one object are among those of another, -1 for none: by Ensembl id, else by name.

    Genes with the same name and different ids are different genes. What is matched by what goes to the log.
    """
    own, other = canonical_ids(names, ids), canonical_ids(other_names, other_ids)
    by_id = _position(own, other)
    by_name = pd.Index(other_names).get_indexer(pd.Index(names))
    others = (by_name >= 0) & own.notna().to_numpy() & other.reindex(by_name).notna().to_numpy()
    others &= own.to_numpy() != other.reindex(by_name).to_numpy()
    taken = np.isin(by_name, by_id[by_id >= 0])
    at = np.where(by_id >= 0, by_id, np.where(others | taken, -1, by_name))
    renamed = [str(name) for name in np.asarray(names)[(by_id >= 0) & (by_id != by_name)]]
    if renamed:
        logger.info("%d genes have the same id under another name: %s", len(renamed), listing(renamed, 3))
    if (others & (by_id < 0)).any():
        wrong = np.asarray(names)[others & (by_id < 0)]
        logger.warning(
            "%d genes have the same name and another id, and are not matched: %s", len(wrong), listing(wrong, 3)
        )
    return at


def guess_organism(names: pd.Index, ids: pd.Series | None) -> str:
    """`"human"` or `"mouse"`, from Ensembl ids, or from how the symbols are written (`ACTB` or `Actb`)."""
    symbols = _without_genome(names)
    known = _ensembl_ids(symbols)
    if ids is not None:
        known = _ensembl_ids(_without_genome(ids)).fillna(known)
    known = known.dropna()
    if len(known):
        share = {"human": known.str.match(r"ENSG\d").mean(), "mouse": known.str.match(r"ENSMUSG\d").mean()}
    else:
        words = symbols[symbols.str.contains(r"[A-Za-z].*[A-Za-z]")]
        share = {"human": (words == words.str.upper()).mean(), "mouse": (words == words.str.capitalize()).mean()}
    best = max(share, key=lambda organism: share[organism])
    # Well above one half, since a reference of two species is neither; an empty data set has NaN.
    if not share[best] >= (0.9 if len(known) else 0.6):
        raise ValueError(
            f"the organism cannot be told from the genes ({listing(np.asarray(names), 5)}): pass "
            'gene_lengths="human", "mouse", the path of a gene table, or None for counts per million.'
        )
    return best


def resolve_lengths(
    adata: AnnData, gene_lengths: str | Path | pd.Series | Mapping[str, float] | None
) -> GeneMatch | None:
    """Lengths of the genes of an AnnData; `gene_lengths` as in `pp.normalize_tpm`, `None` without lengths."""
    if gene_lengths is None:
        return None
    names, ids = adata.var_names, adata.var.get(Key.var.gene_ids)
    if isinstance(gene_lengths, str) and gene_lengths == "auto":
        if Key.var.gene_length in adata.var:
            return _from_column(adata)
        gene_lengths = guess_organism(names, ids)
        logger.info("the gene names are those of %s", gene_lengths)
    if isinstance(gene_lengths, pd.Series | Mapping):
        table, source = _table_of(gene_lengths), "gene_lengths"
    elif isinstance(gene_lengths, str | Path):
        table, source = load_gene_table(gene_lengths), f"the gene table {str(gene_lengths)!r}"
    else:
        raise TypeError(
            f"gene_lengths is a {type(gene_lengths).__name__}: expected 'auto', 'human', 'mouse', a path, "
            "a pandas Series, a dict, or None."
        )
    match = match_lengths(names, ids, table)
    if len(match.disagreeing) > _FEW * len(names):
        logger.warning(
            "the symbols of %d of %d genes are those of other genes than their ids (such as %s): the ids were used; check "
            "that both are of the same rows",
            len(match.disagreeing),
            len(names),
            listing(match.disagreeing, 3),
        )
    if len(match.unmatched) == len(names):
        raise ValueError(
            f"none of the {len(names)} genes (such as {listing(names, 3)}) has a length in {source} (with "
            f"{listing(table['gene_id'].where(table['gene_id'] != '', table['gene_name']), 3)}): pass the lengths of "
            'the right organism, put Ensembl ids into adata.var["gene_ids"], or pass gene_lengths=None for counts '
            "per million."
        )
    return match


def _from_column(adata: AnnData) -> GeneMatch:
    where = f'adata.var["{Key.var.gene_length}"]'
    lengths = _numbers(adata.var[Key.var.gene_length], where)
    _check_lengths(adata.var_names.to_series(), lengths, where)
    unknown = lengths.isna().to_numpy()
    return GeneMatch(
        lengths=lengths.to_numpy(dtype=float),
        matched_by={where: int((~unknown).sum())},
        unmatched=adata.var_names[unknown].tolist(),
        disagreeing=[],
    )


def _table_of(lengths: pd.Series | Mapping[str, float]) -> pd.DataFrame:
    series = lengths if isinstance(lengths, pd.Series) else pd.Series(lengths, dtype=object)
    names = _without_genome(series.index)
    ids = _ensembl_ids(names)
    lengths = _numbers(series, "gene_lengths").reset_index(drop=True)
    # Checked without their versions: two versions of an id are the same gene.
    _check_lengths(ids.fillna(names), lengths, "gene_lengths")
    return pd.DataFrame(
        {
            "gene_id": ids.fillna(""),
            "gene_name": names.where(ids.isna(), ""),
            "gene_type": "",
            "chromosome": "",
            "length": lengths,
            _FORMER: "",
        }
    )


def _numbers(values: pd.Series, where: str) -> pd.Series:
    try:
        return pd.to_numeric(values).astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds values that are no numbers ({error}): give lengths in bp.") from error
