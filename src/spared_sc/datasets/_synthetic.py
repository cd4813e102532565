"""Synthetic collections of sections whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.record import record

if TYPE_CHECKING:
    from anndata import AnnData

_PITCH = 100.0  # full-resolution pixels between neighbouring spots; 1 px is about 1 um on a Visium slide
_SPOT_DIAMETER = 55.0
_MARGIN = 2.5 * _PITCH  # glass around the spots
_STEP = 10.0  # full-resolution pixels between the points at which programmes are computed
_IMAGE_WIDTH = 600  # largest side of the hires image in pixels
_NUCLEI = 4e-3  # nuclei per square full-resolution pixel where the density is 1
_NUCLEUS_RADIUS = 4.5  # full-resolution pixels
# What a stain takes from red, green and blue light, as optical densities (Beer-Lambert).
_EOSIN = np.array([0.05, 0.42, 0.16])
_BLUE_NUCLEUS = np.array([1.05, 0.80, 0.30])
_RED_NUCLEUS = np.array([0.40, 1.00, 0.50])


@dataclass(frozen=True)
class _Lattice:
    """Positions of the spots of one section, all of them in tissue."""

    assay: str
    row_col: np.ndarray  # (n_spots, 2) array_row, array_col
    xy: np.ndarray  # (n_spots, 2) full-resolution pixels
    width: float  # of the image, in full-resolution pixels
    height: float


@dataclass(frozen=True)
class _Section:
    """One library, of the spots that are kept."""

    kept: np.ndarray  # (n_kept,) index of the spots
    counts: sps.csr_matrix  # (n_kept, n_genes)
    rate: np.ndarray  # (n_kept, n_genes) expected counts
    programs: np.ndarray  # (n_kept, n_programs)
    image: np.ndarray | None  # hires, uint8 RGB


def synthetic(
    n_libraries: int = 3,
    n_genes: int = 200,
    *,
    lattice: str = "hex",
    shape: tuple[int, int] = (20, 20),
    n_programs: int = 5,
    depth: float = 2000.0,
    library_effect: float = 0.2,
    missing_spots: float = 0.0,
    image: bool = True,
    library_key: str = "library_id",
    random_state: int = 0,
) -> AnnData:
    r"""A collection of sections drawn from a known model, with H&E-like images that predict expression.

    Every section is a smooth mixture of spatial programmes, :math:`p_{sk}` with :math:`\sum_k p_{sk} = 1`; genes load on
    them with :math:`w_{kg}`. The count of gene *g* in spot *s* of library *l* is

    .. math:: x_{sg} \sim \mathrm{Poisson}(\lambda_{sg}), \qquad
        \lambda_{sg} = d_s \, \frac{e_{lg} \sum_k p_{sk} w_{kg}}{\sum_{g'} e_{lg'} \sum_k p_{sk} w_{kg'}}

    with log-normal spot depths *d* and log-normal library effects *e*. Density and colour of the nuclei in the image
    follow the programmes, so the image predicts as much of the expression as the programmes explain.

    Parameters
    ----------
    n_libraries
        Number of sections. Adding one does not change the others.
    n_genes
        Number of genes.
    lattice
        `"hex"` (Visium: array_row + array_col is even) or `"grid"` (legacy ST).
    shape
        Rows of the array, and spots in each row.
    n_programs
        Number of spatial programmes.
    depth
        Median of the expected counts per spot.
    library_effect
        Standard deviation of the log of the gene-wise library effects; 0 for none.
    missing_spots
        Share of the spots that are dropped at random, in [0, 1).
    image
        Draw the images.
    library_key
        Column of `obs` for the names of the sections.
    random_state
        Seed. The same seed gives the same result.

    Returns
    -------
    Spots x genes, with

    - `X`: counts, sparse (CSR), float32
    - `layers["rate"]`: the expected counts behind them, float32
    - `obs`: `in_tissue`, `array_row`, `array_col` and the categorical column `library_key`
    - `var["gene_length"]`: bp
    - `obsm["spatial"]`: x and y in full-resolution pixels (100 px between neighbours)
    - `obsm["programs"]`: proportions of the programmes, `(n_spots, n_programs)`
    - `varm["programs"]`: loadings of the genes, `(n_genes, n_programs)`
    - `uns["spatial"][library]`: the hires image (uint8 RGB, at most 600 px wide and high) and the scale factors
    - `uns["spared_sc"]["synthetic"]`: the parameters

    Raises
    ------
    ValueError
        An argument is out of its range.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, n_genes=50, shape=(8, 8))
    >>> adata.shape
    (128, 50)
    >>> adata.obs["library_id"].cat.categories.tolist()
    ['library_1', 'library_2']
    """
    params = {
        "n_libraries": n_libraries,
        "n_genes": n_genes,
        "lattice": lattice,
        "shape": shape,
        "n_programs": n_programs,
        "depth": depth,
        "library_effect": library_effect,
        "missing_spots": missing_spots,
        "image": image,
        "library_key": library_key,
        "random_state": random_state,
    }
    _check(params)
    spots = _lattice(lattice, shape)
    # One stream for the genes and one for each section: what a stream gives does not depend on the other streams.
    of_genes, *of_libraries = np.random.default_rng(random_state).spawn(n_libraries + 1)
    loadings = _loadings(of_genes, n_genes, n_programs)
    stains = _stains(n_programs)
    sections = [
        _section(generator, spots, loadings, depth, library_effect, missing_spots, stains if image else None)
        for generator in of_libraries
    ]
    names = [f"library_{number}" for number in range(1, n_libraries + 1)]
    adata = _assemble(sections, names, spots, library_key)
    adata.var[Key.var.gene_length] = np.clip(np.rint(of_genes.lognormal(7.6, 0.7, n_genes)), 300, 10000)
    adata.varm["programs"] = loadings
    record(adata, key="synthetic", function="datasets.synthetic", params=params, slots={})
    return adata


def _check(params: dict[str, Any]) -> None:
    for name, least in (("n_libraries", 1), ("n_genes", 2), ("n_programs", 2)):
        if not isinstance(params[name], int | np.integer) or params[name] < least:
            raise ValueError(f"{name}={params[name]!r} cannot be used: give a whole number of at least {least}.")
    if params["lattice"] not in ("hex", "grid"):
        raise ValueError(f"lattice={params['lattice']!r} cannot be used: expected 'hex' or 'grid'.")
    shape = params["shape"]
    if np.shape(shape) != (2,) or not all(isinstance(n, int | np.integer) and n >= 2 for n in shape):
        raise ValueError(f"shape={shape!r} cannot be used: give rows and spots per row, at least 2 each.")
    if not 0 < params["depth"] < np.inf:
        raise ValueError(f"depth={params['depth']!r} cannot be used: give a positive number of counts per spot.")
    if not 0 <= params["library_effect"] < np.inf:
        raise ValueError(f"library_effect={params['library_effect']!r} cannot be used: give 0 or a positive number.")
    if not 0 <= params["missing_spots"] < 1:
        raise ValueError(f"missing_spots={params['missing_spots']!r} cannot be used: give a share in [0, 1).")
    if params["library_key"] in (Key.obs.in_tissue, Key.obs.array_row, Key.obs.array_col):
        raise ValueError(f"library_key={params['library_key']!r} is the name of another column: pass another name.")


def _lattice(kind: str, shape: tuple[int, int]) -> _Lattice:
    row, col = (index.ravel() for index in np.indices(shape))
    if kind == "hex":
        col = 2 * col + row % 2
        xy = np.column_stack([col * _PITCH / 2, row * _PITCH * np.sqrt(3) / 2])
    else:
        xy = np.column_stack([col * _PITCH, row * _PITCH])
    width, height = xy.max(axis=0) + 2 * _MARGIN
    assay = {"hex": "visium", "grid": "st"}[kind]
    return _Lattice(assay, row_col=np.column_stack([row, col]), xy=xy + _MARGIN, width=width, height=height)


def _loadings(generator: np.random.Generator, n_genes: int, n_programs: int) -> np.ndarray:
    """Genes x programmes. Abundances are wide, so that some genes are in every spot and some in few."""
    abundance = generator.lognormal(0.0, 1.2, n_genes)
    loadings = generator.gamma(0.6, size=(n_genes, n_programs)) + 0.05
    return abundance[:, None] * loadings / loadings.mean(axis=1, keepdims=True)


def _stains(n_programs: int) -> np.ndarray:
    """Nuclei per area (column 0) and optical densities of a nucleus (columns 1 to 3) of every programme."""
    density = np.geomspace(0.15, 2.5, n_programs)
    # Neighbours in density differ in hue, so that no two programmes look alike.
    red = np.linspace(0, 1, n_programs)[np.argsort(np.arange(n_programs) % 2, kind="stable")]
    colour = np.outer(1 - red, _BLUE_NUCLEUS) + np.outer(red, _RED_NUCLEUS)
    return np.column_stack([density, colour])


def _section(
    generator: np.random.Generator,
    spots: _Lattice,
    loadings: np.ndarray,
    depth: float,
    library_effect: float,
    missing_spots: float,
    stains: np.ndarray | None,
) -> _Section:
    # Separate streams, so that drawing the image or leaving out spots changes nothing else.
    of_fields, of_counts, of_missing, of_image = generator.spawn(4)
    fields = _program_fields(of_fields, spots, loadings.shape[1])
    programs = _sample(fields, spots.xy)
    relative = programs @ loadings.T * np.exp(of_counts.normal(0.0, library_effect, loadings.shape[0]))
    spot_depth = depth * of_counts.lognormal(0.0, 0.3, len(relative))
    rate = spot_depth[:, None] * relative / relative.sum(axis=1, keepdims=True)
    counts = of_counts.poisson(rate)
    n_kept = max(1, round(len(rate) * (1 - missing_spots)))
    kept = np.sort(of_missing.permutation(len(rate))[:n_kept])
    return _Section(
        kept=kept,
        counts=sps.csr_matrix(counts[kept], dtype=np.float32),
        rate=rate[kept].astype(np.float32),
        programs=programs[kept],
        image=None if stains is None else _draw(of_image, spots, fields, stains),
    )


def _program_fields(generator: np.random.Generator, spots: _Lattice, n_programs: int) -> np.ndarray:
    """Proportions of the programmes on a grid of points over the image, `(n_programs, rows, columns)`."""
    size = (int(spots.height // _STEP) + 2, int(spots.width // _STEP) + 2)
    noise = generator.normal(size=(n_programs, *size))
    smooth = np.stack([_smooth_noise(field, 2.5 * _PITCH / _STEP) for field in noise])
    mixture = np.exp(2.2 * smooth)
    return mixture / mixture.sum(axis=0)


def _smooth_noise(noise: np.ndarray, sigma: float | tuple[float, float]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(noise, sigma, mode="reflect")
    return (smooth - smooth.mean()) / smooth.std()


def _sample(fields: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Values of the fields at full-resolution positions, `(n_positions, n_fields)`."""
    column, row = np.rint(xy / _STEP).astype(int).T
    return fields[:, row, column].T


def _scale(spots: _Lattice) -> float:
    """Hires pixels per full-resolution pixel."""
    return min(1.0, _IMAGE_WIDTH / max(spots.width, spots.height))


def _draw(generator: np.random.Generator, spots: _Lattice, fields: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Hires image: light that passes through eosin-stained stroma and nuclei."""
    from scipy.ndimage import gaussian_filter

    scale = _scale(spots)
    height, width = (int(np.ceil(round(length * scale, 6))) for length in (spots.height, spots.width))
    size = (height, width)
    tissue = _tissue(generator, spots, size, scale)
    # Fibres: noise that is smooth along one direction, waved by exchanging two directions from place to place.
    fine, coarse = 4 * scale, 30 * scale
    along, across = (_smooth_noise(generator.normal(size=size), s) for s in ((fine, coarse), (coarse, fine)))
    blend = 1 / (1 + np.exp(-4 * _smooth_noise(generator.normal(size=size), 150 * scale)))
    stroma = np.clip(1 + 0.22 * (blend * along + (1 - blend) * across), 0.2, None)
    density = stroma[..., None] * _EOSIN

    nuclei = generator.uniform(size=(generator.poisson(stains[:, 0].max() * _NUCLEI * spots.width * spots.height), 2))
    nuclei *= (spots.width - 1, spots.height - 1)
    # Thinning: a place of the programme k keeps a nucleus with a probability in proportion to the density of k.
    share = _sample(fields, nuclei) * (stains[:, 0] / stains[:, 0].max())
    chosen = (share.cumsum(axis=1) < generator.uniform(size=(len(nuclei), 1))).sum(axis=1)
    nuclei, chosen = nuclei[chosen < len(stains)], chosen[chosen < len(stains)]
    column, row = (nuclei * scale).astype(int).T
    area = np.pi * (_NUCLEUS_RADIUS * scale) ** 2 * generator.lognormal(0.0, 0.3, len(nuclei))
    for channel in range(3):
        dots = np.zeros(size)
        np.add.at(dots, (row, column), area * stains[chosen, 1 + channel])
        density[..., channel] += gaussian_filter(dots, 0.7 * _NUCLEUS_RADIUS * scale)
    density = density * tissue[..., None] + 0.02 + generator.normal(0.0, 0.008, (*size, 3))
    return np.clip(255 * np.exp(-density), 0, 255).astype(np.uint8)


def _tissue(generator: np.random.Generator, spots: _Lattice, size: tuple[int, int], scale: float) -> np.ndarray:
    """How much tissue a hires pixel holds: a wavy outline around all spots, with a soft edge."""
    y, x = (np.arange(n) / scale for n in size)
    outside_x = np.abs(x - spots.width / 2) - (spots.width / 2 - _MARGIN)
    outside_y = np.abs(y - spots.height / 2) - (spots.height / 2 - _MARGIN)
    distance = np.hypot(np.clip(outside_x, 0, None)[None], np.clip(outside_y, 0, None)[:, None])
    waves = np.tanh(_smooth_noise(generator.normal(size=size), 120 * scale))
    edge = (1.2 + 0.6 * waves) * _PITCH  # beyond the outermost spots everywhere
    return 1 / (1 + np.exp((distance - edge) / 4))


def _assemble(sections: list[_Section], names: list[str], spots: _Lattice, library_key: str) -> AnnData:
    from anndata import AnnData

    kept = np.concatenate([section.kept for section in sections])
    libraries = np.repeat(names, [len(section.kept) for section in sections])
    obs = pd.DataFrame(
        {
            Key.obs.in_tissue: 1,
            Key.obs.array_row: spots.row_col[kept, 0],
            Key.obs.array_col: spots.row_col[kept, 1],
            library_key: pd.Categorical(libraries, categories=names),
        },
        index=[f"spot{spot + 1:04d}_{library}" for spot, library in zip(kept, libraries, strict=True)],
    )
    n_genes = sections[0].counts.shape[1]
    adata = AnnData(
        X=sps.vstack([section.counts for section in sections], format="csr"),
        obs=obs,
        var=pd.DataFrame(index=[f"Gene{gene:03d}" for gene in range(1, n_genes + 1)]),
        layers={Key.layers.rate: np.vstack([section.rate for section in sections])},
    )
    adata.obsm[Key.obsm.spatial] = spots.xy[kept]
    adata.obsm["programs"] = np.vstack([section.programs for section in sections])
    scale = _scale(spots)
    adata.uns[Key.uns.spatial] = {
        name: {
            "images": {} if section.image is None else {"hires": section.image},
            "scalefactors": {
                "spot_diameter_fullres": _SPOT_DIAMETER,
                "tissue_hires_scalef": scale,
                "tissue_lowres_scalef": scale / 3,
            },
            "metadata": {"assay": spots.assay},
        }
        for name, section in zip(names, sections, strict=True)
    }
    return adata
