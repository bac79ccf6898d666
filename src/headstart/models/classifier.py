"""A network for one's own classes, with its preprocessing and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from headstart.models.backbones import Backbone
from headstart.models.heads import head_of, new_head, num_features, replace_head
from headstart.models.source_head import SourceHead, start_from_source
from headstart.preprocessing import normalize
from headstart.types import InputSpec, Stage


@dataclass(frozen=True, eq=False)
class ClassifierNetwork:
    """A network, what its outputs mean and how pictures become its input.

    Attributes:
        network: Maps normalised images (N, 3, H, W) to logits (N, num_classes).
        labels: Class names, in the order of the outputs.
        spec: How pictures become its input.
        stages: Its stages, in forward order; the last is the head.
        backbone: Name of the backbone it was made from.
        library: Whose network it is: the library's name.
        architecture: The library's name for it.
        head_hidden: Width of the head's hidden layer, or None for a linear head.
        dropout: Dropout before the last layer.
        weights: Origin of the weights that it started from, for people.
        licence: Licences of code and weights, for people.
        source_head: What the head starts from, before training; None for a random one.
        parts_brought: Names of the parameters of adapters that came with the weights.
    """

    network: nn.Module
    labels: tuple[str, ...]
    spec: InputSpec
    stages: tuple[Stage, ...]
    backbone: str
    library: str
    architecture: str
    head_hidden: int | None
    dropout: float
    weights: str
    licence: str
    source_head: SourceHead | None = None
    parts_brought: frozenset[str] = frozenset()

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels (N, 3, H, W) into the network's float32 input, keeping device and memory format."""
        return normalize(pixels, self.spec)

    def logits(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels (N, 3, H, W), already cut to size, to logits (N, num_classes)."""
        logits: Tensor = self.network(self.normalize(pixels))
        return logits


def build_classifier(
    backbone: Backbone,
    labels: Sequence[str],
    *,
    hidden: int | None = None,
    dropout: float = 0.0,
    source_head: SourceHead | None = None,
) -> ClassifierNetwork:
    """Put a new head on a backbone's network, in place. The head's weights come from torch's global generator.

    Args:
        backbone: Backbone with its source head; its network becomes the classifier's.
        labels: Class names, in the order of the outputs.
        hidden: Width of a hidden layer in the head, or None.
        dropout: Dropout before the last layer.
        source_head: The backbone's own head, whose rows the new one starts from where they match.

    Raises:
        ModelError: The backbone's last layer cannot be replaced, or `source_head` comes with a hidden layer.
    """
    network = backbone.network
    put_head(network, backbone.stages, len(labels), hidden, dropout)
    if source_head is not None:
        start_from_source(head_of(network, backbone.stages), source_head)
    return ClassifierNetwork(
        network=network,
        labels=tuple(labels),
        spec=backbone.spec,
        stages=backbone.stages,
        backbone=backbone.name,
        library=backbone.library,
        architecture=backbone.architecture,
        head_hidden=hidden,
        dropout=dropout,
        weights=backbone.weights,
        licence=backbone.licence,
        source_head=source_head,
    )


def put_head(
    network: nn.Module, stages: tuple[Stage, ...], num_classes: int, hidden: int | None, dropout: float
) -> None:
    """Put a new head in the place of a network's own; its weights come from torch's global generator.

    Args:
        network: Network with a head of one layer.
        stages: Stages of the network; the last is the head.
        num_classes: Outputs of the new head.
        hidden: Width of a hidden layer in it, or None.
        dropout: Dropout before its last layer.

    Raises:
        ModelError: The last layer cannot be replaced.
    """
    source = head_of(network, stages)
    head = new_head(
        num_features(source),
        num_classes,
        hidden=hidden,
        dropout=dropout,
        convolutional=isinstance(source, nn.Conv2d),
    )
    replace_head(network, stages, head)
    if hasattr(network, "num_classes"):
        vars(network)["num_classes"] = num_classes
