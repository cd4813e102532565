"""Layers of a completion beside the truth of simulated sections, and what they show where there is nothing to find.

    python measurements/truth.py              three depths: correlation, coverage, calibration; 2 minutes on one core
    python measurements/truth.py --nulls      genes that vary nowhere, and a sharp boundary; 1 minute

The sections of the first part are drawn by `sp.datasets.synthetic`: the share of a gene varies smoothly over the tissue,
and the depth of a spot has nothing to do with it. Genes are completed if their true share varies at least threefold (95%
over 5% quantile), up to 28 in each bin of detection. Those of the second part are drawn here, with a boundary or without.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

import _results
import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sps
from scipy.stats import mannwhitneyu

import spared_sc as sp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY = {"library_key": "library_id", "show_progress_bar": False}
BINS = {"below 10%": (0.01, 0.1), "10 to 30%": (0.1, 0.3), "30 to 60%": (0.3, 0.6), "60 to 90%": (0.6, 0.9)}
BINS["above 90%"] = (0.9, 1.01)
LAYERS = {"raw": "log2tpm", "given_detection": "spackle", "rate": "spackle_rate", "denoised": "spackle_denoised"}
TITLES = dict(zip(LAYERS, ("raw", "given detection", "expected count", "denoised"), strict=True))
SD = {"given_detection": "spackle_sd", "denoised": "spackle_denoised_sd"}
MOST_GENES = 28  # completed in each bin of a section
FOLD = 3.0  # least variation of the true share of a gene
VERDICTS = ("complete", "denoise", "undecided")
Z_90 = 1.645
FLAT = 1e-5  # standard deviations that are rounding errors
SECTIONS = {80: (100, 10), 300: (400, 4), 5000: (2000, 3)}  # depth: genes and sections, for 20 genes in each bin
SHAPE = (22, 22)  # spots
DEPTH = 300  # of the sections of the second part
N_NULL = 5  # sections of each kind there


class Completed(NamedTuple):
    """Layers of the completed genes of one section, spots x genes."""

    counts: np.ndarray
    layers: Mapping[str, np.ndarray]
    sd: Mapping[str, np.ndarray]
    verdict: np.ndarray


def completed(adata: ad.AnnData, chosen: np.ndarray) -> Completed:
    """The default completion of some genes, after normalisation by the depth over all of them."""
    adata.var["chosen"] = chosen
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    sp.tl.spackle_complete(adata, mask_var="chosen", n_jobs=1, **KEY)
    return Completed(
        _dense(adata.X)[:, chosen],
        {name: _dense(adata.layers[layer])[:, chosen] for name, layer in LAYERS.items()},
        {name: _dense(adata.layers[layer])[:, chosen] for name, layer in SD.items()},
        adata.var["spackle_verdict"].astype(str).to_numpy()[chosen],
    )


def _dense(values: np.ndarray | sps.spmatrix) -> np.ndarray:
    return (values.toarray() if sps.issparse(values) else np.asarray(values)).astype(np.float64)


def within_genes(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation over the spots of each gene in one layer with the same gene in another."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    norm = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return np.divide((one * other).sum(axis=0), norm, out=np.zeros(len(norm)), where=norm > 0)


def between_genes(values: np.ndarray) -> np.ndarray:
    """Correlations of the pairs of genes; zero where one does not vary."""
    centered = values - values.mean(axis=0)
    sd = centered.std(axis=0)
    scaled = np.divide(centered, sd, out=np.zeros_like(centered), where=sd > FLAT)
    correlations = scaled.T @ scaled / len(scaled)
    return correlations[np.triu_indices_from(correlations, k=1)]


def log_cpm(rate: np.ndarray) -> np.ndarray:
    """log2(CPM + 1) of expected counts of all genes."""
    return np.log2(1 + 1e6 * rate / rate.sum(axis=1, keepdims=True))


def in_bin(detected: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Genes by the share of the spots that detect them."""
    return (detected >= bounds[0]) & (detected < bounds[1])


# --- smooth sections --------------------------------------------------------------------------------------------------


class Smooth(NamedTuple):
    """A completed section, and the truth of it."""

    found: Completed
    truth: np.ndarray  # log2(CPM + 1)
    rate: np.ndarray  # expected counts
    detected: np.ndarray  # share of the spots, for each gene
    log_depth: np.ndarray  # of the spots, as measured
    edge: np.ndarray  # the spots where expression changes most


def smooth_sections(depth: int) -> Iterator[Smooth]:
    """Sections of one depth, with genes in all bins of detection."""
    n_genes, n_sections = SECTIONS[depth]
    for seed in range(n_sections):
        adata = sp.datasets.synthetic(1, n_genes, shape=SHAPE, depth=depth, image=False, random_state=seed)
        rate = _dense(adata.layers["rate"])
        share = rate / rate.sum(axis=1, keepdims=True)
        low, high = np.quantile(share, [0.05, 0.95], axis=0)
        detected = (_dense(adata.X) > 0).mean(axis=0)
        rng = np.random.default_rng(seed)
        chosen = np.zeros(n_genes, dtype=bool)
        for bounds in BINS.values():
            genes = np.flatnonzero(in_bin(detected, bounds) & (high > FOLD * low))
            chosen[rng.permutation(genes)[:MOST_GENES]] = True
        found = completed(adata, chosen)
        log_depth = np.log(_dense(adata.X).sum(axis=1))
        yield Smooth(found, log_cpm(rate)[:, chosen], rate[:, chosen], detected[chosen], log_depth, _edge(adata))


def _edge(adata: ad.AnnData) -> np.ndarray:
    """The tenth of the spots whose programmes differ most from those of their neighbours."""
    sp.pp.lattice_neighbors(adata, library_key="library_id")
    programs, pairs = adata.obsm["programs"], adata.obsp["spatial_connectivities"].tocoo()
    change = np.abs(programs[pairs.row] - programs[pairs.col]).sum(axis=1)
    steepness = np.bincount(pairs.row, change) / np.bincount(pairs.row)
    return steepness >= np.quantile(steepness, 0.9)


def smooth(depths: list[int]) -> None:
    """Tables of the sections with known truth."""
    agreement, coverage, calibration, pairs, verdicts = [], [], [], [], []
    for depth in depths:
        sections = list(smooth_sections(depth))
        detected = np.concatenate([one.detected for one in sections])
        for name, bounds in BINS.items():
            where = in_bin(detected, bounds)
            head = {"depth": depth, "detected": name, "genes": where.sum()}
            agreement.append(head | _agreement(sections, where))
            coverage.append(head | _coverage(sections, bounds))
        calibration += [{"depth": depth, **row} for row in _calibration(sections)]
        pairs.append({"depth": depth, **_pairs(sections)})
        verdicts += [{"depth": depth, **row} for row in _verdicts(sections)]
    _results.write("truth.correlation", agreement)
    _results.write("truth.coverage", coverage)
    _results.write("truth.calibration", calibration)
    _results.write("truth.pairs", pairs)
    _results.write("truth.verdicts", verdicts)


def _agreement(sections: list[Smooth], where: np.ndarray) -> dict[str, float]:
    """Mean correlation with the truth, and by how much the denoised values miss it and vary less."""
    row = {}
    for layer in LAYERS:
        values = np.concatenate([within_genes(one.found.layers[layer], one.truth) for one in sections])
        row[layer] = values[where].mean()
    row["denoised_worst"] = values[where].min()
    for layer in ("given_detection", "denoised"):
        row[f"depth_{layer}"] = np.concatenate([_with_depth(one, layer) for one in sections])[where].mean()
    errors = np.concatenate([(one.found.layers["denoised"] - one.truth).mean(axis=0) for one in sections])
    spread = np.concatenate([one.found.layers["denoised"].std(axis=0) / one.truth.std(axis=0) for one in sections])
    squares = np.concatenate([((one.found.layers["denoised"] - one.truth) ** 2).mean(axis=0) for one in sections])
    row |= {"bias": errors[where].mean(), "rms": np.sqrt(squares[where].mean()), "spread": spread[where].mean()}
    return row


def _with_depth(one: Smooth, layer: str) -> np.ndarray:
    """Correlation of each gene with the logarithm of the depth."""
    values = one.found.layers[layer]
    return within_genes(values, np.broadcast_to(one.log_depth[:, None], values.shape))


def _coverage(sections: list[Smooth], bounds: tuple[float, float]) -> dict[str, float]:
    """Shares of 90% intervals that hold the truth: filled entries given detection, all entries denoised."""
    inside: dict[str, list[np.ndarray]] = {}
    for one in sections:
        genes = in_bin(one.detected, bounds)
        counts = one.found.counts[:, genes]
        edge = np.broadcast_to(one.edge[:, None], counts.shape)
        for layer, sd in one.found.sd.items():
            error = np.abs(one.found.layers[layer] - one.truth)[:, genes]
            held = error <= Z_90 * sd[:, genes]
            parts = {"filled": counts == 0, "all": counts >= 0, "edge": edge, "inner": ~edge}
            for part in ("filled",) if layer == "given_detection" else parts:
                inside.setdefault(f"{layer}_{part}", []).append(held[parts[part]])
    return {name: np.concatenate(parts).mean() for name, parts in inside.items()}


def _calibration(sections: list[Smooth]) -> Iterator[dict[str, float]]:
    """True over estimated rates, by decile of the estimate."""
    truth = np.concatenate([one.rate.ravel() for one in sections])
    estimate = np.concatenate([one.found.layers["rate"].ravel() for one in sections])
    undetected = np.concatenate([one.found.counts.ravel() for one in sections]) == 0
    edges = np.quantile(estimate, np.linspace(0, 1, 11))
    decile = np.searchsorted(edges[1:-1], estimate, side="right")
    for number in range(10):
        where = decile == number
        row = {"decile": number + 1, "estimate": estimate[where].mean()}
        row["ratio"] = truth[where].sum() / estimate[where].sum()
        where &= undetected
        enough = where.sum() >= 100
        yield row | {"ratio_undetected": truth[where].sum() / estimate[where].sum() if enough else np.nan}


def _verdicts(sections: list[Smooth]) -> Iterator[dict[str, float | str]]:
    """Genes of each verdict, and how their layers follow the truth."""
    verdict = np.concatenate([one.found.verdict for one in sections])
    for name in VERDICTS:
        where = verdict == name
        row: dict[str, float | str] = {"verdict": name, "genes": where.sum()}
        for layer in ("raw", "given_detection", "denoised"):
            values = np.concatenate([within_genes(one.found.layers[layer], one.truth) for one in sections])[where]
            row |= (
                {layer: values.mean(), f"{layer}_tenth": np.quantile(values, 0.1)} if where.any() else {layer: np.nan}
            )
        yield row


def _pairs(sections: list[Smooth]) -> dict[str, float]:
    """Mean absolute error of the correlations between genes."""
    errors = {layer: [] for layer in LAYERS}
    for one in sections:
        truth = between_genes(one.truth)
        for layer in LAYERS:
            errors[layer].append(np.abs(between_genes(one.found.layers[layer]) - truth).mean())
    return {layer: np.mean(values) for layer, values in errors.items()}


# --- nothing to find, and a boundary ----------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A completed section of independent Poisson counts, and the truth of its completed genes."""

    found: Completed
    share: np.ndarray  # spots x genes, true
    distance: np.ndarray  # to the middle of the section, in pitches; negative to the left


def drawn(left: np.ndarray, right: np.ndarray, seed: int) -> Drawn:
    """A section whose genes have one share on the left and one on the right, beside one gene for the rest."""
    lattice = sp.datasets.synthetic(1, 2, shape=SHAPE, image=False)
    x = lattice.obsm["spatial"][:, 0]
    distance = (x - (x.min() + x.max()) / 2) / 100
    share = np.where(distance[:, None] < 0, left, right)
    share = np.column_stack([share, 1 - share.sum(axis=1)])
    rng = np.random.default_rng(seed)
    depth = DEPTH * rng.lognormal(0.0, 0.3, len(x))
    adata = ad.AnnData(
        sps.csr_matrix(rng.poisson(depth[:, None] * share), dtype=np.float32),
        obs=lattice.obs.copy(),
        var=pd.DataFrame(index=[f"Gene{gene}" for gene in range(share.shape[1])]),
    )
    adata.obsm["spatial"] = lattice.obsm["spatial"]
    return Drawn(completed(adata, np.arange(share.shape[1]) < len(left)), share[:, :-1], distance)


LEVELS = np.geomspace(0.05, 4, 24) / DEPTH  # shares of the genes that do not differ: 0.05 to 4 counts in a spot


def constant() -> None:
    """Genes without any variation: what the layers show of it."""
    levels = np.repeat(LEVELS, 3)
    sections = [drawn(levels, levels, seed) for seed in range(N_NULL)]
    detected = np.concatenate([(one.found.counts > 0).mean(axis=0) for one in sections])
    rows = []
    for name, bounds in BINS.items():
        where = in_bin(detected, bounds)
        row = {"detected": name, "genes": where.sum()}
        for layer in ("raw", "given_detection", "denoised"):
            spread = np.concatenate([one.found.layers[layer].std(axis=0) for one in sections])
            row[f"sd_{layer}"] = spread[where].mean()
        error = [one.found.layers["denoised"] - np.log2(1 + 1e6 * one.share) for one in sections]
        row["rms_denoised"] = np.sqrt(np.concatenate([(part**2).mean(axis=0) for part in error])[where].mean())
        for layer in LAYERS:
            row[layer] = np.mean([_mean_pair(one, layer, bounds) for one in sections])
        verdict = np.concatenate([one.found.verdict for one in sections])[where]
        rows.append(row | {name: (verdict == name).sum() for name in VERDICTS})
    _results.write("truth.constant", rows)


def _mean_pair(one: Drawn, layer: str, bounds: tuple[float, float]) -> float:
    """Mean correlation between the genes of a bin."""
    genes = in_bin((one.found.counts > 0).mean(axis=0), bounds)
    return float(between_genes(one.found.layers[layer][:, genes]).mean())


def boundary() -> None:
    """Two domains: genes that do not differ, genes that do, and genes that are absent on one side."""
    differing = np.repeat(np.geomspace(0.5, 4, 6) / DEPTH, 2)
    high, low = np.tile([1.6, 0.4], 6), np.tile([0.4, 1.6], 6)
    present = np.tile([1.0, 0.0], 6) / DEPTH
    left = np.concatenate([LEVELS, differing * high, present])
    right = np.concatenate([LEVELS, differing * low, present[::-1]])
    groups = {"same": slice(0, 24), "fourfold": slice(24, 36), "absent": slice(36, 48)}
    sections = [drawn(left, right, seed) for seed in range(N_NULL)]
    rows = []
    for layer in LAYERS:
        p_values, differences = [], []
        for one in sections:
            values, right_side = one.found.layers[layer][:, groups["same"]], one.distance > 0
            p_values.append(mannwhitneyu(values[right_side], values[~right_side]).pvalue)
            differences.append(np.abs(values[right_side].mean(axis=0) - values[~right_side].mean(axis=0)))
        p = np.concatenate(p_values)
        row = {
            "layer": layer,
            "title": TITLES[layer],
            "tests": len(p),
            "below_05": (p < 0.05).mean(),
            "below_1e4": (p < 1e-4).mean(),
        }
        row["difference"] = np.median(differences)
        row["pairs"] = np.mean([between_genes(one.found.layers[layer][:, groups["same"]]).mean() for one in sections])
        rows.append(row)
    _results.write("truth.domains", rows)
    verdict = {name: np.concatenate([one.found.verdict[genes] for one in sections]) for name, genes in groups.items()}
    rows = [{"genes": name, **{one: (found == one).sum() for one in VERDICTS}} for name, found in verdict.items()]
    _results.write("truth.domains_verdicts", rows)
    _results.write("truth.boundary", list(_blur(sections, groups)))


def _blur(sections: list[Drawn], groups: Mapping[str, slice]) -> Iterator[dict[str, float]]:
    """Denoised values on both sides of the boundary, by distance: over the truth, and for absent genes in counts."""
    for low in range(6):
        row: dict[str, float | str] = {"distance": f"{low} to {low + 1}"}
        for group, genes in groups.items():
            cpm, raw, truth, held = [], [], [], []
            for one in sections:
                spots = np.floor(np.abs(one.distance)) == low
                truth.append(one.share[spots, genes])
                cpm.append((np.exp2(one.found.layers["denoised"]) - 1)[spots, genes] / 1e6)
                raw.append((np.exp2(one.found.layers["raw"]) - 1)[spots, genes] / 1e6)
                error = np.abs(one.found.layers["denoised"] - np.log2(1 + 1e6 * one.share))
                held.append((error <= Z_90 * one.found.sd["denoised"])[spots, genes])
            cpm, raw, truth = (np.concatenate(parts) for parts in (cpm, raw, truth))
            row[f"{group}_coverage"] = np.concatenate(held).mean()
            if group == "same":
                continue
            high = truth > truth.mean(axis=0)
            for side, where in (("high", high), ("low", ~high)):
                row |= {f"{group}_{side}": _ratio(cpm, truth, where), f"{group}_{side}_raw": _ratio(raw, truth, where)}
        yield row


def _ratio(values: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Mean share over the true one; where that is zero, in expected counts."""
    expected = truth[where] if truth[where].any() else np.full(where.sum(), 1 / DEPTH)
    return float(np.mean(values[where] / expected))


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", nargs="+", type=int, default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--nulls", action="store_true")
    options = parser.parse_args()
    if options.nulls:
        constant()
        boundary()
    else:
        smooth(options.depths)


if __name__ == "__main__":
    main()
