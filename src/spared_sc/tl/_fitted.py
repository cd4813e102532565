"""A fitted predictor: its fit to a fold, its application to a slide, and its checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import make_compute
from spared_sc._core.genes import match_genes
from spared_sc._core.keys import Key
from spared_sc._core.lineage import fingerprints
from spared_sc._core.record import from_record, records_of
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.scale import check_scale, recipe_of
from spared_sc._kernels.fingerprint import match_libraries
from spared_sc._kernels.prediction_shrinkage import prediction_weights
from spared_sc._kernels.threads import limited_threads
from spared_sc._models import checkpoint
from spared_sc._models.prediction.card import Card, KnownLibrary, read
from spared_sc._models.prediction.linear import folds
from spared_sc._models.prediction.novelty import Novelty
from spared_sc._models.prediction.registry import PREDICTORS, needs_of
from spared_sc._models.prediction.spots import present
from spared_sc.tl._embed_patches import neighborhood_mean
from spared_sc.tl._target import COMPLETED, EXPRESSION
from spared_sc.tl._task import get_spots, losses_of, novelty_features

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from spared_sc._core.compute import Compute
    from spared_sc._core.validate import Libraries
    from spared_sc._kernels.folds import Fold
    from spared_sc._models.prediction.base import Predictor
    from spared_sc._models.prediction.spots import Spots
    from spared_sc.tl._task import Task

_KIND = "predictor"
# Not finite: of genes that are undetected in training, or not judged, and of features of an embedding that do not vary.
_SAVED: dict[str, Any] = {"gaps": ("gene_mean", "support."), "unbounded": ("model.scale", "novelty.scale")}
INNER_FITS = 3  # that show how far a prediction is supported
_ORIGIN = ("weights", "source", "licence")  # of the identity of an encoder


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted expression of all spots, and how it was made."""

    values: np.ndarray  # (n_spots, n_genes) float32
    genes: list[str]
    out_of_distribution: np.ndarray | None  # (n_spots,) bool
    roles: dict[str, str]  # of every library in fitting
    groups: dict[str, str]  # of every library: those that were held out together
    details: dict[str, Any]  # for the record
    skill: np.ndarray | None  # (n_genes,) on held-out counts, where the target is expression

    def table(self, adata: AnnData) -> pd.DataFrame:
        """Spots x genes."""
        import pandas as pd

        return pd.DataFrame(self.values, index=adata.obs_names, columns=self.genes)


@dataclass(frozen=True)
class FittedPredictor:
    """A predictor that was fitted by :func:`spared_sc.tl.fit_predictor` or loaded by :func:`spared_sc.tl.load_predictor`.

    Its `card` says how it was fitted: target and unit, loss, patches and encoder that it needs, libraries it was fitted to,
    a hash of the data.
    """

    predictor: Predictor
    card: Card
    # (g,) of the target in training: of expression at the gene's share, else over the detected entries; NaN without any
    gene_mean: np.ndarray
    novelty: Novelty | None = None
    support: Support | None = None

    @property
    def name(self) -> str:
        """Name of the predictor."""
        return self.card.model

    @property
    def genes(self) -> list[str]:
        """Predicted genes."""
        return self.card.genes

    @property
    def needs(self) -> tuple[str, ...]:
        """Parts of a spot that it reads, such as "patches"."""
        return needs_of(self.name, list(self.card.data.embeddings) or None)

    def __repr__(self) -> str:
        n_train = sum(library.role == "train" for library in self.card.libraries.values())
        target = self.card.data.target
        target = target if target in COMPLETED else f"layer {target!r}"
        return f"{self.name}: {target} of {len(self.genes)} genes, fitted on {n_train} libraries ({self.card.n_spots:,} spots)"

    @docs.fill()
    def predict(
        self,
        adata: AnnData,
        *,
        library_key: str | None = None,
        spatial_key: str = Key.obsm.spatial,
        force: bool = False,
        device: str | None = None,
        batch_size: int | None = None,
        n_jobs: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> pd.DataFrame:
        """Predict the expression of a slide without changing it.

        :func:`spared_sc.tl.predict_expression` with this predictor as `model` writes the same table into the AnnData.

        Parameters
        ----------
        adata
            Spots with an image and positions, or with the embedding that the predictor was fitted on. Expression is not
            needed.
        {library_key}
        {spatial_key}
        force
            Predict even if the patches differ from training in tissue size or resolution.
        {device}
        {batch_size}
        {n_jobs}
        {show_progress_bar}

        Returns
        -------
        Spots x genes, float32, in the unit of the target layer. Genes have the names of `adata` where it has them, by the
        Ensembl ids in `var["gene_ids"]` or in the names if both have some, else by name.

        Raises
        ------
        ValueError
            If patches or embedding do not match those of training.
        """
        compute = make_compute(device=device, batch_size=batch_size, n_jobs=n_jobs, show_progress_bar=show_progress_bar)

        @accepts_spatialdata
        def table(adata: AnnData) -> pd.DataFrame:
            adata = validate.check_adata(adata, genes=False)
            libraries = validate.get_libraries(adata, library_key)
            return self.apply(adata, libraries, spatial_key, compute, force=force).table(adata)

        return table(adata)

    def apply(
        self, adata: AnnData, libraries: Libraries, spatial_key: str, compute: Compute, *, force: bool
    ) -> Prediction:
        """Predict the expression of a slide."""
        data, needs = self.card.data, self.needs
        patches = None
        if "patches" in needs:
            patches = resolve_patches(adata, libraries, like=data.patches, spatial_key=spatial_key)
            if data.patches is not None:
                check_scale(data.patches, patches.recipe, force=force)
        spots = get_spots(adata, libraries, needs, spatial_key=spatial_key, patches=patches)
        if data.embeddings:
            parts = [
                self._read(adata, name, force=force)
                if name in adata.obsm or made.encoder is None
                else self._embed(adata, libraries, name, spatial_key, compute, force=force)
                for name, made in data.embeddings.items()
            ]
            spots = replace(spots, embedding=np.hstack(parts))
        roles, own_library = self._match(adata, libraries, spatial_key)
        placed, own = self.predictor.place(compute), own_library[libraries.codes]
        with limited_threads(compute.network_threads):
            values = self.values_of(spots, placed, own)
            features = None if self.novelty is None else novelty_features(spots)
            flags = None if self.novelty is None or features is None else self.novelty.out_of_distribution(features)
        logger.info("predicted %s on the scale of layer %r of the training data", data.target, data.unit)
        return Prediction(
            values=values,
            genes=self._names_in(adata),
            out_of_distribution=flags,
            roles=roles,
            groups={name: name for name in libraries.names},
            details={"gene_mean": self.gene_mean, "card": self.card.summary()},
            skill=None if self.support is None else self.support.skill,
        )

    def values_of(self, spots: Spots, compute: Compute, own_library: np.ndarray) -> np.ndarray:
        """Predictions; of expression none is below zero, and patterns count as far as held-out counts support them."""
        values = self.predictor.predict(spots, compute, own_library=own_library)
        if values.shape != (len(spots), len(self.genes)):
            raise ValueError(
                f"{self.name!r} predicts {values.shape[1]} genes, and its card names {len(self.genes)}: fit and save it again."
            )
        n_bad = int((~np.isfinite(values)).sum())
        if n_bad:
            raise ValueError(
                f"{self.name!r} predicts NaN or infinite values for {n_bad} of {values.size} entries: its weights, or what it "
                "predicts from, are too large. Fit it again, with other parameters or inputs."
            )
        if self.card.data.target != EXPRESSION:
            return values
        if self.support is not None:
            flat = np.nan_to_num(self.gene_mean)
            values = flat + self.support.weight * (values - flat)
        return np.maximum(values, 0)

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder: safetensors and a JSON card.

        Raises
        ------
        ValueError
            If the folder holds something else.
        OSError
            If it cannot be written.
        """
        arrays, values = self.predictor.state()
        arrays = {f"model.{name}": array for name, array in arrays.items()} | {
            "gene_mean": self.gene_mean,
            checkpoint.GENES: checkpoint.genes_hash(self.genes, self.card.gene_ids),
        }
        if self.novelty is not None:
            arrays |= {f"novelty.{name}": array for name, array in self.novelty.arrays().items()}
        if self.support is not None:
            arrays |= {f"support.{name}": array for name, array in asdict(self.support).items()}
        checkpoint.save(folder, _KIND, arrays, {"predictor": asdict(self.card), "state": values}, **_SAVED)

    @classmethod
    def load(cls, folder: str | Path) -> FittedPredictor:
        """The predictor that `save` wrote; errors as of :func:`spared_sc.tl.load_predictor`."""
        arrays, saved = checkpoint.load(folder, _KIND, **_SAVED)
        with checkpoint.fitting(f"the model in {folder}", "Fit and save it again."):
            card = read(Card, saved.get("predictor"))
            checkpoint.check_genes(arrays, card.genes, card.gene_ids)
            groups: dict[str, dict[str, np.ndarray]] = {
                name: {} for name in ("model", "novelty", "support", "gene_mean")
            }
            for name, array in arrays.items():
                group, _, rest = name.partition(".")
                groups[group][rest] = array
            predictor = PREDICTORS.load(card.model).from_state(groups["model"], saved["state"])
            novelty = Novelty.from_arrays(groups["novelty"]) if groups["novelty"] else None
            support = Support(**groups["support"]) if groups["support"] else None
            fitted = cls(predictor, card, groups["gene_mean"][""], novelty, support)
            fitted._check()
            return fitted

    def _check(self) -> None:
        """A ValueError if names and arrays are not of the same genes, or the card is not that of such a predictor."""
        data = self.card.data
        if data.loss not in losses_of(data.target):
            raise ValueError(f"a loss of {data.target!r:.60} is not {data.loss!r:.60}")
        if ("embedding" in self.needs) != bool(data.embeddings):
            raise ValueError(f"{self.name!r} needs {self.needs}, and its embeddings are {list(data.embeddings)!r:.60}")
        n_genes = len(checkpoint.names_of(self.genes))
        checkpoint.ids_of(self.card.gene_ids, self.genes)
        of_genes = {"gene_mean": self.gene_mean}
        if self.support is not None:
            of_genes |= {"support": self.support.weight}
        if self.support is not None and not ((self.support.weight >= 0) & (self.support.weight <= 1)).all():
            raise ValueError("a weight of a pattern is not between 0 and 1")
        for name, array in of_genes.items():
            if array.shape != (n_genes,):
                raise ValueError(f"{name} has the shape {array.shape}, expected ({n_genes},)")

    def _names_in(self, adata: AnnData) -> list[str]:
        """The predicted genes as the data call them, by Ensembl id, else by name.

        A gene that is not in the data keeps its name, or has its id where the data have another gene of that name.
        """
        ids = self.card.gene_ids or [""] * len(self.genes)
        at = match_genes(self.genes, self.card.gene_ids, adata.var_names, adata.var.get(Key.var.gene_ids))
        own = [id_ if id_ and gene in adata.var_names else gene for gene, id_ in zip(self.genes, ids, strict=True)]
        names = [adata.var_names[i] if i >= 0 else name for i, name in zip(at, own, strict=True)]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(
                f"two genes of the model would be called {validate.listing(twice)} in these data: put Ensembl ids into "
                'adata.var["gene_ids"], or name the genes as in training.'
            )
        return names

    def _match(self, adata: AnnData, libraries: Libraries, spatial_key: str) -> tuple[dict[str, str], np.ndarray]:
        """The role that every library had in the fit, and its code there, -1 for none."""
        sketches = fingerprints(adata, libraries, spatial_key, self.card.data.fingerprint_source)
        known = self.card.libraries
        matched = match_libraries(sketches, {name: library.sketch for name, library in known.items()})
        roles = {name: known[matched[name]].role if name in matched else "test" for name in libraries.names}
        codes = [known[matched[name]].code if name in matched else -1 for name in libraries.names]
        return roles, np.array(codes)

    def _read(self, adata: AnnData, use_rep: str, *, force: bool) -> np.ndarray:
        """An embedding in the AnnData, if it was made as in training, from patches of the same scale."""
        trained, made = self.card.data.embeddings[use_rep], records_of(adata).get(use_rep, {})
        remedy = f"remove it with `del adata.obsm[{use_rep!r}]` to have it made here"
        if trained.encoder is not None:
            _check_encoder(trained.encoder, from_record(made.get("encoder")), f"obsm[{use_rep!r}]", remedy)
        if trained.patches is not None and trained.params is not None and "patches" in made:
            check_scale(trained.patches, recipe_of(made["patches"]), force=force)
            here = from_record(made["params"])
            if not _same_features(trained.params, here):
                differs = ", ".join(f"{name}={here.get(name)}" for name in ("size", "n_rings"))
                wanted = ", ".join(f"{name}={trained.params.get(name)}" for name in ("size", "n_rings"))
                raise ValueError(f"obsm[{use_rep!r}] has {differs}, the model was fitted on {wanted}: {remedy}.")
        return validate.get_embedding(adata, use_rep)

    def _embed(
        self, adata: AnnData, libraries: Libraries, use_rep: str, spatial_key: str, compute: Compute, *, force: bool
    ) -> np.ndarray:
        """An embedding by the encoder of training, of patches of the same sizes."""
        from spared_sc._models.encoders import embed_all, load_encoder

        trained = self.card.data.embeddings[use_rep]
        made: dict[str, Any] = trained.params or {}
        name, sizes = made["encoder"], made["size"]
        try:
            encoder = load_encoder(
                name, weights=made["weights"], device=compute.device, random_state=made["random_state"]
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the weights of the encoder {name!r} are not where they were in training ({error}). Embed with "
                f"`sp.tl.embed_patches(adata, encoder={name!r}, weights=<the file>, key_added={use_rep!r})` first."
            ) from error
        identity = from_record(encoder.identity())
        _check_encoder(trained.encoder or {}, identity, "the encoder found here", "get the same weights")
        parts = []
        for size in sizes:
            scale = present(trained.patches, "scale of the patches").times(size / sizes[0])
            asked: dict[str, Any] = {}
            if len(sizes) > 1 or len(self.card.data.embeddings) > 1:  # more than a record on the slide can name
                asked = dict(zip(("size", "unit"), scale.measure, strict=True))
            patches = resolve_patches(adata, libraries, like=scale, spatial_key=spatial_key, **asked)
            check_scale(scale, patches.recipe, force=force)
            part = embed_all(
                encoder,
                patches,
                batch_size=compute.batch_size,
                show_progress_bar=compute.show_progress_bar,
                n_threads=compute.n_threads,
            )
            parts.append(part)
        return neighborhood_mean(np.hstack(parts), adata, libraries, spatial_key, made["n_rings"])


def _same_features(trained: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two embeddings join the same sizes, up to their unit, and average over the same neighbours."""
    one, other = (np.array(made["size"]) / made["size"][0] for made in (trained, here))
    return one.shape == other.shape and np.allclose(one, other) and trained["n_rings"] == here["n_rings"]


def _check_encoder(trained: Mapping[str, Any], here: Mapping[str, Any] | None, where: str, remedy: str) -> None:
    """Refuse an embedding or an encoder that is not that of the training."""
    if here is not None and trained.get("parameters") and here.get("parameters"):
        # The hash of the weights identifies them, wherever they came from and under whichever name.
        trained, here = ({k: v for k, v in identity.items() if k not in _ORIGIN} for identity in (trained, here))
    differs = "its encoder is not recorded"
    if here is not None:
        names = [name for name in (*trained, *here) if here.get(name) != trained.get(name)]
        if not names:
            return
        name = names[0]
        differs = f"{name} is {here.get(name)!r:.60} instead of {trained.get(name)!r:.60}"
    raise ValueError(f"{where} is not what the model was fitted on ({differs}): {remedy}.")


def fit_fold(task: Task, fold: Fold, compute: Compute) -> FittedPredictor:
    """Fit a predictor to the train libraries of a fold."""
    codes = task.spots.library[task.order]
    train, validation = task.order[fold.train[codes]], task.order[fold.validation[codes]]
    detected = task.detected[train].any(axis=0)
    if not detected.all():
        missing = [task.genes[i] for i in np.flatnonzero(~detected)]
        warn(
            f"{len(missing)} genes are undetected in every training library ({validate.listing(missing, 5)}): their "
            "predictions are not meaningful and are not scored.",
        )
    predictor, spots = fit_rows(task, train, validation, compute)
    support = None
    if task.data.target == EXPRESSION and not predictor.interrupted:
        support = Support.of(task, predictor, train, validation, compute)
    novelty = None if task.novelty_features is None else Novelty.of(task.novelty_features[train])
    rest = "seen" if task.data.leak else ""
    roles = np.where(fold.train, "train", np.where(fold.validation, rest or "val", rest)).tolist()
    sketches = enumerate(task.sketches.items())
    means = replace(spots, known=task.detected[train]).gene_means() if spots.exposure is None else spots.flat()
    card = Card(
        model=task.model,
        params=task.params,
        genes=task.genes,
        gene_ids=task.gene_ids,
        data=task.data,
        libraries={name: KnownLibrary(roles[i], i, sketch) for i, (name, sketch) in sketches if roles[i]},
        n_spots=len(train),
        data_hash=checkpoint.data_hash(*spots.targets()),
    )
    return FittedPredictor(predictor, card, np.where(detected, means, np.float32(np.nan)), novelty, support)


def fit_rows(task: Task, train: np.ndarray, validation: np.ndarray, compute: Compute) -> tuple[Predictor, Spots]:
    """A predictor fitted to the spots in some rows, and these spots with what it has learned."""
    predictor = PREDICTORS.make(task.model, task.params)
    spots = task.learned(train, compute)
    with limited_threads(compute.network_threads):
        predictor.fit(spots, task.spots.take(validation) if validation.size else None, compute)
    return predictor, spots


@dataclass(frozen=True)
class Support:
    """What raw counts of sections outside of the fit say of the predictions, (n_genes,)."""

    weight: np.ndarray  # of the gene's pattern, 0 (flat) to 1
    skill: np.ndarray  # deviance explained beyond depth times the gene's share

    def __post_init__(self) -> None:
        if self.weight.shape != self.skill.shape:
            raise ValueError("there is not one weight for each gene.")

    @classmethod
    def of(
        cls, task: Task, predictor: Predictor, train: np.ndarray, validation: np.ndarray, compute: Compute
    ) -> Support | None:
        """By validation spots, where the predictor chooses its step on some; else by fits to parts of the train spots.

        Predictions of a network without a validation library are not shrunk: more fits would cost too much.
        """
        if predictor.validates:
            rows = validation
            if not rows.size:
                return None
            predicted = _predicted(task, predictor, rows, compute)
        else:
            rows, predicted = train, _cross_predicted(task, train, compute)
        spots = task.spots.take(rows)
        counts, exposure = present(spots.counts, "counts"), present(spots.exposure, "exposure")
        return cls(*prediction_weights(counts, exposure, predicted, spots.library, spots.position))


def _cross_predicted(task: Task, train: np.ndarray, compute: Compute) -> np.ndarray:
    """Predictions of the train spots, each by a fit to the others' sections (or donors, or parts of the section)."""
    predicted = np.empty((len(train), len(task.genes)), dtype=np.float32)
    fold = folds(task.spots.take(train), INNER_FITS)
    for code in np.unique(fold):
        with warnings.catch_warnings():  # the fit to all of them says what there is to say
            warnings.simplefilter("ignore", UserWarning)
            inner, _ = fit_rows(task, train[fold != code], train[:0], compute)
            predicted[fold == code] = _predicted(task, inner, train[fold == code], compute)
    return predicted


def _predicted(task: Task, predictor: Predictor, rows: np.ndarray, compute: Compute) -> np.ndarray:
    """Predictions of the spots in some rows, by a predictor that has not learned from them."""
    spots = task.spots.take(rows)
    with limited_threads(compute.network_threads):
        return predictor.predict(spots, compute, own_library=spots.library)
