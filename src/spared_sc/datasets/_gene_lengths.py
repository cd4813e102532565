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
        `"human"` (GENCODE v43 basic) or `"mouse"` (GENCODE vM33 basic): the table
        `gencode.<release>.basic.gene_lengths.tsv.gz` is read from the folder `annotation` of `settings.data_dir`, or of
        `settings.cache_dir`. When it is in neither, the annotation of that release (a GTF file of some tens of MB) is
        downloaded from GENCODE, checked against the release's md5 sums, and converted; the table is kept in the cache, or,
        with a warning, for this process only where the cache cannot be written.
        Or the path of a `.gtf`, or of a table `.tsv` or `.csv` with the columns below, each also as `.gz`.

    Returns
    -------
    One row per gene, with

    - `gene_id`: Ensembl id with its version
    - `gene_name`: symbol
    - `gene_type`: such as `protein_coding`
    - `chromosome`
    - `length`: bp covered by the exons of all transcripts of the gene; NaN where unknown. The mitochondrial genes of
      `"human"` and `"mouse"` have none, as in the tables that SpaRED published: their transcripts are many and vary with
      the quality of the tissue, and TPM are shares of all transcripts

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no gene table, or is damaged.
    ConnectionError
        The annotation is not on this machine and cannot be downloaded.

    Notes
    -----
    Annotation: Frankish et al. (2021), GENCODE 2021, Nucleic Acids Research 49, D916-D923.

    Examples
    --------
    >>> import spared_sc as sp
    >>> table = sp.datasets.gene_lengths("human")  # doctest: +SKIP
    >>> table = sp.datasets.gene_lengths("my_reference/genes.gtf")  # doctest: +SKIP
    """
    from spared_sc._core.genes import load_gene_table

    return load_gene_table(source)
