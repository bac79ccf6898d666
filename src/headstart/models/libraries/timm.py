"""timm's networks, whose published weights are in the Hugging Face hub, or where their makers keep them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm import models
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.machine import package_version
from headstart.models.hubs import hugging_face_file, torch_hub_file
from headstart.models.libraries.families import DENSENET, RESNET, VGG, blocks
from headstart.models.libraries.library import Library, Loaded, Origin, Publication, Size
from headstart.types import InputSpec

_PREFIX = "timm/"
_BLOCKS = blocks(r"blocks\.\d+", "blocks")
# What timm needs to know beside the geometry to rebuild the network from the folder.
_CONFIG_KEYS = ("fixed_input_size", "first_conv", "classifier")
_OWN_LOADER = """\
import timm

network = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()"""


def _network_names() -> list[str]:
    return [f"{_PREFIX}{name}" for name in timm.list_models()]


def _find_origin(name: str) -> Origin | None:
    variant = name.removeprefix(_PREFIX)
    if not timm.is_model(variant):
        return None
    try:
        cfg = timm.get_pretrained_cfg(variant, allow_unregistered=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"backbone {name!r}: {reason}; leave the tag out for the default") from error
    return Origin(name, TIMM, cfg.architecture, variant, _input_spec(cfg))


def _input_spec(cfg: Any) -> InputSpec:
    """Return the preprocessing of the published weights."""
    _, height, width = cfg.input_size
    # As timm's own evaluation does: the shorter side, rounded down; 'squash' ignores the aspect ratio.
    resize = (math.floor(height / cfg.crop_pct), math.floor(width / cfg.crop_pct))
    return InputSpec(
        size=(height, width),
        resize=resize if cfg.crop_mode == "squash" else min(resize),
        interpolation=cfg.interpolation,
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
    )


def _make_network(variant: str, size: Size, **arguments: Any) -> nn.Module:
    """Build a network that has a head, for one size of input where it needs that."""
    cfg = timm.get_pretrained_cfg(variant, allow_unregistered=False)
    if cfg.num_classes == 0:
        # A feature extractor (DINOv2) gets a random head, so that there is one to replace.
        arguments["num_classes"] = 1000
    if cfg.fixed_input_size:
        arguments["img_size"] = size
    network: nn.Module = timm.create_model(variant, **arguments)
    return network


def _load_published(origin: Origin, size: Size) -> Loaded:
    cfg = timm.get_pretrained_cfg(origin.variant)
    file = _published_file(cfg, origin.name)
    # Naming the file keeps timm off the network; .npz is the format of other makers, which timm converts.
    overlay = {"file": str(file), "custom_load": file.suffix == ".npz"}
    network = TIMM.build(origin.variant, size, pretrained=True, pretrained_cfg_overlay=overlay)
    return Loaded(network, cfg.hf_hub_id or file.name, has_source_head=cfg.num_classes > 0)


def _published_file(cfg: Any, backbone: str) -> Path:
    """Return the file of published weights, fetched where it is not on this machine yet."""
    if cfg.hf_hub_id:
        names: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
        if cfg.hf_hub_filename:
            names = (cfg.hf_hub_filename,)
        return hugging_face_file(cfg.hf_hub_id, names, backbone)
    if cfg.url:
        return torch_hub_file(cfg.url, backbone)
    raise ModelError(
        f"timm publishes no weights for {backbone}; give --weights PATH, or --weights none for random ones"
    )


def _licence_of_weights(origin: Origin) -> str:
    stated = timm.get_pretrained_cfg(origin.variant).license or "none stated"
    return f"{stated} as timm states; the terms of their training data apply too"


def _declared_head(network: nn.Module) -> str | tuple[str, ...] | None:
    declared: str | tuple[str, ...] | None = _cfg_of(network).get("classifier")
    return declared


def _config_keys(network: nn.Module) -> dict[str, Any]:
    cfg = _cfg_of(network)
    return {key: cfg[key] for key in _CONFIG_KEYS if key in cfg}


def _cfg_of(network: nn.Module) -> Mapping[str, Any]:
    cfg: Mapping[str, Any] = getattr(network, "pretrained_cfg", {})
    return cfg


def _convert(origin: Origin, size: Size, state: Mapping[str, Tensor]) -> nn.Module | None:
    """Load tensors under a maker's own names, or with position embeddings for another size, as timm does."""
    if timm.get_pretrained_cfg(origin.variant).num_classes == 0:
        return None
    overlay = {"state_dict": state}
    try:
        network = TIMM.build(origin.variant, size, pretrained=True, pretrained_cfg_overlay=overlay)
    except ModelError:
        return None
    vars(network)["pretrained_cfg"].pop("state_dict")  # else the network would hold the weights twice
    return network


TIMM = Library(
    name="timm",
    accepts="timm/NAME",
    example="timm/test_vit",
    code_licence="Apache-2.0",
    names=_network_names,
    find=_find_origin,
    make=_make_network,
    version=lambda: f"timm {package_version('timm')}",
    publication=Publication(_load_published, _licence_of_weights),
    families={
        models.ResNet: RESNET,
        models.VGG: VGG,
        models.EfficientNet: _BLOCKS,  # and MobileNetV2
        models.MobileNetV3: _BLOCKS,
        models.ConvNeXt: blocks(r"stages\.\d+", "stages"),
        models.DenseNet: DENSENET,
        models.VisionTransformer: _BLOCKS,
    },
    declared_head=_declared_head,
    convert=_convert,
    config_keys=_config_keys,
    own_loader=_OWN_LOADER,
)
