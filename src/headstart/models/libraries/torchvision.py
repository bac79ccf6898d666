"""torchvision's classifiers, whose published weights are in torch's hub."""

from typing import Any

import torchvision.models as tv
from torch import nn

from headstart.errors import ModelError
from headstart.machine import package_version
from headstart.models.hubs import torch_hub_file
from headstart.models.libraries.families import DENSENET, RESNET, VGG, blocks
from headstart.models.libraries.library import IMAGENET_TERMS, Library, Loaded, Origin, Publication, Size
from headstart.models.weights import load_into, read_state_dict
from headstart.types import InputSpec

_FEATURES = blocks(r"features\.[1-9]\d*", "features")


def _network_names() -> list[str]:
    # The module argument leaves out detection, segmentation, video and quantized models.
    names: list[str] = tv.list_models(module=tv)
    return names


def _find_origin(name: str) -> Origin | None:
    if name in _network_names():
        return Origin(name, TORCHVISION, name, name, _input_spec(_default_weights(name).transforms()))
    if name in tv.list_models():
        raise ModelError(
            f"backbone {name!r} is in torchvision but is no image classifier; choose one, such as resnet18"
        )
    return None


def _default_weights(architecture: str) -> Any:
    return tv.get_model_weights(architecture).DEFAULT


def _input_spec(preset: Any) -> InputSpec:
    """Return the preprocessing of the published weights."""
    (crop,) = preset.crop_size
    (resize,) = preset.resize_size
    return InputSpec(
        size=(crop, crop),
        resize=resize,
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _make_network(architecture: str, size: Size) -> nn.Module:
    network: nn.Module = tv.get_model(architecture, weights=None, **_arguments(architecture, size))
    return network


def _arguments(architecture: str, size: Size) -> dict[str, Any]:
    """Return the arguments that an architecture needs beside its name."""
    if _has_position_embeddings(architecture):
        return {"image_size": size[0]}
    if architecture == "maxvit_t":
        return {"input_size": size}
    if architecture in ("googlenet", "inception_v3"):
        # As their published weights expect; the auxiliary classifiers served only their first training.
        return {"aux_logits": False, "transform_input": True, "init_weights": False}
    return {}


def _has_position_embeddings(architecture: str) -> bool:
    return architecture.startswith("vit_")


def _load_published(origin: Origin, size: Size) -> Loaded:
    needed = origin.spec.size
    if _has_position_embeddings(origin.architecture) and size != needed:
        raise ModelError(
            f"torchvision's {origin.name} has position embeddings for {needed[0]} px; got image size {size[0]}: "
            f"leave it at {needed[0]}, or use timm/vit_base_patch16_224, which adapts"
        )
    network = TORCHVISION.build(origin.variant, size)
    weights = _default_weights(origin.architecture)
    file = torch_hub_file(weights.url, origin.name)
    load_into(network, read_state_dict(file), (), str(file))
    return Loaded(network, f"ImageNet-1k, torchvision {weights}")


def _licence_of_weights(origin: Origin) -> str:
    stated = _default_weights(origin.architecture).meta.get("license", "none stated")
    return f"{stated}; {IMAGENET_TERMS}"


TORCHVISION = Library(
    name="torchvision",
    accepts="a torchvision classifier such as resnet18",
    example="mobilenet_v3_small",
    code_licence="BSD-3-Clause",
    names=_network_names,
    find=_find_origin,
    make=_make_network,
    version=lambda: f"torchvision {package_version('torchvision')}",
    publication=Publication(_load_published, _licence_of_weights),
    families={
        tv.ResNet: RESNET,
        tv.VGG: VGG,
        tv.MobileNetV2: _FEATURES,
        tv.MobileNetV3: _FEATURES,
        tv.EfficientNet: _FEATURES,
        # A downsampling layer opens the stage of the blocks that it feeds, as it does in timm.
        tv.ConvNeXt: blocks(r"features\.[1246]", "features"),
        tv.DenseNet: DENSENET,
        tv.VisionTransformer: blocks(r"encoder\.layers\.encoder_layer_\d+", "encoder", "encoder.layers"),
    },
)
