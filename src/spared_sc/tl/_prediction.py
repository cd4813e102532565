"""From an AnnData to what predictors are given, and a predictor fitted to some of its libraries and applied to others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import as_given, slots_of
from spared_sc._core.report import logger, warn
from spared_sc._images.resolve import sources_by_library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from spared_sc._core.validate import Libraries
    from spared_sc._images.patches import Patches
    from spared_sc._models.prediction.base import How, Spots
    from spared_sc._models.prediction.fitted import FittedPredictor

LOSSES = ("detected", "all")
# Steps that look at one library at a time, or take away or add a constant of the gene.
_ALONE = ("pp.normalize_tpm", "pp.center", "pp.uncenter", "tl.median_complete", "tl.neighbor_mean_complete")
_ORIGIN = ("weights", "source", "licence")  # of what identifies an encoder
_SKETCH = 1024  # hashes that are kept of a section
_SAME_SIZE = 0.1  # by how much the side of a patch may differ from that in training
_SAME_RESOLUTION = 2.0  # by how many times the resolution of the image may


@dataclass(frozen=True)
class Part:
    """One fit: what it learns from, what selects, and what it predicts; masks over libraries."""

    train: np.ndarray
    validation: np.ndarray
    predicted: np.ndarray


def plan(
    split: np.ndarray | None, groups: np.ndarray, *, validates: bool = False, least_train: int = 1
) -> tuple[list[Part], list[str]]:
    """The fits to make, and the part that every library has in them.

    With a split there is one fit. Without, every group of libraries is predicted by a fit to the others; of these the
    group that follows selects, where the predictor makes use of one and enough are left to train on.
    """
    if split is not None:
        return [Part(split == "train", split == "val", np.ones(len(split), dtype=bool))], split.tolist()
    names = np.unique(groups)
    parts = []
    for i, name in enumerate(names):
        out = groups == name
        validation = np.zeros_like(out)
        if validates and len(names) - 2 >= least_train:
            validation = groups == names[(i + 1) % len(names)]
        parts.append(Part(~out & ~validation, validation, out))
    return parts, ["held out"] * len(groups)


def get_spots(
    adata: AnnData,
    libraries: Libraries,
    needs: tuple[str, ...],
    *,
    spatial_key: str,
    use_rep: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Spots:
    """What a predictor needs of the spots, apart from targets."""
    from spared_sc._kernels.counts import row_sums
    from spared_sc._models.prediction.base import Spots

    position = log_depth = None
    if "position" in needs or (needs and spatial_key in adata.obsm):
        position = validate.get_positions(adata, spatial_key)
    if "log_depth" in needs:
        counts, _ = validate.get_counts(adata)
        log_depth = np.log1p(row_sums(counts))
    return Spots(
        library=libraries.codes,
        position=position,
        patches=get_patches(adata, libraries, spatial_key, recipe) if "patches" in needs else None,
        embedding=validate.get_embedding(adata, use_rep) if "embedding" in needs else None,
        log_depth=log_depth,
    )


def get_patches(
    adata: AnnData, libraries: Libraries, spatial_key: str, recipe: Mapping[str, Any] | None = None
) -> Patches:
    """The patches that `pp.extract_patches` recorded; without a record those of a recipe, or the usual ones.

    A recipe gives the size in micrometres where it and the image know them: spots are of other sizes on other arrays.
    """
    from spared_sc._images.resolve import resolve_patches

    if recipe is None or Key.uns.patches in adata.uns.get(Key.uns.records, {}):
        return resolve_patches(adata, libraries, spatial_key=spatial_key)
    output_size = recipe["output_size"]
    named = {"size": recipe["size"], "unit": recipe["unit"]}
    patches = resolve_patches(adata, libraries, spatial_key=spatial_key, output_size=output_size, **named)
    if recipe["um_per_px"] is None or scale_of(patches.recipe)["um_per_px"] is None:
        return patches
    named = {"size": recipe["patch_px"] * recipe["um_per_px"], "unit": "um"}
    return resolve_patches(adata, libraries, spatial_key=spatial_key, output_size=output_size, **named)


def scale_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe is compared between training and use, sizes as medians over the libraries."""
    sources = list(sources_by_library(recipe["sources"]).values())
    side = float(np.median([one["patch_px"] for one in sources]))
    resolution = float(np.median([one["um_per_px"] for one in sources]))
    named = {name: recipe[name] for name in ("size", "unit", "output_size")}
    return {**named, "patch_px": side, "um_per_px": None if np.isnan(resolution) else resolution}


def check_scale(trained: Mapping[str, Any], recipe: Mapping[str, Any], *, force: bool) -> None:
    """Refuse patches that show another size of tissue, or another resolution, than those of training."""
    for name, source in sources_by_library(recipe["sources"]).items():
        _check_library_scale(trained, scale_of({**recipe, "sources": {name: source}}), name, force=force)


def _check_library_scale(trained: Mapping[str, Any], found: Mapping[str, Any], name: str, *, force: bool) -> None:
    if trained["um_per_px"] and found["um_per_px"]:
        factor = found["um_per_px"] / trained["um_per_px"]
        sides = [one["patch_px"] * one["um_per_px"] for one in (trained, found)]
        what = f"{sides[1]:.1f} um at {found['um_per_px']:.3g} um per pixel"
        wanted = f"{sides[0]:.1f} um at {trained['um_per_px']:.3g} um per pixel"
    else:
        factor = trained["patch_px"] / found["patch_px"]
        same = (trained["size"], trained["unit"]) == (found["size"], found["unit"])
        sides = [1.0, 1.0 if same else np.inf]
        what = f"{found['size']:g} {found['unit']} of {found['patch_px']:.0f} pixels"
        wanted = f"{trained['size']:g} {trained['unit']} of {trained['patch_px']:.0f} pixels"
    fits = abs(sides[1] / sides[0] - 1) <= _SAME_SIZE and 1 / _SAME_RESOLUTION <= factor <= _SAME_RESOLUTION
    if fits:
        return
    message = f"the patches of library {name!r} are {what}, those of training {wanted}"
    if not force:
        raise ValueError(
            f"{message}: the model has never seen such patches. Extract others with `sp.pp.extract_patches(adata, "
            "image=..., size=..., unit=..., mpp=...)`, or pass force=True."
        )
    logger.warning("%s; predictions are made all the same (force=True)", message)


def unit_of(adata: AnnData, layer: str) -> str:
    """The layer in whose unit a layer is: completion and batch correction keep it, centering does not."""
    records, visited = adata.uns.get(Key.uns.records, {}), set()
    while layer not in visited:
        visited.add(layer)
        made = records.get(layer, {})
        if made.get("function") == "pp.uncenter":
            made = records.get(str(made["params"]["layer"]), {})
        elif not str(made.get("function")).endswith(("_complete", ".combat")):
            break
        layer = str(made.get("params", {}).get("layer", layer))
    return layer


def learned_across(
    adata: AnnData, layer: str, libraries: Libraries, split_key: str | None, split: np.ndarray | None
) -> str:
    """Which step in the making of a layer has looked at other libraries than those of training, in words; else empty.

    A layer without a record is taken as it is.
    """
    records, visited = adata.uns.get(Key.uns.records, {}), set()
    while layer not in visited:
        visited.add(layer)
        made = _record_of(records, layer)
        params = made.get("params", {})
        if made and not _looks_at_one_library(made, libraries):
            here, past = f"layers[{layer!r}], made by `{made['function']}`", as_given(made.get("split"))
            if split is None or params.get("split_key") != split_key:
                return f"{here}, has learned from all sections"
            parts = set(zip(libraries.names, split.tolist(), strict=True))
            if past is not None and not parts <= set(zip(past["libraries"], past["parts"], strict=True)):
                return f"{here}, has learned from another split, which had the same name"
        layer = str(params.get("layer", layer))
    return ""


def _record_of(records: Mapping[str, Any], layer: str) -> Mapping[str, Any]:
    """How a layer was made, also where it is one of several, such as rates; empty where that is not known."""
    if layer in records:
        return records[layer]
    return next((one for one in records.values() if f'layers["{layer}"]' in slots_of(one)), {})


def _looks_at_one_library(made: Mapping[str, Any], libraries: Libraries) -> bool:
    """Whether a step learns nothing from other libraries of these data."""
    if made["function"] != "pp.combat" or made["params"].get("model") != "loaded":
        return made["function"] in _ALONE
    # Of a ComBat that was learned elsewhere, batches that it did not know get their own location and scale.
    new = set(np.atleast_1d(made["new_batches"]).tolist())
    return made["params"].get("batch_key") == "None" and set(libraries.names) <= new


def what_tells_apart(adata: AnnData, libraries: Libraries, spatial_key: str) -> str:
    """`"places"` of spots where these differ between the sections, unlike places on the array; else `"names"` of spots."""
    if spatial_key not in adata.obsm:
        return "names"
    sketches = fingerprints(adata, libraries, spatial_key, "places").values()
    return "names" if any(same_section(one, other) for one, other in combinations(sketches, 2)) else "places"


def fingerprints(adata: AnnData, libraries: Libraries, spatial_key: str, by: str) -> dict[str, list[int]]:
    """Every section's smallest hashes of its spots' places or names, as in `what_tells_apart`; see `same_section`."""
    if by == "places" and spatial_key in adata.obsm:
        places = np.rint(10 * np.nan_to_num(np.asarray(adata.obsm[spatial_key], dtype=float)[:, :2])).astype(np.int64)
    else:
        places = np.array([[crc32(name.encode())] for name in adata.obs_names])
    # One multiplication and shift per coordinate scatter the bits (a variant of splitmix64).
    hashed = np.zeros(len(places), dtype=np.uint64)
    for column in places.T:
        hashed = (hashed ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        hashed ^= hashed >> np.uint64(31)
    small = (hashed >> np.uint64(32)).astype(np.int64)
    return {
        name: np.unique(small[rows])[:_SKETCH].tolist()
        for name, rows in zip(libraries.names, libraries.rows(), strict=True)
    }


def same_section(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one of two sections holds most spots of the other, whatever they are called and however they were filtered.

    Up to the largest hash of a full sketch all hashes of its section are known, and a sample of its spots (Broder 1997).
    """
    known_to = min([max(sketch) for sketch in (one, other) if len(sketch) == _SKETCH], default=np.inf)
    first, second = ({hashed for hashed in sketch if hashed <= known_to} for sketch in (one, other))
    return len(first & second) > min(len(first), len(second)) / 2


def recognised(
    fitted: FittedPredictor, adata: AnnData, libraries: Libraries, spatial_key: str
) -> tuple[dict[str, str], np.ndarray]:
    """The part that every library had in a fit, and its code there, -1 for none."""
    roles, codes = {}, np.full(len(libraries.names), -1)
    for i, (name, sketch) in enumerate(
        fingerprints(adata, libraries, spatial_key, fitted.card["recognised_by"]).items()
    ):
        roles[name] = "test"
        for role, past in fitted.card["libraries"].items():
            for other, known in past.items():
                if same_section(sketch, known):
                    roles[name], codes[i] = role, fitted.card["codes"][other]
    return roles, codes


def appearance(spots: Spots) -> np.ndarray | None:
    """What tells spots unlike those in training: the embedding, or the colours and textures of the patches."""
    if spots.embedding is not None:
        return spots.embedding
    if spots.patches is None:
        return None
    from spared_sc._models.encoders import embed_all, load_encoder

    return embed_all(load_encoder("classical"), spots.patches, show_progress_bar=False)


def fit_one(
    name: str,
    params: Mapping[str, Any],
    spots: Spots,
    part: Part,
    genes: list[str],
    how: How,
    card: Mapping[str, Any],
    looks: np.ndarray | None,
    detected: np.ndarray,
    order: np.ndarray,
) -> FittedPredictor:
    """Fit a predictor to the train libraries of a part; `order` is one in which the order of the user's rows is lost."""
    from spared_sc._models.checkpoint import data_hash
    from spared_sc._models.prediction.fitted import FittedPredictor
    from spared_sc._models.prediction.novelty import Novelty
    from spared_sc._models.prediction.registry import make_predictor

    predictor = make_predictor(name, params)
    train = order[part.train[spots.library[order]]]
    validation = order[part.validation[spots.library[order]]]
    learned_from = spots.rows(train)
    seen = detected[train].any(axis=0)
    if not seen.all():
        warn(
            f"{int((~seen).sum())} genes are detected in no library that is learned from "
            f"({validate.listing([genes[i] for i in np.flatnonzero(~seen)], 5)}): their predictions mean nothing, and are "
            "not scored.",
        )
    predictor.fit(learned_from, spots.rows(validation) if validation.size else None, how)
    validation_role, rest = ("seen", "seen") if card["learned_across"] else ("val", "other")
    roles = np.where(part.train, "train", np.where(part.validation, validation_role, rest)).tolist()
    known = np.ones(learned_from.target.shape, dtype=bool) if learned_from.known is None else learned_from.known
    return FittedPredictor(
        predictor,
        genes,
        {
            **card,
            "libraries": {
                role: {
                    name: found
                    for (name, found), own in zip(card["libraries"].items(), roles, strict=True)
                    if own == role
                }
                for role in ("train", "val", "seen")
            },
            "codes": {name: i for i, name in enumerate(card["libraries"])},
            "n_spots": len(train),
            "params": dict(params),
            "data": data_hash(learned_from.target, known),
        },
        np.where(seen, replace(learned_from, known=detected[train]).gene_means(), np.float32(np.nan)),
        None if looks is None else Novelty.of(looks[train]),
    )


def make_how(
    random_state: int,
    device: str | None,
    batch_size: int | None,
    n_jobs: int | None,
    show_progress_bar: bool | None,
) -> How:
    """Check the arguments that say how to compute."""
    from spared_sc._core.compute import make_compute
    from spared_sc._models.prediction.base import How
    from spared_sc._models.training import resolve_device

    run = make_compute(random_state=random_state, device=device, batch_size=batch_size, n_jobs=n_jobs)
    return How(resolve_device(run.device), run.seed, run.batch_size or 256, run.n_threads, show_progress_bar)


def checkpoint_of(folder: str | Path | None, fold: int, n_folds: int) -> Path | None:
    """Folder for the state of one fit of several."""
    from pathlib import Path

    if folder is None:
        return None
    return Path(folder) / f"fold-{fold}" if n_folds > 1 else Path(folder)


def embedding_for(
    card: Mapping[str, Any], adata: AnnData, libraries: Libraries, spatial_key: str, how: How, *, force: bool
) -> np.ndarray:
    """The embedding that a fitted predictor needs: the one that is there, or else made with its encoder."""
    use_rep, encoder = card["use_rep"], card["encoder"]
    if use_rep in adata.obsm or encoder is None:
        found = adata.uns.get(Key.uns.records, {}).get(use_rep, {})
        if encoder is not None:
            _check_encoder(
                encoder,
                as_given(found.get("encoder")),
                f"obsm[{use_rep!r}]",
                f"remove it, `del adata.obsm[{use_rep!r}]`, and it is made here",
            )
        if card["patches"] is not None and "patches" in found:
            check_scale(card["patches"], found["patches"], force=force)
        return validate.get_embedding(adata, use_rep)
    from spared_sc._models.encoders import embed_all, load_encoder

    patches = get_patches(adata, libraries, spatial_key, card["patches"])
    check_scale(card["patches"], patches.recipe, force=force)
    made = card["embedded"]
    options = {"weights": made["weights"], "device": how.device, "random_state": made["random_state"]}
    try:
        model = load_encoder(made["encoder"], **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the weights of the encoder {made['encoder']!r} are not where they were in training ({error}). Embed with "
            f"`sp.tl.embed_patches(adata, encoder={made['encoder']!r}, weights=<the file>, key_added={use_rep!r})` first."
        ) from error
    _check_encoder(encoder, as_given(model.identity()), "the encoder that is found here", "get the same weights")
    return embed_all(model, patches, show_progress_bar=how.show_progress_bar)


def _check_encoder(wanted: Mapping[str, Any], found: Mapping[str, Any] | None, what: str, remedy: str) -> None:
    if found is not None and wanted.get("parameters") and found.get("parameters"):
        # The hash of the weights says all, wherever they came from and under whatever name.
        wanted, found = ({k: v for k, v in one.items() if k not in _ORIGIN} for one in (wanted, found))
    if found == wanted:
        return
    differs = "nothing is recorded about it"
    if found is not None:
        name = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
        differs = f"{name} is {found.get(name)!r} instead of {wanted.get(name)!r}"
    raise ValueError(f"{what} is not what the model was fitted on ({differs}): {remedy}.")
