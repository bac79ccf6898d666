"""What a backbone library says of itself; `LIBRARIES` has a row for each, and the rest of Headstart asks the row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.models.libraries.families import Family
from headstart.types import InputSpec

Size = tuple[int, int]

IMAGENET_TERMS = "trained on ImageNet-1k, whose images are for non-commercial research"


@dataclass(frozen=True)
class Origin:
    """Where a backbone's name leads.

    Attributes:
        name: What the user wrote.
        library: Whose network it is.
        architecture: The library's name for it, which a saved model keeps.
        variant: The architecture with the library's tag of certain weights, where it has such tags.
        spec: The preprocessing that the published weights were made for.
    """

    name: str
    library: "Library"
    architecture: str
    variant: str
    spec: InputSpec


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network with weights.

    Attributes:
        network: Maps normalised images (N, 3, H, W) to logits (N, source classes).
        weights: Origin of its weights, for people.
        has_source_head: Whether the head came with the weights; else it is random.
    """

    network: nn.Module
    weights: str
    has_source_head: bool = True


@dataclass(frozen=True)
class Publication:
    """The weights that somebody publishes for a library's networks.

    Attributes:
        load: Returns the network of an origin with its published weights, built for (height, width), pixels. Raises
            ModelError where they cannot be fetched, or are for another size.
        licence: Says under which licence they come, as far as their publisher states it.
    """

    load: Callable[[Origin, Size], Loaded]
    licence: Callable[[Origin], str]


@dataclass(frozen=True, eq=False)
class Library:
    """A library of networks that can be fine-tuned. To add one: a file with one of these, and a row in `LIBRARIES`.

    What has a default may be left out. A library with nothing but the rest has networks that start from random weights
    or from a file, with the strategies that need no stages.

    Attributes:
        name: Whose networks these are. Saved models keep it, so it never changes.
        accepts: Which names it takes, for messages.
        example: One of its names that is quickly built, which the contract tests take.
        code_licence: SPDX identifier.
        names: Lists the names that `find` takes; those with a prefix (`timm/NAME`) it also takes without it.
        find: Says where a name leads; None where it is not one of its own. Raises ModelError where it is one, but leads
            to nothing that can be fine-tuned.
        make: Makes the network of an architecture or variant for inputs of (height, width), pixels, with random
            weights. Its errors may be of any usual kind. Takes what arguments `publication` and `convert` need.
        version: Tells apart code that computes other numbers from the same weights; computed features are kept by it.
        publication: The published weights; None: there are none, and its networks start from random ones.
        families: How the networks of a class are read as stages, by that class.
        declared_head: Names the final layer of a network, or several of them; None: the last layer of a kind is it.
        convert: Makes a network from tensors under names of another maker; None where it cannot.
        config_keys: What of a network `config.json` keeps beside the geometry, under `pretrained_cfg`, for other
            programs that load the folder.
        own_loader: Python code by which people load a model folder without Headstart; empty where nothing does.
    """

    name: str
    accepts: str
    example: str
    code_licence: str
    names: Callable[[], Sequence[str]]
    find: Callable[[str], Origin | None]
    make: Callable[..., nn.Module]
    version: Callable[[], str]
    publication: Publication | None = None
    families: Mapping[type[nn.Module], Family] = field(default_factory=dict)
    declared_head: Callable[[nn.Module], str | tuple[str, ...] | None] = lambda network: None
    convert: Callable[[Origin, Size, Mapping[str, Tensor]], nn.Module | None] = lambda origin, size, state: None
    config_keys: Callable[[nn.Module], dict[str, Any]] = lambda network: {}
    own_loader: str = ""

    def build(self, architecture: str, size: Size, **arguments: Any) -> nn.Module:
        """Build a network with random weights, or with those that the arguments name. Needs no network access.

        Args:
            architecture: The library's name for it.
            size: (height, width) of the input, pixels, for networks that are built for one size.
            arguments: Passed to `make`.

        Raises:
            ModelError: The library refuses.
        """
        try:
            return self.make(architecture, size, **arguments)
        except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{self.name} cannot build {architecture} for {size[0]} px inputs: {reason}; choose another image size "
                "or backbone"
            ) from error
