"""A network as an ordered list of stages (stem, blocks..., head), for plans, progressive unfreezing and the boundary.

One rule serves every family. The network's parts are listed in forward order; a part that is a block opens a stage;
what comes before the first block is the stem, and what follows a block without being one (a transition, the last norm
or convolution, dropout, pooling) belongs to that block's stage. The classification layer alone is the head.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from headstart.errors import ModelError
from headstart.types import Stage

_FINAL_LAYERS = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class _Family:
    """How to read one family of networks.

    Attributes:
        containers: Modules that are no parts themselves; their children are.
        openers: From the network and its parts, the parts that open a stage, with the stage's name.
    """

    containers: tuple[str, ...]
    openers: Callable[[nn.Module, Sequence[str]], Mapping[str, str]]


def _blocks(pattern: str) -> Callable[[nn.Module, Sequence[str]], dict[str, str]]:
    """Open a stage at each part whose name matches."""
    regex = re.compile(pattern)

    def openers(network: nn.Module, parts: Sequence[str]) -> dict[str, str]:
        matching = [part for part in parts if regex.fullmatch(part)]
        # torchvision's MobileNet and EfficientNet keep the convolution after the last block in the same list; timm
        # calls it conv_head.
        convs = [part for part in matching if type(network.get_submodule(part)).__name__ == "Conv2dNormActivation"]
        return {part: _short_name(part) for part in matching if part not in convs}

    return openers


def _between_pools(network: nn.Module, parts: Sequence[str]) -> dict[str, str]:
    """Open a stage at the start, after each pooling of `features`, and for the hidden classifier layers (VGG)."""
    convolutions = [part for part in parts if part.startswith("features.")]
    is_pool = [isinstance(network.get_submodule(part), nn.MaxPool2d) for part in convolutions]
    starts = [part for part, after in zip(convolutions, [True, *is_pool], strict=False) if after]
    opened = {part: f"block{number}" for number, part in enumerate(starts, 1)}
    hidden = next(part for part in parts if part.startswith(("classifier.", "pre_logits")))
    return {**opened, hidden: "hidden"}


def _short_name(part: str) -> str:
    """Name a stage by the last word of its module, with the word before it where the last is a number."""
    words = part.split(".")
    return ".".join(words[-2:] if words[-1].isdigit() else words[-1:])


_RESNET = _Family((), _blocks(r"layer\d+"))
_FEATURES = _Family(("features",), _blocks(r"features\.[1-9]\d*"))
_DENSENET = _Family(("features",), _blocks(r"features\.denseblock\d+"))
_VGG = _Family(("features",), _between_pools)
_BLOCKS = _Family(("blocks",), _blocks(r"blocks\.\d+"))

_FAMILIES: dict[tuple[str, str], _Family] = {
    ("torchvision", "ResNet"): _RESNET,
    ("torchvision", "VGG"): _VGG,
    ("torchvision", "MobileNetV2"): _FEATURES,
    ("torchvision", "MobileNetV3"): _FEATURES,
    ("torchvision", "EfficientNet"): _FEATURES,
    # A downsampling layer opens the stage of the blocks that it feeds, as it does in timm.
    ("torchvision", "ConvNeXt"): _Family(("features",), _blocks(r"features\.[1246]")),
    ("torchvision", "DenseNet"): _DENSENET,
    ("torchvision", "VisionTransformer"): _Family(
        ("encoder", "encoder.layers"), _blocks(r"encoder\.layers\.encoder_layer_\d+")
    ),
    ("timm", "ResNet"): _RESNET,
    ("timm", "VGG"): _VGG,
    ("timm", "EfficientNet"): _BLOCKS,  # and MobileNetV2
    ("timm", "MobileNetV3"): _BLOCKS,
    ("timm", "ConvNeXt"): _Family(("stages",), _blocks(r"stages\.\d+")),
    ("timm", "DenseNet"): _DENSENET,
    ("timm", "VisionTransformer"): _BLOCKS,
    ("headstart", "SimpleCNN"): _Family((), _blocks(r"conv\d+|hidden")),
    ("headstart", "ResNetV2"): _Family(("features",), _blocks(r"features\.[5-8]")),
}


def derive_stages(network: nn.Module, library: str) -> tuple[Stage, ...]:
    """List the stages of a network in forward order.

    Every parameter and buffer is owned by exactly one stage, and so is every module that does not span stages.

    Args:
        network: A classifier, with its source head or a new one of one layer.
        library: `timm`, `torchvision` or `headstart`.

    Returns:
        `stem`, the blocks, and last `head`, which owns exactly the final classification layer. For a family that is
        not known: `body` and `head`.

    Raises:
        ModelError: The network has no single final layer.
    """
    head = _head_name(network, library)
    family = _FAMILIES.get((library, type(network).__name__))
    containers = {*_ancestors(head), *(family.containers if family else ())}
    parts = [part for part in _parts(network, containers) if part != head]
    openers = family.openers(network, parts) if family else {}
    # Parts before the first block are the stem; with no block at all there is only a body.
    grouped: list[tuple[str, list[str]]] = [("stem" if openers else "body", [])]
    for part in parts:
        if part in openers:
            grouped.append((openers[part], []))
        grouped[-1][1].append(part)
    body = (Stage(name, tuple(prefixes)) for name, prefixes in grouped if prefixes)
    return (*body, Stage("head", (head,)))


def has_known_stages(network: nn.Module) -> bool:
    """Tell whether `derive_stages` knows the network's family; where not, only whole-network strategies apply."""
    library = type(network).__module__.partition(".")[0]
    return (library, type(network).__name__) in _FAMILIES


def _head_name(network: nn.Module, library: str) -> str:
    """Find the final classification layer: where timm says, else the last linear layer or convolution."""
    declared: str | tuple[str, ...] | None = None
    if library == "timm":
        declared = getattr(network, "pretrained_cfg", {}).get("classifier")
    if declared is not None and not isinstance(declared, str):
        raise ModelError(
            f"{type(network).__name__} has {len(declared)} classification layers ({', '.join(declared)}); "
            "a backbone needs exactly one: choose another backbone, such as lite0"
        )
    modules: dict[str, nn.Module] = dict(network.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, _FINAL_LAYERS)]
    if declared is not None and declared in modules:
        return declared
    if declared is not None or not layers:
        raise ModelError(f"{type(network).__name__} has no final linear layer; choose another backbone, such as lite0")
    return layers[-1]


def _ancestors(name: str) -> set[str]:
    words = name.split(".")
    return {".".join(words[:count]) for count in range(1, len(words))}


def _parts(network: nn.Module, containers: set[str], prefix: str = "") -> Iterator[str]:
    """Name the direct parameters, buffers and children of the network, and of its containers in their place."""
    for name, _ in (*network.named_parameters(recurse=False), *network.named_buffers(recurse=False)):
        yield prefix + name
    for name, child in network.named_children():
        if prefix + name in containers:
            yield from _parts(child, containers, f"{prefix}{name}.")
        else:
            yield prefix + name
