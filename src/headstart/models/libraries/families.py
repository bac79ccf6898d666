"""Families of networks: which of their parts open a stage."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """How to read one family of networks as stages.

    Attributes:
        containers: Modules that are no parts themselves; their children are.
        openers: Returns, for a network and its parts, those that open a stage, with the stage's name.
    """

    containers: tuple[str, ...]
    openers: Callable[[nn.Module, Sequence[str]], Mapping[str, str]]


def blocks(pattern: str, *containers: str) -> Family:
    """Make a family in which each part whose name matches a regular expression opens a stage."""
    regex = re.compile(pattern)

    def openers(network: nn.Module, parts: Sequence[str]) -> dict[str, str]:
        opened = {}
        for part in parts:
            if regex.fullmatch(part) and not _is_convolution(network.get_submodule(part)):
                opened[part] = _short_name(part)
        return opened

    return Family(containers, openers)


def _is_convolution(module: nn.Module) -> bool:
    # torchvision's MobileNet and EfficientNet keep the convolution after the last block in the list of blocks.
    return type(module).__name__ == "Conv2dNormActivation"


def _short_name(part: str) -> str:
    """Name a stage by the last word of its module, with the word before it where the last is a number."""
    words = part.split(".")
    num_words = 2 if words[-1].isdigit() else 1
    return ".".join(words[-num_words:])


def _between_pools(network: nn.Module, parts: Sequence[str]) -> dict[str, str]:
    """Open a stage at the start, after each pooling of `features`, and for the hidden classifier layers."""
    opened: dict[str, str] = {}
    starts_block = True
    for part in parts:
        if part.startswith("features."):
            if starts_block:
                opened[part] = f"block{len(opened) + 1}"
            starts_block = isinstance(network.get_submodule(part), nn.MaxPool2d)
    hidden = [part for part in parts if part.startswith(("classifier.", "pre_logits"))]
    opened[hidden[0]] = "hidden"
    return opened


RESNET = blocks(r"layer\d+")
DENSENET = blocks(r"features\.denseblock\d+", "features")
VGG = Family(("features",), _between_pools)
