"""The right results, read off the definitions in plain Python."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import numpy as np
import scipy.sparse as sps

import spared_sc as sp
from helpers import dense
from properties.calls import Refused, call, reading, snapshot
from properties.collections import FAULTS, Case

if TYPE_CHECKING:
    from anndata import AnnData


def need(case: Case, *what: str) -> None:
    for kind in ("names", *what):
        if case.fault in FAULTS[kind]:
            raise Refused(case.fault)


def counts_of(adata: AnnData) -> list[list[int]]:
    matrix = adata.layers["counts"] if "counts" in adata.layers else adata.X
    return [[int(value) for value in row] for row in dense(matrix)]


def libraries_of(case: Case, adata: AnnData) -> list[str]:
    return (
        ["library"] * adata.n_obs
        if case.column is None
        else [str(name).removesuffix(".0") for name in adata.obs[case.column]]
    )


def rows_by_library(case: Case, adata: AnnData) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(libraries_of(case, adata)):
        rows.setdefault(name, []).append(row)
    return {name: rows[name] for name in sorted(rows)}


def split_of(case: Case, adata: AnnData, split_key: str | None = "split") -> dict[str, str]:
    if split_key is None or "split" not in adata.obs:
        return dict.fromkeys(rows_by_library(case, adata), "train")
    return {name: str(adata.obs["split"].iloc[rows[0]]) for name, rows in rows_by_library(case, adata).items()}


def read_filter(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "counts", "library", *(["split"] if options.get("split_key", "split") else []))
    low, high = options.get("spot_counts", (10, 1e6))
    gene_low, gene_high = options.get("gene_counts", (10, 1e6))
    share = options.get("real_data_share", 0.7)
    if not (low < high and gene_low < gene_high and 0 <= share <= 1):
        raise Refused("bounds")
    if set(options.get("genes", [])) - set(adata.var_names):
        raise Refused("unknown genes")
    counts, rows = counts_of(adata), rows_by_library(case, adata)
    genes = range(adata.n_vars)
    keep_spot = [low < sum(row) < high for row in counts]
    split = split_of(case, adata, options.get("split_key", "split"))
    judged = {name: [i for i in rows[name] if keep_spot[i]] for name in rows if split[name] == "train"}
    judged = {name: part for name, part in judged.items() if part}
    if not judged:
        raise Refused("no spot")
    everyone = sum(judged.values(), [])

    def detected_in(gene: int, part: list[int]) -> Fraction:
        return Fraction(sum(counts[i][gene] > 0 for i in part), len(part))

    expressed = [detected_in(gene, everyone) for gene in genes]
    least = [min(detected_in(gene, part) for part in judged.values()) for gene in genes]
    if "genes" in options:
        keep_gene = [name in options["genes"] for name in adata.var_names]
    else:
        ranked = [
            gene
            for gene in sorted(genes, key=lambda g: (-least[g], -expressed[g], adata.var_names[g]))
            if gene_low < sum(counts[i][gene] for i in everyone) < gene_high
            and float(expressed[gene]) >= options.get("min_expressed_fraction", 0)
            and float(least[gene]) >= options.get("min_library_expressed_fraction", 0)
        ]
        enough = [k for k in range(1, len(ranked) + 1) if float(sum(expressed[g] for g in ranked[:k]) / k) >= share]
        keep_gene = [gene in ranked[: max(enough, default=0)] for gene in genes]
    if not any(keep_gene):
        raise Refused("no gene")
    keep_spot = [
        keep and any(c > 0 for c, k in zip(row, keep_gene, strict=True) if k)
        for keep, row in zip(keep_spot, counts, strict=True)
    ]
    if not any(keep_spot):
        raise Refused("no spot with a kept gene")
    spots = np.flatnonzero(keep_spot) if options.get("subset_spots", True) else np.arange(adata.n_obs)
    left = np.flatnonzero(keep_gene) if options.get("subset_genes", False) else np.arange(adata.n_vars)
    return {
        "obs:spared_keep": np.asarray(keep_spot)[spots],
        "var:spared_keep": np.asarray(keep_gene)[left],
        "var:expressed_fraction": np.asarray(expressed, dtype=float)[left],
        "var:min_expressed_fraction": np.asarray(least, dtype=float)[left],
        "layers:detected": (np.asarray(counts, dtype=float) > 0)[np.ix_(spots, left)],
    }


def bare(name: str) -> tuple[str, str]:
    """What a gene is looked up by: its Ensembl id without version, or its symbol."""
    name = re.sub(r"^(GRCh|GRCm|hg|mm)\d+_+", "", name)
    found = re.fullmatch(r"(ENS[A-Z]*G\d{6,})(\.\d+)?(_PAR_Y)?", name)
    return ("id", found[1] + (found[3] or "")) if found else ("symbol", name)


def read_lengths(names: list[str], lengths: dict[str, float]) -> list[float]:
    known = [bare(name) for name in lengths]
    if len(set(known)) < len(known):
        raise Refused("two lengths of one gene")
    if any(length <= 0 or np.isinf(length) for length in lengths.values()):
        raise Refused("wrong lengths")
    table = dict(zip(known, lengths.values(), strict=True))
    result = []
    of_table = {species_of(name) for name, (kind, _) in zip(lengths, known, strict=True) if kind == "id"}
    for name in names:
        kind, text = bare(name)
        if kind == "symbol" and of_table and species_of(name) not in {None, *of_table}:
            result.append(np.nan)  # a gene of another species
            continue
        result.append(table.get((kind, text), table.get(("symbol", re.sub(r"-\d+$", "", text)), np.nan)))
    return result


def species_of(name: str) -> str | None:
    """Human or mouse, from an Ensembl id or the prefix of a genome."""
    human, mouse = r"^(GRCh|hg)\d+_|^ENSG\d|_ENSG\d", r"^(GRCm|mm)\d+_|^ENSMUSG\d|_ENSMUSG\d"
    return "human" if re.search(human, name) else "mouse" if re.search(mouse, name) else None


def read_normalised(case: Case, adata: AnnData, lengths: str | None, options: dict) -> dict[str, object]:
    need(case, "counts")
    target = options.get("target_sum", 1e6)
    if not 0 < target < np.inf:
        raise Refused("target_sum")
    counts = np.array(counts_of(adata), dtype=float)
    if lengths is None:
        length = np.ones(adata.n_vars)
    elif lengths == "column":
        length = adata.var["gene_length"].to_numpy(dtype=float)
        if (length <= 0).any() or np.isinf(length).any():
            raise Refused("wrong lengths")
    else:
        length = np.array(read_lengths(list(adata.var_names), dict(lengths)))
    scaled = np.ones(adata.n_vars, dtype=bool)
    if "spared_keep" in adata.var and options.get("mask_var", "spared_keep"):
        scaled = mask_of(adata, "spared_keep", "spared_keep")
    if not (np.isfinite(length) & scaled).any():
        raise Refused("no lengths")
    per_length = np.where(np.isfinite(length), counts / length, 0)
    values = np.zeros(counts.shape)
    for row, total in enumerate(per_length[:, scaled].sum(axis=1)):
        if total > 0:
            values[row] = np.log1p(per_length[row] / total * target) / np.log(2)
    written = {f"layers:{options.get('key_added', 'log2tpm')}": values}
    return written if lengths is None else {**written, "var:gene_length": length}


def neighbours(case: Case, adata: AnnData, kind: str = "auto") -> list[set[int]]:
    """The spots that touch each spot."""
    need(case, "library", "places")
    if kind not in ("auto", "hex", "grid", "grid4"):
        raise Refused("kind")
    groups = rows_by_library(case, adata).values()
    touching: list[set[int]] = [set() for _ in range(adata.n_obs)]
    if "array_row" in adata.obs:
        place = [
            (int(float(r)), int(float(c))) for r, c in zip(adata.obs["array_row"], adata.obs["array_col"], strict=True)
        ]
        for rows in groups:
            own = "hex" if len({sum(place[i]) % 2 for i in rows}) == 1 else "grid"
            for i in rows:
                for j in rows:
                    dr, dc = abs(place[i][0] - place[j][0]), abs(place[i][1] - place[j][1])
                    near = {"hex": (dr, dc) in ((0, 2), (1, 1)), "grid": max(dr, dc) == 1, "grid4": dr + dc == 1}
                    if near[own if kind == "auto" else kind]:
                        touching[i].add(j)
        return touching
    at = adata.obsm["spatial"]
    for rows in groups:
        apart = {(i, j): np.hypot(*(at[i] - at[j])) for i in rows for j in rows if i != j}
        nearest = [min(apart[i, j] for j in rows if j != i) for i in rows if len(rows) > 1]
        for (i, j), distance in apart.items():
            if distance <= 1.2 * np.quantile(nearest, 0.25):
                touching[i].add(j)
    return touching


def hops_between(touching: list[set[int]], n_rings: int) -> np.ndarray:
    hops = np.zeros((len(touching),) * 2)
    for start in range(len(touching)):
        seen, edge = {start}, {start}
        for ring in range(1, n_rings + 1):
            edge = set().union(*(touching[i] for i in edge)) - seen if edge else edge
            seen |= edge
            hops[start, list(edge)] = ring
    return hops


def read_graph(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    if options.get("n_rings", 1) < 1:
        raise Refused("n_rings")
    hops = hops_between(neighbours(case, adata, options.get("kind", "auto")), options.get("n_rings", 1))
    return {"obsp:spatial_distances": hops, "obsp:spatial_connectivities": (hops > 0).astype(float)}


def layer_of(case: Case, adata: AnnData, layer: str = "log2tpm") -> np.ndarray:
    need(case, "layer")
    return dense(adata.layers[layer])


def mask_of(adata: AnnData, mask_var: str | None, default: str) -> np.ndarray:
    """Which genes: the column's, where it is there."""
    if mask_var is None or (mask_var == default and default not in adata.var):
        return np.ones(adata.n_vars, dtype=bool)
    mask = np.array([str(value) in ("True", "1", "1.0") for value in adata.var[mask_var]])
    if not mask.any():
        raise Refused("no gene")
    return mask


def detected_of(case: Case, adata: AnnData) -> np.ndarray:
    if "detected" in adata.layers:
        return dense(adata.layers["detected"]).astype(bool)
    need(case, "counts")
    return np.array(counts_of(adata), dtype=float) > 0


def filled_by_median(case: Case, adata: AnnData, mask: np.ndarray, n_rings: int = 4) -> np.ndarray:
    values, detected = layer_of(case, adata), detected_of(case, adata)
    result, seen = values.astype(float), np.where(detected, values, 0).astype(float)
    hops = hops_between(neighbours(case, adata), n_rings)
    for rows in rows_by_library(case, adata).values():
        for gene in np.flatnonzero(mask):
            expressed = [seen[i, gene] for i in rows if seen[i, gene] != 0]
            for i in rows:
                if detected[i, gene]:
                    continue
                tries = [
                    statistics.median([0.0, *(seen[j, gene] for j in rows if 0 < hops[i, j] <= ring)])
                    for ring in range(1, n_rings + 1)
                ]
                first = next((value for value in tries if value != 0), None)
                result[i, gene] = first if first is not None else statistics.median(expressed or [0.0])
    return result


def read_median(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "layer", "library", "places")
    if options.get("n_rings", 4) < 1:
        raise Refused("n_rings")
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    mask = mask & detected_of(case, adata).any(axis=0)  # a gene that is detected nowhere stays as it is
    if not mask.any():
        raise Refused("nothing to fill from")
    return {"layers:median": filled_by_median(case, adata, mask, options.get("n_rings", 4))}


def read_moran(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "layer", "library", *(["split"] if options.get("split_key", "split") else []))
    mask = mask_of(adata, options.get("mask_var", "spared_keep"), "spared_keep")
    completed = options.get("median_completed", False)
    if "connectivity_key" in options and options["connectivity_key"] not in adata.obsp:
        raise Refused("no graph")
    if completed:
        detected_of(case, adata)
        values = filled_by_median(case, adata, mask)
    else:
        values = layer_of(case, adata).astype(float)
    if "connectivity_key" in options:
        weights = dense(adata.obsp[options["connectivity_key"]])
    else:
        weights = hops_between(neighbours(case, adata), 1)
    split = split_of(case, adata, options.get("split_key", "split"))
    scores = []
    for name, rows in rows_by_library(case, adata).items():
        if split[name] != "train":
            continue
        w = weights[np.ix_(rows, rows)]
        w = np.array([row / row.sum() if row.sum() > 0 else row for row in w])
        for_library = np.full(adata.n_vars, np.nan)
        for gene in np.flatnonzero(mask):
            x = values[rows, gene]
            z = x - x.mean()
            if np.any(x != x[0]) and w.sum() > 0:
                for_library[gene] = len(rows) / w.sum() * (z @ w @ z) / (z @ z)
        scores.append(for_library)
    n = np.isfinite(scores).sum(axis=0)
    return {"var:moran_i": np.where(n > 0, np.nansum(scores, axis=0) / np.maximum(n, 1), np.nan)}


def read_selected(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case)
    score = options.get("score", "moran_i")
    if score not in adata.var or options.get("n_genes", 1) < 1 or adata.var[score].dtype == object:
        raise Refused("score or n_genes")
    mask = mask_of(adata, "spared_keep", "spared_keep")
    scores = dict(zip(adata.var_names, adata.var[score], strict=True))
    candidates = [name for name, take in zip(adata.var_names, mask, strict=True) if take and np.isfinite(scores[name])]
    if not candidates:
        raise Refused("no scores")
    n_genes = options.get("n_genes", 32)  # 128 of more than 320
    best = sorted(candidates, key=lambda name: (-scores[name], name))[:n_genes]
    selected = np.array([name in best for name in adata.var_names])
    return {"var:spared_selected": selected[selected] if options.get("subset_genes") else selected}


def train_rows(case: Case, adata: AnnData, options: dict) -> list[int]:
    split = split_of(case, adata, options.get("split_key", "split"))
    return sorted(sum((rows for name, rows in rows_by_library(case, adata).items() if split[name] == "train"), []))


def read_centered(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "layer", *(["library", "split"] if options.get("split_key", "split") and "split" in adata.obs else []))
    values = layer_of(case, adata).astype(float)
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    key_added = options.get("key_added", "log2tpm_delta")
    if key_added == "log2tpm":
        raise Refused("the layer itself")
    mean = np.where(mask, values[train_rows(case, adata, options)].mean(axis=0), 0)
    return {f"layers:{key_added}": values - mean, "var:log2tpm_mean": mean}


def pairs_alike(case: Case, adata: AnnData) -> dict[tuple[str, str], float]:
    """Correlation of the totals of two libraries, where it means something; 1 where most spots have equal counts."""
    need(case, "library")
    has_places = "array_row" in adata.obs
    if has_places:
        need(case, "counts", "places")
    elif case.fault in FAULTS["counts"]:
        return {}
    counts, rows = counts_of(adata), rows_by_library(case, adata)
    spots = {name: {tuple(counts[i]) for i in part if np.count_nonzero(counts[i]) >= 10} for name, part in rows.items()}
    place = [None] * adata.n_obs
    if has_places:
        place = list(zip(adata.obs["array_row"].astype(float), adata.obs["array_col"].astype(float), strict=True))
    total = {name: {place[i]: np.log1p(float(sum(counts[i]))) for i in part} for name, part in rows.items()}
    found = {}
    for one in total:
        for other in total:
            if one >= other:
                continue
            shared = sorted(set(total[one]) & set(total[other])) if has_places else []
            a, b = ([total[name][at] for at in shared] for name in (one, other))
            if len(shared) >= 20 and len(set(a)) > 1 and len(set(b)) > 1:
                found[one, other] = float(np.corrcoef(a, b)[0, 1])
            fewest = min(len(spots[one]), len(spots[other]))
            if fewest and len(spots[one] & spots[other]) > fewest / 2 and not found.get((one, other), 0) > 0.95:
                found[one, other] = 1.0
    return found


def read_split(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    if options.get("random_state", 0) < 0:
        raise Refused("random_state")
    alike = pairs_alike(case, adata)
    names = list(rows_by_library(case, adata))
    subject_key = options.get("subject_key")
    if subject_key is None and not options.get("intra_subject"):
        raise Refused("no subjects")
    subject = dict(zip(libraries_of(case, adata), adata.obs["donor"].astype(str), strict=True))
    groups: list[set[str]] = [{name} for name in names]
    together = [pair for pair, correlation in alike.items() if correlation > 0.95]
    if not options.get("intra_subject"):
        together += [(one, other) for one in names for other in names if subject[one] == subject[other]]
    if "assignment" in options:
        given_to = {str(name): split for name, split in options["assignment"].items()}
        if set(names) - set(given_to) or "train" not in given_to.values():
            raise Refused("assignment")
        crossing = [
            one
            for one in names
            for other in names
            if subject[one] == subject[other] and given_to[one] != given_to[other]
        ]
        if crossing and not options.get("intra_subject"):
            raise Refused("subject in several splits")
        return {"obs:split": np.array([given_to[name] for name in libraries_of(case, adata)], dtype=object)}
    for one, other in together:
        joined = [group for group in groups if group & {one, other}]
        groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    fractions = options.get("fractions", (0.7, 0.15, 0.15))
    if len(groups) < sum(share > 0 for share in fractions):
        raise Refused("too few subjects")
    case.groups = groups
    return {}


def read_combat(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    """ComBat's equations, iterated far; empty where they have no solution of their own."""
    need(case, "layer", "library", *(["split"] if options.get("split_key", "split") else []))
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    column = libraries_of(case, adata) if "batch_key" not in options else adata.obs[options["batch_key"]].astype(str)
    batch, train = np.asarray(column, dtype=object), train_rows(case, adata, options)
    sizes = Counter(batch[train])
    learned = sorted(name for name in sizes if sizes[name] > 1)
    if len(learned) < 2:
        raise Refused("too few batches")
    if options.get("key_added") == "log2tpm":
        raise Refused("the layer itself")
    values = layer_of(case, adata).astype(float)
    rows = {name: [i for i in train if batch[i] == name] for name in learned}
    return {} if not set(batch) == set(learned) or len(train) < adata.n_obs else read_combat_of_all(values, rows, mask)


def read_combat_of_all(values: np.ndarray, rows: dict[str, list[int]], mask: np.ndarray) -> dict[str, object]:
    residual = sum(((values[part] - values[part].mean(axis=0)) ** 2).sum(axis=0) for part in rows.values())
    genes = np.flatnonzero(mask & (residual > 1e-9 * np.maximum((values**2).sum(axis=0), 1e-300)))
    result = values.copy()
    if len(genes) < 2:
        return {"layers:log2tpm_combat": result}
    x = values[:, genes]
    sigma, mean = np.sqrt(residual[genes] / len(x)), x.mean(axis=0)
    z = (x - mean) / sigma
    for part in rows.values():
        n, gamma, delta = len(part), z[part].mean(axis=0), z[part].var(axis=0, ddof=1)
        s2, tau2 = delta.var(ddof=1), gamma.var(ddof=1)
        if s2 < 1e-9 or tau2 < 1e-9 or (delta < 1e-9).any() or (np.abs(gamma) < 1e-6).any():
            return {}
        shape, rate = 2 + delta.mean() ** 2 / s2, delta.mean() + delta.mean() ** 3 / s2
        g, d = gamma, delta
        for _ in range(2000):
            g = (n * tau2 * gamma + d * gamma.mean()) / (n * tau2 + d)
            d = (rate + 0.5 * ((z[part] - g) ** 2).sum(axis=0)) / (n / 2 + shape - 1)
        result[np.ix_(part, genes)] = (z[part] - g) / np.sqrt(d) * sigma + mean
    return {"combat": result}


FILTER = st.fixed_dictionaries(
    {},
    optional={
        "spot_counts": st.sampled_from([(0, 1e12), (-1, np.inf), (-1, 3), (5, 60), (1e15, 1e16), (10, 5)]),
        "gene_counts": st.sampled_from([(0, 1e12), (-1, np.inf), (5, 60), (1e15, 1e16), (5, 5)]),
        "min_expressed_fraction": st.sampled_from([0.2, 0.9]),
        "min_library_expressed_fraction": st.sampled_from([0.2, 0.9]),
        "real_data_share": st.sampled_from([0, 0.3, 0.5, 1.0, 1.5, float("nan")]),
        "subset_spots": st.just(False),
        "subset_genes": st.just(True),
        "split_key": st.none(),
    },
)


FILTER_WRITES = [
    "obs:spared_keep",
    "var:spared_keep",
    "var:expressed_fraction",
    "var:min_expressed_fraction",
    "layers:detected",
]


def check_missing_share(case: Case, adata: AnnData) -> None:
    before = snapshot(adata)
    found, _ = call(sp.get.missing_share, adata, library_key=case.key)
    assert snapshot(adata) == before

    def read():
        need(case, "library")
        return mask_of(adata, "spared_selected", "spared_selected"), detected_of(case, adata)

    wanted, reason = reading(read)
    assert isinstance(found, Exception) == (reason is not None), reason or found
    if reason is not None:
        return
    mask, detected = wanted
    rows = rows_by_library(case, adata)
    assert list(found.columns) == list(rows)
    assert list(found.index) == list(adata.var_names[mask])
    for name, part in rows.items():
        np.testing.assert_allclose(found[name], 1 - detected[part][:, mask].mean(axis=0), atol=1e-12)


def check_completed(case: Case, adata: AnnData, key: str) -> None:
    """Detected values are the input's to the bit, in its container; all values are finite."""
    completed, layer = adata.layers[key], adata.layers["log2tpm"]
    detected = detected_of(case, adata)
    assert sps.issparse(completed) == sps.issparse(layer)
    if layer.dtype.kind == "f":
        assert completed.dtype == layer.dtype
    np.testing.assert_array_equal(dense(completed)[detected], dense(layer)[detected])
    assert np.isfinite(dense(completed)).all()
