"""What filling does to the expression of undetected entries, where the truth is known.

    python measurements/zero_means.py         less than a minute on two CPU cores

The sections are drawn from a model (`sp.datasets.synthetic`), so the expected counts of every entry are known
(`layers["rate"]`).
"""

from __future__ import annotations

import _results
import numpy as np
from scipy.special import gammaln

import spared_sc as sp

KEY = {"library_key": "library_id"}
BINS = {  # expected counts of the entry
    "below 0.1": (0, 0.1),
    "0.1 to 0.3": (0.1, 0.3),
    "0.3 to 1": (0.3, 1),
    "above 1": (1, np.inf),
    "all": (0, np.inf),
}


def given_detection(rate: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Mean of log2(CPM + 1) over the Poisson counts above zero, with the total that the spot was measured with."""
    total = np.zeros_like(rate)
    for count in range(1, int(rate.max() + 12 * np.sqrt(rate.max()) + 20)):
        total += np.exp(count * np.log(rate) - rate - gammaln(count + 1)) * np.log2(count * scale + 1)
    return total / -np.expm1(-rate)


def main() -> None:
    """Means over the undetected entries, in log2(CPM + 1)."""
    adata = sp.datasets.synthetic(depth=300.0, image=False)
    sp.pp.normalize_tpm(adata, gene_lengths=None)  # the made-up counts do not depend on a gene's length
    # All genes are completed, the sparse ones too: the recipe would leave those out.
    sp.tl.median_complete(adata, **KEY)
    sp.tl.spackle_complete(adata, model="paper", model_params={"n_steps": 300, "train_batch_size": 64}, **KEY)
    rate = adata.layers["rate"].astype(np.float64)
    truth = np.log2(1e6 * rate / rate.sum(axis=1, keepdims=True) + 1)
    detectable = given_detection(rate, 1e6 / np.asarray(adata.X.sum(axis=1)).reshape(-1, 1))
    filled = [adata.layers[layer].toarray() for layer in ("median", "spackle")]
    undetected = adata.X.toarray() == 0
    score = adata.uns["spared_sc"]["spackle"]["score"]

    rows = []
    for name, (low, high) in BINS.items():
        where = undetected & (rate >= low) & (rate < high)
        columns = zip(("truth", "truth_detected", "median", "spackle"), (truth, detectable, *filled), strict=True)
        means = {column: values[where].mean() for column, values in columns}
        rows.append({"expected": name, "entries": where.sum(), **means})
    _results.write("zero_means.table", rows)
    layers = zip(("counts", "median", "spackle"), (adata.layers["log2tpm"].toarray(), *filled), strict=True)
    cpm = {f"cpm_{name}": np.exp2(values).mean() - 1 for name, values in layers}
    errors = {"mse_spackle": score["paper"], "mse_median": score["median"], "mse_gene_mean": score["gene_mean"]}
    _results.write("zero_means.overall", [{"undetected": undetected.mean(), **cpm, **errors}])


if __name__ == "__main__":
    main()
