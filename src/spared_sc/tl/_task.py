"""From an AnnData to the data of a fit: spots, targets, and where both come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import validate
from spared_sc._core.copies import copies_of
from spared_sc._core.genes import saved_ids
from spared_sc._core.keys import Key
from spared_sc._core.lineage import fingerprint_source, fingerprints, leak, unit_of
from spared_sc._core.record import from_record, records_of
from spared_sc._core.report import warn
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.scale import recipe_of, scale_of
from spared_sc._kernels.folds import connected
from spared_sc._models.prediction.card import DataCard, EmbeddingCard
from spared_sc._models.prediction.registry import PREDICTORS, needs_of
from spared_sc._models.prediction.spots import LOSSES, MSE, Spots
from spared_sc.tl._target import COMPLETED, EXPRESSION, CompletedTarget, completed_target

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.compute import Compute
    from spared_sc._core.validate import Libraries
    from spared_sc._images.patches import AnyPatches
    from spared_sc._models.prediction.base import Predictor

CLASSICAL = "X_classical"  # default embedding
OF_LAYERS = ("detected", "all")  # losses of a target that is a layer: entries that count


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data and parameters that all fits of a predictor share."""

    predictor: type[Predictor]
    model: str
    params: dict[str, Any]
    spots: Spots  # with measured values as their target
    completed: CompletedTarget | None  # what replaces them where a fit learns
    genes: list[str]
    gene_ids: list[str] | None  # Ensembl ids, empty where a gene has none
    detected: np.ndarray  # (n_spots, n_genes)
    order: np.ndarray  # of the rows, independent of the user's
    novelty_features: np.ndarray | None  # (n_spots, d) where novelty was asked for
    split: np.ndarray | None  # of the libraries
    groups: np.ndarray  # of the libraries: those of one donor, and copies of one section, are held out together
    sketches: dict[str, list[int]]  # fingerprints of the libraries
    data: DataCard

    def learned(self, rows: np.ndarray, compute: Compute) -> Spots:
        """Spots to learn from; what is completed is completed from these alone."""
        spots = self.spots.take(rows)
        return spots if self.completed is None else self.completed.learned(spots, rows, compute)


def make_task(
    adata: AnnData,
    libraries: Libraries,
    model: str,
    *,
    target: str,
    layer: str,
    loss: str | None,
    use_rep: str | Sequence[str] | None,
    mask_var: str | None,
    subject_key: str | None,
    spatial_key: str,
    split_key: str | None,
    params: Mapping[str, Any] | None,
    novelty: bool,
) -> Task:
    """Find spots, targets and their lineage; refuse a split, a target, a loss or parameters that cannot be used."""
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f"model_params={params!r:.60} cannot be used: give a dictionary of names and values.")
    params = dict(params or {})
    predictor, needs = PREDICTORS.load(model), needs_of(model, use_rep)
    if use_rep is not None and "patches" in needs:
        raise ValueError(
            f"{model!r} reads patches and no embedding: leave out use_rep={use_rep!r}, or choose another model."
        )
    PREDICTORS.make(model, params)  # wrong parameters show before any work is done
    split = _checked_split(adata, split_key, libraries, predictor, model)
    loss = _checked_loss(loss, target, model)
    layer = _checked_layer(adata, target, layer)
    genes = np.flatnonzero(validate.gene_mask(adata, mask_var, optional=Key.var.selected))
    genes = genes[np.argsort(adata.var_names[genes], kind="stable")]  # no result depends on their order
    groups, sections = _groups(adata, libraries, validate.get_subjects(adata, subject_key, libraries), split)
    patches = resolve_patches(adata, libraries, spatial_key=spatial_key) if "patches" in needs else None
    names = embedding_names(CLASSICAL if use_rep is None else use_rep) if "embedding" in needs else []
    spots = get_spots(adata, libraries, needs, spatial_key=spatial_key, use_rep=names, patches=patches)
    values, detected = validate.get_block(adata, layer, genes)
    of_entries: dict[str, Any] = {"known": None if target == EXPRESSION or loss == "all" else detected}
    completed = None
    if target in COMPLETED:
        completed, counts, exposure = completed_target(
            adata, target, genes, layer=layer, library_key=libraries.key, spatial_key=spatial_key
        )
        if target == EXPRESSION:
            of_entries |= {"counts": counts, "exposure": exposure, "loss": loss}
    if "counts" in needs and "counts" not in of_entries:
        of_entries["counts"] = validate.dense(validate.get_counts(adata)[0][:, genes]).astype(np.float32)
    source = fingerprint_source(adata, libraries, spatial_key)
    return Task(
        predictor=predictor,
        model=model,
        params=params,
        spots=replace(
            spots,
            group=np.unique(groups, return_inverse=True)[1][libraries.codes],
            section=np.array([libraries.names.index(name) for name in sections])[libraries.codes],
            target=values,
            **of_entries,
        ),
        completed=completed,
        genes=adata.var_names[genes].tolist(),
        gene_ids=saved_ids(adata, genes),
        detected=detected,
        order=validate.canonical_order(adata, libraries, spatial_key),
        novelty_features=novelty_features(spots) if novelty else None,
        split=split,
        groups=groups,
        sketches=fingerprints(adata, libraries, spatial_key, source),
        data=DataCard(
            target=target,
            unit=unit_of(adata, layer),
            loss=loss,
            leak=leak(adata, layer, libraries, split_key, split),
            fingerprint_source=source,
            embeddings={name: _embedding_card(adata, name) for name in names},
            patches=None if patches is None else scale_of(patches.recipe),
        ),
    )


def embedding_names(use_rep: str | Sequence[str]) -> list[str]:
    """Names of embeddings; refused if there is none, or one occurs twice."""
    several = isinstance(use_rep, Sequence | np.ndarray) and not isinstance(use_rep, str)
    names: list[Any] = list(use_rep) if several else [use_rep]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"use_rep={use_rep!r} cannot be used: give the name of an embedding in adata.obsm, or a list of different ones."
        )
    return names


def _embedding_card(adata: AnnData, name: str) -> EmbeddingCard:
    """What is recorded of an embedding."""
    made = records_of(adata).get(name, {})
    if made.get("function") != "tl.embed_patches":
        made = {}
    return EmbeddingCard(
        encoder=from_record(made.get("encoder")),
        params=from_record(made.get("params")),
        patches=scale_of(recipe_of(made["patches"])) if "patches" in made else None,
    )


def _checked_split(
    adata: AnnData, split_key: str | None, libraries: Libraries, predictor: type[Predictor], model: str
) -> np.ndarray | None:
    """The split of the libraries; refused if the predictor needs validation libraries and there are none."""
    split = validate.get_split(adata, split_key, libraries)
    if split is not None and predictor.validates and "val" not in split:
        raise ValueError(
            f"{model!r} chooses its best step on validation libraries, and adata.obs[{split_key!r}] has none: set some to "
            "'val', as `sp.pp.split_libraries(adata)` does, or pass split_key=None."
        )
    return split


def _checked_layer(adata: AnnData, target: str, layer: str) -> str:
    """The layer behind a target; refused if a target could be the name of a layer as well."""
    if target not in COMPLETED:
        return target
    if target in adata.layers:
        raise ValueError(
            f"target={target!r} means completed values, and there is a layer of that name: rename the layer "
            f"(`adata.layers['my_{target}'] = adata.layers.pop({target!r})`)."
        )
    return layer


def losses_of(target: str) -> tuple[str, ...]:
    """Losses that a target can have, the default one first."""
    return OF_LAYERS if target not in COMPLETED else LOSSES if target == EXPRESSION else (MSE,)


def _checked_loss(loss: str | None, target: str, model: str) -> str:
    """The loss, or the default one of the target."""
    of_target = losses_of(target)
    loss = of_target[0] if loss is None else loss
    if loss not in of_target:
        raise ValueError(f"loss={loss!r} is unknown for target={target!r}: choose {validate.listing(of_target)}.")
    if loss in LOSSES[1:] and not PREDICTORS[model].takes_counts:
        able = [name for name in PREDICTORS if PREDICTORS[name].takes_counts]
        raise ValueError(
            f"{model!r} cannot be fitted to counts: choose loss={MSE!r}, or a predictor that can: "
            f"{validate.listing(able, 30)}."
        )
    return loss


def _groups(
    adata: AnnData, libraries: Libraries, subjects: Sequence[str], split: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Group of every library (its donor, and that of its copies), and its section, which copies share.

    Copies in several parts of a split are refused.
    """
    copies = copies_of(adata, libraries)
    for one, other, _, _ in copies:
        if split is not None and split[one] != split[other]:
            raise ValueError(
                f"libraries {libraries.names[one]!r} ({split[one]}) and {libraries.names[other]!r} ({split[other]}) hold "
                "the same section: a score would be taken on spots that were trained on. Put both into one part of the "
                "split, or drop one (`sp.pp.find_duplicate_libraries(adata)` lists them)."
            )
    if copies and split is None:
        names = [f"{libraries.names[one]} = {libraries.names[other]}" for one, other, _, _ in copies]
        warn(f"libraries that hold the same section are held out together: {validate.listing(names, 5)}.")
    of_subject = {subject: [i for i, name in enumerate(subjects) if name == subject] for subject in subjects}
    of_donors = [(members[0], member) for members in of_subject.values() for member in members]
    of_copies = [(one, other) for one, other, _, _ in copies]
    return _joined(subjects, of_donors + of_copies), _joined(libraries.names, of_copies)


def _joined(names: Sequence[str], pairs: list[tuple[int, int]]) -> np.ndarray:
    """The names, those that pairs connect replaced by the first of them."""
    joined = np.array(names, dtype=object)
    for members in connected(len(names), pairs):
        joined[members] = names[members[0]]
    return joined.astype(str)


def get_spots(
    adata: AnnData,
    libraries: Libraries,
    needs: tuple[str, ...],
    *,
    spatial_key: str,
    use_rep: Sequence[str] = (),
    patches: AnyPatches | None = None,
) -> Spots:
    """The spots with everything that a predictor needs but targets; embeddings, side by side, if `use_rep` names some."""
    from spared_sc._kernels.counts import row_sums

    position = place = log_depth = embedding = None
    if "position" in needs or (needs and spatial_key in adata.obsm):
        position = validate.get_positions(adata, spatial_key)
    if "place" in needs:
        place = validate.array_places(adata, libraries)
        if place is None:
            raise KeyError(
                "the model needs the place of every spot on the array: adata.obs has no 'array_row' and 'array_col', which "
                "`sp.datasets.read_visium` and `sp.datasets.read_st` read."
            )
    if "log_depth" in needs:
        counts, _ = validate.get_counts(adata)
        log_depth = np.log1p(row_sums(counts))
    if use_rep:
        embedding = np.hstack([validate.get_embedding(adata, name) for name in use_rep])
    return Spots(
        libraries.codes,
        position=position,
        place=place,
        lattice=validate.get_lattice(adata, libraries, spatial_key) if "lattice" in needs else None,
        patches=patches,
        embedding=embedding,
        log_depth=log_depth,
    )


def novelty_features(spots: Spots) -> np.ndarray | None:
    """Features by which unusual spots are found: the embedding, or colours and textures of the patches."""
    if spots.embedding is not None or spots.patches is None:
        return spots.embedding
    from spared_sc._models.encoders import embed_all, load_encoder

    return embed_all(load_encoder("classical"), spots.patches, show_progress_bar=False)
