"""What the layers of a completion show of the domains that experts drew: clusters, and markers.

    python measurements/domains.py              clusters of cortex and HER2+ sections with labels, 7 minutes on one core
    python measurements/domains.py --markers    markers from one half of the molecules, 7 minutes

Cortical layers of section 151510 (Maynard et al. 2021), and the domains of the first section of four patients with HER2+
breast cancer (Andersson et al. 2021). Labels with fewer than five spots and "undetermined" are left out of the scores. All
sections of a patient are completed together.
"""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING

import _results
import numpy as np
import pandas as pd
import scipy.sparse as sps
from sections import SETS, read
from sections import _raw as read_raw
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import spared_sc as sp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData

KEY = {"library_key": "library_id", "show_progress_bar": False}
SECTIONS = {"DLPFC": "151510", "HER2_A": "A1", "HER2_B": "B1", "HER2_C": "C1", "HER2_D": "D1"}
TITLES = {"DLPFC": "cortex 151510", **{name: f"HER2+ {one}" for name, one in SECTIONS.items() if name != "DLPFC"}}
LEAST_SPOTS = 5  # with a label
MOST_GENES = {"clusters": 1000, "markers": 300}  # the most detected ones
LEAST_DETECTED = 0.01  # share of the spots
N_COMPONENTS = 15
SEEDS = range(10)
N_BLOCKS = 10  # of the tissue
LAYERS = ("raw", "log1p_cp10k", "neighborhood", "kernel", "given_detection", "denoised")
CONTROLS = ("position", "depth")
N_SPLITS = 2  # of the molecules into halves
N_MARKERS = 10  # selected for each domain

UPPER = ("Layer2", "Layer3")
# KRT17 (layer 6), and markers of fat, are not among the genes or hardly detected.
MARKERS: dict[str, dict[tuple[str, ...], list[str]]] = {
    "DLPFC": {
        ("Layer1",): ["AQP4", "FABP7"],
        ("Layer2",): ["HPCAL1"],
        UPPER: ["ENC1", "CUX2", "CARTPT"],
        ("Layer5",): ["PCP4"],
        ("WM",): ["MOBP", "MBP", "PLP1"],
    },
    "HER2_B": {("breast glands",): ["KRT14", "KRT17"]},
    "HER2_D": {("immune infiltrate",): ["CD3D", "IGHG3"]},
}
for name in ("HER2_A", "HER2_B", "HER2_C", "HER2_D"):
    MARKERS.setdefault(name, {})
    MARKERS[name] |= {("invasive cancer",): ["ERBB2", "GNAS"], ("connective tissue",): ["COL1A1", "COL3A1"]}


def dense(values: np.ndarray | sps.spmatrix) -> np.ndarray:
    """An array of doubles."""
    return (values.toarray() if sps.issparse(values) else np.asarray(values)).astype(np.float64)


def layers(adata: AnnData, mask_var: str) -> dict[str, np.ndarray]:
    """Values of the genes of a mask in all layers that are compared; the mean over a spot and its neighbours is one."""
    sp.tl.complete(adata, method="kernel", mask_var=mask_var, **KEY)
    sp.tl.spackle_complete(adata, mask_var=mask_var, n_jobs=1, **KEY)
    sp.pp.lattice_neighbors(adata, library_key=KEY["library_key"])
    near = adata.obsp["spatial_connectivities"] + sps.eye_array(adata.n_obs)
    tpm = np.exp2(dense(adata.layers["log2tpm"])) - 1
    counts = dense(adata.X)
    found = {
        "raw": dense(adata.layers["log2tpm"]),
        "log1p_cp10k": np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)),
        "neighborhood": np.log2(1 + (near @ tpm) / np.asarray(near.sum(axis=1)).reshape(-1, 1)),
        "kernel": dense(adata.layers["kernel"]),
        "given_detection": dense(adata.layers["spackle"]),
        "denoised": dense(adata.layers["spackle_denoised"]),
    }
    genes = adata.var[mask_var].to_numpy()
    return {name: values[:, genes] for name, values in found.items()}


def labels(adata: AnnData, name: str) -> np.ndarray:
    """Label of each spot of the section with labels; an empty one elsewhere."""
    column = "layer" if name == "DLPFC" else "label"
    found = adata.obs[column].astype(str).to_numpy(dtype=object)
    found[adata.obs["library_id"].astype(str).to_numpy() != SECTIONS[name]] = ""
    names, n_spots = np.unique(found, return_counts=True)
    rare = names[n_spots < LEAST_SPOTS]
    found[np.isin(found, [*rare, "nan", "undetermined"])] = ""
    return found


# --- clusters ---------------------------------------------------------------------------------------------------------


def clusters(names: list[str]) -> None:
    """Adjusted Rand index of clusters with the labels, and how well a discriminant predicts these, over seeds."""
    rows = []
    for name in names:
        adata = read(name)
        label = labels(adata, name)
        here = np.flatnonzero(adata.obs["library_id"].astype(str) == SECTIONS[name])
        for genes, mask_var in (("recipe", "spared_selected"), ("most detected", _most_detected(adata))):
            position = adata.obsm["spatial"].astype(float)
            depth = np.log(dense(adata.X).sum(axis=1, keepdims=True))
            values = layers(adata, mask_var) | {"position": position, "depth": depth}
            for method in ("Gaussian mixture", "k-means", "discriminant"):
                row = {"section": TITLES[name], "domains": len(set(label) - {""}), "genes": genes}
                row |= {"n_genes": adata.var[mask_var].sum(), "method": method}
                for layer, array in values.items():
                    components = _components(array[here])
                    if method == "discriminant":
                        scores = _recovery(components, label[here], position[here])
                    else:
                        scores = _agreement(components, label[here], method)
                    row |= {layer: np.mean(scores), f"{layer}_lowest": min(scores), f"{layer}_highest": max(scores)}
                rows.append(row)
    table = pd.DataFrame(rows)
    for keys, part in table.groupby(["genes", "method"], sort=False):
        rows.append({"section": "mean", "genes": keys[0], "method": keys[1], **part[[*LAYERS, *CONTROLS]].mean()})
    _results.write("domains.clusters", [row for row in rows if row["method"] != "discriminant"])
    _results.write("domains.recovery", [row for row in rows if row["method"] == "discriminant"])


def _most_detected(adata: AnnData) -> str:
    """Name of a mask of the genes that most spots detect, among those with a value."""
    detected = np.asarray((adata.layers["log2tpm"] > 0).mean(axis=0)).ravel()
    adata.var["most_detected"] = _first(detected, MOST_GENES["clusters"]) & (detected > LEAST_DETECTED)
    return "most_detected"


def _first(detected: np.ndarray, number: int) -> np.ndarray:
    return pd.Series(detected).rank(method="first", ascending=False).le(number).to_numpy()


def _components(values: np.ndarray) -> np.ndarray:
    return PCA(min(N_COMPONENTS, values.shape[1]), random_state=0).fit_transform(values)


def _recovery(components: np.ndarray, label: np.ndarray, position: np.ndarray) -> list[float]:
    """Balanced accuracy of a linear discriminant in blocks of the tissue that it has not seen, one for each seed."""
    scored = label != ""
    components, label, position = components[scored], label[scored], position[scored]
    scores = []
    for seed in SEEDS:
        block = KMeans(N_BLOCKS, n_init=1, random_state=seed).fit_predict(position)
        found = np.empty_like(label)
        for one in range(N_BLOCKS):
            train = block != one
            n_domains = len(set(label[train]))
            model = LinearDiscriminantAnalysis(
                solver="lsqr", shrinkage="auto", priors=np.full(n_domains, 1 / n_domains)
            )
            found[~train] = model.fit(components[train], label[train]).predict(components[~train])
        scores.append(float(np.mean([(found == label)[label == domain].mean() for domain in np.unique(label)])))
    return scores


def _agreement(components: np.ndarray, label: np.ndarray, method: str) -> list[float]:
    """Scores of as many clusters as there are labels, one for each seed."""
    scored = label != ""
    n_domains = len(set(label[scored]))
    scores = []
    for seed in SEEDS:
        if method == "k-means":
            model = KMeans(n_domains, n_init=1, random_state=seed)
        else:
            model = GaussianMixture(n_domains, covariance_type="tied", random_state=seed)
        found = model.fit_predict(components)
        scores.append(float(adjusted_rand_score(label[scored], found[scored])))
    return scores


# --- markers ----------------------------------------------------------------------------------------------------------


def markers(names: list[str]) -> None:
    """Markers from the layers of one half of the molecules, checked on the counts of the other half."""
    known, selected = [], []
    for name in names:
        for seed in range(N_SPLITS):
            one, other = _halves(name, seed)
            label = labels(one, name)
            scored = label != ""
            values = {layer: array[scored] for layer, array in layers(one, "chosen").items()}
            counts = [Counts(half[scored], one.var["chosen"].to_numpy()) for half in (one, other)]
            head = {"section": TITLES[name], "split": seed}
            genes = one.var_names[one.var["chosen"]]
            known += [head | row for row in _known(values, genes, label[scored], MARKERS[name], counts[1])]
            selected += [head | row for row in _selected(values, label[scored], *counts)]
    _results.write("domains.known", _over_splits(known, ["section", "gene", "domain"]))
    rows = _over_splits(selected, ["section", "domain"])
    _results.write("domains.selected", rows)
    table = pd.DataFrame(rows)
    wins = {f"{layer}_wins": (table[layer] > table["counts"]).sum() for layer in LAYERS}
    means = table[["best", "counts", *LAYERS]].mean()
    _results.write("domains.selected_mean", [{"domains": len(table), **means, **wins}])


def _halves(name: str, seed: int) -> tuple[AnnData, AnnData]:
    """Two halves of the molecules; genes to complete are chosen on the first."""
    adata = read_raw(name)
    if name == "DLPFC":
        lengths = sp.datasets.gene_lengths("human")
        symbols = dict(zip(lengths["gene_id"].str.split(".").str[0], lengths["gene_name"], strict=True))
        adata.var_names = [symbols.get(gene, gene) for gene in adata.var_names]
    counts = sps.csr_matrix(adata.X)
    drawn = counts.copy()
    drawn.data = np.random.default_rng(seed).binomial(counts.data.astype(int), 0.5).astype(counts.dtype)
    one, other = adata.copy(), adata.copy()
    one.X, other.X = drawn, counts - drawn
    one.X.eliminate_zeros()
    enough = np.asarray(one.X.sum(axis=1)).ravel() > 0
    one, other = one[enough].copy(), other[enough].copy()
    detected = np.asarray((one.X > 0).mean(axis=0)).ravel()
    listed = [gene for genes in MARKERS[name].values() for gene in genes]
    one.var["chosen"] = (_first(detected, MOST_GENES["markers"]) | one.var_names.isin(listed)) & (
        detected > LEAST_DETECTED
    )
    sp.pp.normalize_tpm(one, gene_lengths=None)
    return one, other


def auc(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Probability that a spot of the domain has the higher value, for each gene; ties count half."""
    ranks = pd.DataFrame(values).rank().to_numpy()[inside].sum(axis=0)
    n_in = inside.sum()
    return (ranks - n_in * (n_in + 1) / 2) / (n_in * (len(inside) - n_in))


class Counts:
    """Counts of some genes, and the depth over all of them."""

    def __init__(self, adata: AnnData, genes: np.ndarray) -> None:
        counts = dense(adata.X)
        self.depth, self.counts = counts.sum(axis=1), counts[:, genes]

    def fold(self, inside: np.ndarray) -> np.ndarray:
        """log2 of the share of each gene in the domain over that elsewhere, one count added to both."""
        shares = [(self.counts[spots].sum(axis=0) + 1) / self.depth[spots].sum() for spots in (inside, ~inside)]
        return np.log2(shares[0] / shares[1])


def _known(
    values: Mapping[str, np.ndarray],
    genes: pd.Index,
    label: np.ndarray,
    wanted: Mapping[tuple[str, ...], list[str]],
    check: Counts,
) -> Iterator[dict[str, float | str]]:
    for domain, names in wanted.items():
        inside = np.isin(label, domain)
        for gene in names:
            if gene not in genes or not inside.any():
                continue
            column = genes.get_loc(gene)
            row = {"gene": gene, "domain": " and ".join(domain), "spots": inside.sum()}
            row["detected"] = (values["raw"][:, column] > 0).mean()
            row["fold"] = check.fold(inside)[column]
            yield row | {layer: auc(array[:, [column]], inside)[0] for layer, array in values.items()}


def _selected(
    values: Mapping[str, np.ndarray], label: np.ndarray, found: Counts, check: Counts
) -> Iterator[dict[str, float | str]]:
    for domain in np.unique(label):
        inside = label == domain
        folds = check.fold(inside)
        row = {"domain": domain, "spots": inside.sum(), "best": np.sort(folds)[-N_MARKERS:].mean()}
        ranked = {"counts": found.fold(inside)} | {layer: auc(array, inside) for layer, array in values.items()}
        for layer, scores in ranked.items():
            row[layer] = folds[np.argsort(-scores, kind="stable")[:N_MARKERS]].mean()
        yield row


def _over_splits(rows: list[dict[str, float | str]], keys: list[str]) -> list[dict[str, float | str]]:
    """Means over the splits, and the extremes of the layers."""
    table = pd.DataFrame(rows).drop(columns="split")
    groups = table.groupby(keys, sort=False)
    means = groups.mean()
    for name in ("raw", "neighborhood", "given_detection", "denoised"):
        means[f"{name}_lowest"], means[f"{name}_highest"] = groups[name].min(), groups[name].max()
    return means.reset_index().to_dict("records")


def main() -> None:
    """Run what is asked for."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", default=list(SECTIONS), choices=[name for name in SETS if name in SECTIONS]
    )
    parser.add_argument("--markers", action="store_true")
    options = parser.parse_args()
    (markers if options.markers else clusters)(options.sets)


if __name__ == "__main__":
    main()
