"""Four properties of the code released with SpaRED (BCV-Uniandes/SpaRED at 3ca900f), measured beside this package's.

    python measurements/released_code_quirks.py       some ten seconds on two CPU cores

Nothing of the released code is run or copied: each property is rebuilt from its description (docs/released_code.md)
with the same library calls.
"""

from __future__ import annotations

import warnings

import _results
import numpy as np
import scipy.sparse as sps
import torch
from scipy.spatial import cKDTree

import spared_sc as sp
from spared_sc._kernels.lattice import from_array
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.median import adaptive_median
from spared_sc._kernels.metrics import masked_mse
from spared_sc._models.completion.paper import SpaCKLE, SpackleNet

N_NEIGHBOURS = 18
HIDING = 0.3


def attention() -> None:
    """(a) Inputs that a spot's output depends on."""
    n_batch, n_genes = 8, 32
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(n_genes, nhead=1)  # batch_first=False is PyTorch's default
    released = torch.nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False).eval()
    ours = SpackleNet(n_genes, SpaCKLE()).eval()
    padding = torch.zeros(n_batch, 1 + N_NEIGHBOURS, dtype=torch.bool)
    values = torch.rand(n_batch, 1 + N_NEIGHBOURS, n_genes)
    neighbours, others = values.clone(), values.clone()
    neighbours[:, 1:] = torch.rand_like(neighbours[:, 1:])
    others[1:] = torch.rand_like(others[1:])
    rows = []
    for name, network in {
        "encoder with batch_first=False": released,
        "this package": lambda x: ours(x, padding),
    }.items():
        with torch.no_grad():
            before = network(values)[0, 0]
            changes = [(network(x)[0, 0] - before).abs().max().item() for x in (neighbours, others)]
        rows.append({"network": name, "neighbours": changes[0], "batch": changes[1]})
    _results.write("released_code_quirks.attention", rows)


def crossing_edges() -> None:
    """(b) Share of the edges that join two sections."""
    adata = sp.datasets.synthetic(n_libraries=2, image=False)
    # The second section lies half a pitch to the right on its own image: places on two images often coincide so.
    second = (adata.obs["library_id"] == "library_2").to_numpy()
    adata.obsm["spatial"][second, 0] += 50.0
    _, nearest = cKDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], k=1 + N_NEIGHBOURS)
    spots = np.repeat(np.arange(adata.n_obs), N_NEIGHBOURS)
    joined = sps.csr_matrix((np.ones(spots.size), (spots, nearest[:, 1:].ravel())), shape=(adata.n_obs,) * 2)
    sp.pp.lattice_neighbors(adata, library_key="library_id", n_rings=2)
    rows = []
    for name, graph in {
        "18 nearest spots, no library key": joined,
        "sp.pp.lattice_neighbors, two hops": adata.obsp["spatial_connectivities"],
    }.items():
        spot, other = graph.nonzero()
        rows.append({"graph": name, "edges": spot.size, "crossing": (second[spot] != second[other]).mean()})
    _results.write("released_code_quirks.edges", rows)


def hiding_rate() -> None:
    """(c) Share of a gene's detected values that are hidden."""
    rng = np.random.default_rng(0)
    n_spots = 20_000
    fractions = (0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    detected = rng.random((n_spots, len(fractions))) < fractions
    chance = np.minimum(HIDING / detected.mean(axis=0), 1)
    by_fraction = detected & (rng.random(detected.shape) < chance)
    plain = hide_detected(detected, HIDING, rng)
    rows = []
    for name, hidden in {"chance 0.3 / expressed fraction": by_fraction, "chance 0.3 (this package)": plain}.items():
        shares = hidden.sum(axis=0) / detected.sum(axis=0)
        columns = {f"fraction_{100 * f:.0f}": share for f, share in zip(fractions, shares, strict=True)}
        rows.append({"rule": name, **columns})
    _results.write("released_code_quirks.hiding", rows)


def order_of_hiding() -> None:
    """(d) Error of the neighbours' filled values on hidden entries, with either order."""
    adata = sp.datasets.synthetic(depth=1000.0, image=False)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    values = adata.layers["log2tpm"].toarray()
    detected = values > 0
    library = adata.obs["library_id"].cat.codes.to_numpy()
    lattice = from_array(adata.obs[["array_row", "array_col"]].to_numpy(), library)
    hidden = hide_detected(detected, HIDING, np.random.default_rng(0))
    known = detected & ~hidden

    def median(of: np.ndarray, where: np.ndarray) -> np.ndarray:
        return adaptive_median(of, where, lattice, library, n_threads=1)

    def from_completed(completed: np.ndarray) -> np.ndarray:
        """Median over the neighbours' completed values, the hidden entries taken out."""
        return median(np.where(hidden, 0, completed), ~hidden)

    completed = {order: median(values, seen) for order, seen in {"median first": detected, "hide first": known}.items()}
    results = {
        "median first, then hide": from_completed(completed["median first"]),
        "hide first, then median (this package)": from_completed(completed["hide first"]),
    }
    rows = [{"order": name, "mse": masked_mse(values, estimate, hidden)} for name, estimate in results.items()]
    _results.write("released_code_quirks.order", rows)
    touched = (completed["median first"] != completed["hide first"])[~detected].mean()
    _results.write("released_code_quirks.touched", [{"share": touched}])


def main() -> None:
    """Measure all four."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    for part in (attention, crossing_edges, hiding_rate, order_of_hiding):
        part()


if __name__ == "__main__":
    main()
