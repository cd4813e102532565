"""Annotation of genes: the lengths that TPM divides by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


def gene_lengths(source: str | Path = "human") -> pd.DataFrame:
    """Table of genes with their lengths, as :func:`spared_sc.pp.normalize_tpm` uses it.

    Parameters
    ----------
    source
        `"human"` (GENCODE v43, basic annotation) or `"mouse"` (GENCODE vM33, basic annotation): tables in the package,
        which need no network. Or the path of a `.gtf`, or of a table `.tsv` or `.csv` with the columns below, each also
        as `.gz`.

    Returns
    -------
    One row per gene, with

    - `gene_id`: Ensembl id with its version
    - `gene_name`: symbol
    - `gene_type`: such as `protein_coding`
    - `chromosome`
    - `length`: bp covered by the exons of all transcripts of the gene; NaN where unknown
    - `former_names`: symbols that the gene had in earlier annotations and that no gene has now, separated by `|`; empty
      where none are known, as in a `.gtf`. A table may lack this column

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no gene table, or is damaged.

    Notes
    -----
    Annotation: Frankish et al. (2021), GENCODE 2021, Nucleic Acids Research 49, D916-D923. The documentation of the
    recipe says where the former names come from.

    Examples
    --------
    >>> import spared_sc as sp
    >>> table = sp.datasets.gene_lengths("human").set_index("gene_name")
    >>> float(table["length"]["CCN1"]), table["former_names"]["CCN1"]
    (2278.0, 'CYR61')
    >>> table = sp.datasets.gene_lengths("my_reference/genes.gtf")  # doctest: +SKIP
    """
    from spared_sc._core.genes import load_gene_table

    return load_gene_table(source)
