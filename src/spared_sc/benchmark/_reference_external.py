from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from spared_sc._core.benchmark_tables import ALL, PUBLISHED
from spared_sc.benchmark._tables import PREDICTION, higher_is_better

if TYPE_CHECKING:
    import pandas as pd

_FILE = "reference_external.csv"
_PROTOCOL = "SpaRED's web site"


def reference_external() -> pd.DataFrame:
    """Scores of ten models on SpaRED's 26 data sets, as its authors published them.

    They were not computed by this package, and other code, splits of patches and searches of learning rates are behind
    them: they never enter a test together with scores of your own.

    Returns
    -------
    A table with the columns of :func:`spared_sc.benchmark.results` that apply, `status="published"`, and the metrics `mse`
    and `pcc`, both on detected entries of all sections together. `role` is `"test"`, or `"val"` for the 15 data sets
    without a test split, whose scores are those of the validation sections on which the models were selected.

    Notes
    -----
    From the project page of SpaRED (Ruiz et al. 2025, doi:10.1016/j.media.2025.103754), read in 2024. The best
    correlations on MMBR and 10XGMBSP are those that the paper names for models trained on data completed by SpaCKLE. HGGEP
    is not on that page, Hist2ST has scores on two data sets, and HisToGene has none on VMB. `source` names the publication
    of a data set: 8 sources are behind the 26.

    Examples
    --------
    >>> import spared_sc as sp
    >>> scores = sp.benchmark.reference_external()
    >>> scores["dataset"].nunique(), scores["source"].nunique()
    (26, 8)
    """
    import numpy as np
    import pandas as pd

    with files("spared_sc.benchmark").joinpath(_FILE).open("rb") as file:
        wide = pd.read_csv(file)
    kept = ["dataset", "source", "organism", "tissue", "generalisation", "n_genes", "role", "model"]
    table = wide.melt(kept, ["mse", "pcc"], "metric", "value").dropna(subset="value")
    return table.assign(
        **dict.fromkeys(("limit", "loss", "regime", "error"), ""),
        **dict.fromkeys(("library", "subject", "gene"), ALL),
        label=table["model"],
        target="spackle",
        task=PREDICTION,
        protocol=_PROTOCOL,
        status=PUBLISHED,
        seed=42,
        share=np.nan,
        n_parameters=np.nan,
        higher_is_better=table["metric"].map(higher_is_better),
    ).reset_index(drop=True)
