"""Predictions of crops, biopsies and otherwise stained sections, beside those of whole sections.

    python measurements/crops.py                ridge and nearest neighbours, with and without a common stain
    python measurements/crops.py --sizes        the same on patches of three sizes, without biopsies, stainings and mice
    python measurements/crops.py --candidates   other ways to standardise features and colours, ridge only

Each of HER2+ C2 to C5 (one patient) is predicted by a fit to the other three. The fit to C2, C3 and C4 also predicts three
crops of C5 (high and low half of the first principal component of the features, left third), three biopsies (a third of
the image, the rest cut away) and C5 in three other stainings; the fit to all four predicts B4, of another patient. The four
sections of the mouse olfactory bulb are predicted as C2 to C5 are. Targets are log2(TPM + 1) of all entries. Correlations
are within genes and sections with log1p(CP10K) of raw counts, zeros included; given depth: of what a parabola in the log
depth leaves of both.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import _results
import numpy as np
from sections import _raw

import spared_sc as sp
from spared_sc._core.validate import get_libraries
from spared_sc._images.features import classical
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.source import open_image
from spared_sc._images.tissue import tissue_mask
from spared_sc._models.prediction.linear import ridge_path

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

    Statistics = Callable[[str, np.ndarray, np.ndarray], np.ndarray]

KEY = {"library_key": "library_id"}
SECTIONS = ("C2", "C3", "C4", "C5")
BULBS = ("MOB1", "MOB2", "MOB3", "MOB4")
RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STAININGS = {  # factors of haematoxylin and eosin, and of red, green and blue light
    "more haematoxylin": (1.4, 0.7, (1, 1, 1)),
    "more eosin": (0.7, 1.3, (1, 1, 1)),
    "yellow light": (1, 1, (1, 0.93, 0.86)),
}
CONES = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])  # Reinhard's, from RGB

Scores = dict[str, float]


# --- data -------------------------------------------------------------------------------------------------------------


def her2() -> ad.AnnData:
    """Four sections of patient C and one of patient B; 128 genes chosen on the four."""
    adata = sp.datasets.her2st(["B4", *SECTIONS], images=True)
    of_c = adata[adata.obs["library_id"] != "B4"].copy()
    sp.pp.recipe_spared(of_c, **KEY)
    kept = adata.obs_names[(adata.obs["library_id"] == "B4") | adata.obs_names.isin(of_c.obs_names)]
    adata = adata[kept].copy()
    sp.pp.normalize_tpm(adata)
    chosen = of_c.var_names[of_c.var["spared_selected"]]
    adata.var["spared_selected"] = adata.var_names.isin(chosen)
    return adata


def bulb() -> ad.AnnData:
    """Four sections of two mice; 128 genes."""
    adata = _raw("MOB")
    sp.pp.recipe_spared(adata, **KEY)
    return adata


def image_of(adata: ad.AnnData, name: str) -> str:
    """The image file of a section."""
    return adata.uns["spatial"][name]["metadata"]["source_image_path"]


def pixels(adata: ad.AnnData, name: str) -> np.ndarray:
    """The image of a section."""
    source = open_image(image_of(adata, name))
    return np.array(source.read(0, source.shape[0], 0, source.shape[1]))


def embed(adata: ad.AnnData, sizes: tuple[float, ...], stain: str | None) -> ad.AnnData:
    """Classical features of patches of some sizes, side by side."""
    for size in sizes:
        sp.pp.extract_patches(adata, size=size, stain=stain, **KEY)
        sp.tl.embed_patches(adata, key_added=f"X_{size}", **KEY)
    adata.obsm["X"] = np.hstack([adata.obsm[f"X_{size}"] for size in sizes])
    return adata


def on_image(adata: ad.AnnData, image: np.ndarray) -> ad.AnnData:
    """The spots of C5 on another image, in the pixels of which their positions are."""
    factors = {**adata.uns["spatial"]["C5"]["scalefactors"], "tissue_hires_scalef": 1.0}
    adata = adata.copy()
    adata.uns["spatial"] = {"C5": {"images": {"hires": image}, "scalefactors": factors}}
    del adata.uns["spared_sc"]["patches"]
    return adata


def of(adata: ad.AnnData, *names: str) -> ad.AnnData:
    """Some sections."""
    return adata[adata.obs["library_id"].isin(names)].copy()


def restained(image: np.ndarray, haematoxylin: float, eosin: float, light: tuple[float, ...]) -> np.ndarray:
    """The image with other amounts of the stains under another light."""
    mix = (np.linalg.inv(RUIFROK) @ np.diag([haematoxylin, eosin, 1]) @ RUIFROK).astype(np.float32)
    result = np.empty_like(image)
    for rows in np.array_split(np.arange(len(image)), 40):
        value = np.exp(np.log((image[rows] + np.float32(1)) / 256) @ mix) * 256 * np.asarray(light, np.float32) - 1
        result[rows] = np.clip(np.rint(value), 0, 255)
    return result


def crops(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """Masks of the spots of a section: by what they look like, and by place."""
    values = adata.obsm["X"].astype(float)
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    first = np.linalg.svd(values, full_matrices=False)[0][:, 0]
    x = adata.obsm["spatial"][:, 0]
    high = first > np.median(first)
    return {"high": high, "low": ~high, "left": x <= np.quantile(x, 1 / 3)}


def biopsies(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """Masks of the spots in three parts of a section that a rectangle cuts out."""
    x, y = adata.obsm["spatial"].T
    return {
        "left": x <= np.quantile(x, 1 / 3),
        "right": x >= np.quantile(x, 2 / 3),
        "top": y <= np.quantile(y, 1 / 3),
    }


def cut_out(adata: ad.AnnData, image: np.ndarray, rows: np.ndarray, margin: float) -> ad.AnnData:
    """Some spots of a section, and the rectangle of its image around them."""
    part = adata[rows].copy()
    low = np.maximum(part.obsm["spatial"].min(axis=0) - margin, 0).astype(int)
    high = (part.obsm["spatial"].max(axis=0) + margin).astype(int)
    part.obsm["spatial"] = part.obsm["spatial"] - low
    return on_image(part, image[low[1] : high[1], low[0] : high[0]])


# --- scores -----------------------------------------------------------------------------------------------------------


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over genes of the correlation over spots."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    length = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return float(np.mean((one * other).sum(axis=0)[length > 1e-9] / length[length > 1e-9]))


def score(adata: ad.AnnData, predicted: np.ndarray) -> Scores:
    """Of the spots of one section."""
    chosen = np.flatnonzero(adata.var["spared_selected"])
    depth = np.asarray(adata.X.sum(axis=1), dtype=float).reshape(-1, 1)
    measured = np.log1p(1e4 * adata.X[:, chosen].toarray() / depth)
    terms = np.vander(np.log(depth[:, 0]), 3)
    rest = [values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0] for values in (predicted, measured)]
    error = predicted - adata.layers["log2tpm"][:, chosen].toarray()
    return {
        "pcc": correlation(predicted, measured),
        "pcc_at_depth": correlation(*rest),
        "mse": float((error**2).mean()),
    }


def change(after: np.ndarray, before: np.ndarray, whole: np.ndarray) -> Scores:
    """Root mean square change of predictions, relative to their standard deviation over the section."""
    return {"change": float(np.sqrt(((after - before) ** 2).mean() / whole.var(axis=0).mean()))}


def mean(scores: list[Scores]) -> Scores:
    """Of every score."""
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def named(setting: str, scores: Scores) -> Scores:
    """Scores under the name of what was predicted."""
    return {f"{setting}_{name}": value for name, value in scores.items()}


# --- what is measured -------------------------------------------------------------------------------------------------


def predicted(model: str, standardize: str, train: ad.AnnData, *new: ad.AnnData) -> list[np.ndarray]:
    """Predictions of some sections by a fit to others."""
    fitted = sp.tl.fit_predictor(
        train,
        model=model,
        target="log2tpm",
        loss="all",
        use_rep="X",
        model_params={"standardize": standardize},
        **KEY,
    )
    return [fitted.predict(section, **KEY).to_numpy() for section in new]


def whole(adata: ad.AnnData, names: tuple[str, ...], predict: Callable[..., list[np.ndarray]]) -> Scores:
    """Every section by a fit to the others."""
    scores = []
    for name in names:
        test = of(adata, name)
        scores.append(score(test, predict(of(adata, *(n for n in names if n != name)), test)[0]))
    return mean(scores)


def parts(
    adata: ad.AnnData, predict: Callable[..., list[np.ndarray]], masks: dict[str, np.ndarray], new: list[ad.AnnData]
) -> Scores:
    """Parts of C5 as they are in `new`, beside the same spots in the whole section."""
    test = of(adata, "C5")
    before, *after = predict(of(adata, "C2", "C3", "C4"), test, *new)
    return mean(
        [
            score(test[rows], values)
            | change(values, before[rows], before)
            | named("in_whole", score(test[rows], before[rows]))
            for rows, values in zip(masks.values(), after, strict=True)
        ]
    )


def arms(patch: str, stain: str | None) -> list[tuple[dict[str, Any], Callable[..., list[np.ndarray]]]]:
    """Both models and ways to standardise: the start of a row, and the predictions."""
    return [
        (
            {"patch": patch, "model": model, "standardize": standardize, "stain": stain or "none"},
            partial(predicted, model, standardize),
        )
        for model in ("ridge", "knn")
        for standardize in ("library", "train")
    ]


def of_c_and_b(
    adata: ad.AnnData, masks: dict[str, np.ndarray], predict: Callable[..., list[np.ndarray]]
) -> dict[str, float]:
    """Whole sections of patient C, crops of C5, and B4."""
    test, other = of(adata, "C5"), of(adata, "B4")
    row = named("whole", whole(adata, SECTIONS, predict))
    row |= named("crop", parts(adata, predict, masks, [test[mask].copy() for mask in masks.values()]))
    return row | named("patient", score(other, predict(of(adata, *SECTIONS), other)[0]))


def sections() -> None:
    """Ridge and nearest neighbours, both ways to standardise, with and without a common stain."""
    adata, mice = her2(), bulb()
    image = pixels(adata, "C5")
    masks = crops(embed(of(adata, "C5"), (3,), None))
    cuts = biopsies(of(adata, "C5"))
    pictures = [restained(image, *how) for how in STAININGS.values()]
    every = {how: np.ones(len(masks["high"]), dtype=bool) for how in STAININGS}
    margin = 7 / 2 * adata.uns["spatial"]["C5"]["scalefactors"]["spot_diameter_fullres"] + 2
    rows = []
    for stain in (None, "macenko"):
        embed(adata, (3,), stain)
        embed(mice, (3,), stain)
        test = of(adata, "C5")
        pieces = [embed(cut_out(test, image, mask, margin), (3,), stain) for mask in cuts.values()]
        others = [embed(on_image(test, picture), (3,), stain) for picture in pictures]
        for row, predict in arms("3", stain):
            row |= of_c_and_b(adata, masks, predict)
            row |= named("biopsy", parts(adata, predict, cuts, pieces))
            row |= named("stained", parts(adata, predict, every, others))
            rows.append(row | named("bulb", whole(mice, BULBS, predict)))
    _results.write("crops.sections", rows)


def several_sizes() -> None:
    """The same on patches of several sizes side by side."""
    adata = her2()
    masks = crops(embed(of(adata, "C5"), (3,), None))
    rows = []
    for stain in (None, "macenko"):
        embed(adata, (1, 3, 7), stain)
        rows += [row | of_c_and_b(adata, masks, predict) for row, predict in arms("1, 3, 7", stain)]
    _results.write("crops.sizes", rows)


# --- candidates -------------------------------------------------------------------------------------------------------


def reinhard(adata: ad.AnnData) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Reinhard et al. (2001): mean and spread of the log colours of the tissue, brought to the mean over C2 to C5."""
    opponents = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
    measured = {}
    for name in adata.obs["library_id"].unique():
        thumbnail, _ = open_image(image_of(adata, name)).thumbnail(2000)
        colours = np.log((thumbnail[tissue_mask(thumbnail)] + 1.0) @ CONES.T) @ opponents.T
        measured[name] = colours.mean(axis=0), colours.std(axis=0)
    to_mean, to_spread = np.mean([measured[name] for name in SECTIONS], axis=0)

    def recolour(name: str, patch: np.ndarray) -> np.ndarray:
        at, spread = measured[name]
        colours = (np.log((patch + 1.0) @ CONES.T) @ opponents.T - at) / spread * to_spread + to_mean
        value = np.exp(colours @ opponents) @ np.linalg.inv(CONES).T - 1
        return np.clip(np.rint(value), 0, 255).astype(np.uint8)

    return {name: partial(recolour, name) for name in measured}


def embed_reinhard(adata: ad.AnnData) -> ad.AnnData:
    """Classical features of patches of three spot diameters in those colours."""
    sp.pp.extract_patches(adata, size=3, **KEY)
    patches, recolour = resolve_patches(adata, get_libraries(adata, "library_id")), reinhard(adata)
    names = adata.obs["library_id"].astype(str)
    adata.obsm["X"] = np.concatenate(
        [classical(recolour[name](patches.read(np.array([row])))) for row, name in enumerate(names)]
    )
    return adata


def on_tissue(adata: ad.AnnData, name: str) -> np.ndarray:
    """Features of patches of three spot diameters on all tissue of an image."""
    mpp = 100 / adata.uns["spatial"][name]["scalefactors"]["spot_diameter_fullres"]
    lattice = {"spot_diameter": 100, "pitch": 150, "kind": "grid", "library_id": name}
    return embed(sp.pp.tile_slide(image_of(adata, name), mpp=mpp, **lattice), (3,), None).obsm["X"].astype(float)


def by_hand(fit: Statistics, predict: Statistics, train: ad.AnnData, *new: ad.AnnData) -> list[np.ndarray]:
    """Ridge on features that are standardised by some statistics, its penalty by sections."""
    names = train.obs["library_id"].astype(str).to_numpy()
    values = {name: train.obsm["X"][names == name].astype(float) for name in np.unique(names)}
    common = np.mean([[v.mean(axis=0), v.std(axis=0)] for v in values.values()], axis=0)
    order = np.argsort(names, kind="stable")
    inputs = np.concatenate([scaled(v, *fit(name, v, common), common) for name, v in values.items()])
    chosen = train.var["spared_selected"].to_numpy()
    target = train.layers["log2tpm"][:, np.flatnonzero(chosen)].toarray().astype(float)[order]
    known, fold = np.ones(target.shape, dtype=bool), np.unique(names[order], return_inverse=True)[1]
    errors: Any = 0
    for code in range(fold.max() + 1):
        inside, outside = fold != code, fold == code
        path = ridge_path(inputs[inside], target[inside], known[inside])
        errors += np.array([((inputs[outside] @ w + b - target[outside]) ** 2).sum() for w, b in path])
    weights, offset = ridge_path(inputs, target, known)[int(errors.argmin())]
    results = []
    for section in new:
        here, name = section.obsm["X"].astype(float), str(section.obs["library_id"].iloc[0])
        results.append(scaled(here, *predict(name, here, common), common) @ weights + offset)
    return results


def scaled(values: np.ndarray, centre: np.ndarray, spread: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Standardised features, clipped as those of the package."""
    return np.clip((values - centre) / np.maximum(spread, 0.1 * common[1] + 1e-9), -5, 5)


def shrunk(k: float, name: str, values: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Mean and spread of a section of n spots, with the weight n / (n + k) beside those of the train sections."""
    weight = len(values) / (len(values) + k)
    return weight * np.array([values.mean(axis=0), values.std(axis=0)]) + (1 - weight) * common


def of_train(name: str, values: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Mean and spread of the train sections."""
    return common


def candidates() -> None:
    """Other ways to standardise features and colours."""
    adata = her2()
    masks = crops(embed(of(adata, "C5"), (3,), None))
    tissue = {name: on_tissue(adata, name) for name in ("B4", *SECTIONS)}

    def of_tissue(name: str, values: np.ndarray, common: np.ndarray) -> np.ndarray:
        return np.array([tissue[name].mean(axis=0), tissue[name].std(axis=0)])

    own = partial(shrunk, 0)
    ways: dict[str, tuple[Statistics, Statistics]] = {"fit and predict by train sections": (of_train, of_train)}
    ways |= {"fit and predict by own spots": (own, own)}
    ways |= {f"own spots, shrunk by {k}": (partial(shrunk, k), partial(shrunk, k)) for k in (50, 150, 500)}
    ways |= {
        "tissue of the image": (of_tissue, of_tissue),
        "fit by own spots, predict by train sections": (own, of_train),
    }
    colours: dict[str, Callable[[ad.AnnData], ad.AnnData]] = {
        "as they are": partial(embed, sizes=(3,), stain=None),
        "Reinhard": embed_reinhard,
        "Macenko": partial(embed, sizes=(3,), stain="macenko"),
    }
    rows = []
    for colour, embedded in colours.items():
        embedded(adata)
        for way, (fit, predict) in ways.items():
            if colour == "as they are" or way != "tissue of the image":  # whose features are of the colours as they are
                start = {"colours": colour, "statistics": way}
                rows.append(start | of_c_and_b(adata, masks, partial(by_hand, fit, predict)))
    _results.write("crops.candidates", rows)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*have no length")  # of HER2+, see the docs
    warnings.filterwarnings(
        "ignore", message=".*use standardize=|.*its stain, scanner or tissue differs"
    )  # meant to be
    if sp.settings.data_dir is None:
        raise SystemExit("set SPARED_SC_DATA_DIR to the folder of the sections")
    if options.candidates:
        candidates()
    elif options.sizes:
        several_sizes()
    else:
        sections()


if __name__ == "__main__":
    main()
