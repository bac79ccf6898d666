"""A head that starts from what the source's head knows: the rows of the classes that both have."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.data import ImageNetInfo
from timm.data.imagenet_info import infer_imagenet_subset
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.model_folder import read_model_json, saved_model_folder
from headstart.models.backbones import Backbone
from headstart.models.heads import describe_head, head_of, num_features
from headstart.models.source_head.matching import Matching, SourceClass, match_labels


@dataclass(frozen=True, eq=False)
class SourceHead:
    """Holds the head that a network came with, and what the classes of the data are to it.

    Attributes:
        weight: (S, F), a row per class of the source.
        bias: (S,).
        classes: What the rows stand for.
        matching: Which of them start the new head.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[SourceClass, ...]
    matching: Matching

    def unmatched(self) -> tuple[Tensor, Tensor]:
        """Return weight (R, F) and bias (R,) of the classes that no class of the data has: the rest."""
        taken = set(self.matching.outputs)
        others = [output for output in range(len(self.weight)) if output not in taken]
        return self.weight[others], self.bias[others]

    def summary(self) -> dict[str, str]:
        """Say for each class of the data what it starts from: `310 (ant, emmet, pismire)`, `rest` or `none`."""
        said = {}
        for label, word in self.matching.to_dict().items():
            said[label] = str(word)
            if isinstance(word, int):
                said[label] += f" ({self.classes[word]})"
        return said


def read_source_head(
    backbone: Backbone, weights: str | None, labels: Sequence[str], given: Mapping[str, int | str]
) -> SourceHead:
    """Take the source's head from a backbone, and match the classes of the data to its own.

    A run's classes are known by their names. Published weights and files of an ImageNet's number of classes (1,000;
    11,221; 11,821; 21,841 to 21,843) have that ImageNet's classes in its usual order, with WordNet's synonyms; Gluon's
    `.params` have another order, so there, as elsewhere, classes are named by number.

    Args:
        backbone: Backbone with its source head.
        weights: What `create_backbone` was asked for.
        labels: Classes of the data.
        given: What the user says that classes are, as `match_labels` takes it.

    Raises:
        ModelError: The weights have no head of one layer.
        ConfigError: The classes cannot be matched; see `match_labels`.
    """
    head = head_of(backbone.network, backbone.stages)
    if not backbone.has_source_head or not isinstance(head, nn.Linear | nn.Conv2d):
        raise ModelError(
            f"{backbone.name} with weights {backbone.weights} has no head of one layer to start from; "
            "leave out --head-init source, or give other weights"
        )
    rows = head.weight.detach().clone().reshape(len(head.weight), num_features(head))
    bias = torch.zeros(len(rows))
    if head.bias is not None:
        bias = head.bias.detach().clone()
    classes = source_classes(weights, len(rows))
    return SourceHead(rows, bias, classes, match_labels(labels, classes, given))


@torch.no_grad()
def start_from_source(head: nn.Module, source: SourceHead) -> None:
    """Write the source's rows into a new head, in place.

    A class with a row gets it, and its bias, bit for bit. The others keep their Xavier rows, uniform in
    [-a, a] with a = sqrt(6 / (F + C)), stretched to sqrt(3) r, where r is the root mean square of all weights of the
    rows taken; their bias is the mean of the biases taken. So before training a new class looks like a class of the
    source that is not in the picture: its logits have the same spread, and no other mean.

    Args:
        head: A linear layer or 1x1 convolution from `new_head`, of one output per class of the data.
        source: Head that `read_source_head` returned.

    Raises:
        ModelError: The head has a hidden layer.
    """
    if not isinstance(head, nn.Linear | nn.Conv2d):
        raise ModelError(
            f"only a head of one layer can start from the source's rows; got {describe_head(head)}: leave out "
            "--head-hidden, or --head-init source"
        )
    outputs = source.matching.outputs
    taken = [output for output in outputs if output is not None]
    xavier_deviation = math.sqrt(2 / (num_features(head) + len(outputs)))
    scale = float(source.weight[taken].square().mean().sqrt()) / xavier_deviation
    for row, output in enumerate(outputs):
        if output is None:
            head.weight[row] *= scale
            bias = source.bias[taken].mean()
        else:
            head.weight[row] = source.weight[output].view_as(head.weight[row])
            bias = source.bias[output]
        if head.bias is not None:
            head.bias[row] = bias


def run_labels(weights: str | None) -> tuple[str, ...]:
    """Return the classes of the run or model folder that weights come from.

    Empty where they come from elsewhere, or its head has a hidden layer.

    Raises:
        ModelError: The folder is damaged.
    """
    if weights in (None, "none"):
        return ()
    folder = saved_model_folder(Path(weights))
    if folder is None:
        return ()
    config = read_model_json(folder / "config.json")
    if config.get("headstart", {}).get("head_hidden"):
        return ()
    return tuple(config.get("label_names", ()))


def source_classes(weights: str | None, num_outputs: int) -> tuple[SourceClass, ...]:
    """Return what the outputs of the weights' own head stand for, without names where that is not known.

    Args:
        weights: What `create_backbone` was asked for.
        num_outputs: How many outputs that head has.

    Raises:
        ModelError: The weights are from a folder that is damaged.
    """
    names = run_labels(weights)
    if len(names) == num_outputs:
        return tuple(SourceClass((name,)) for name in names)
    subset = infer_imagenet_subset({"num_classes": num_outputs})
    if subset is None or Path(weights or "").suffix == ".params":
        return (SourceClass(),) * num_outputs
    info = ImageNetInfo(subset)
    classes = []
    for output in range(num_outputs):
        synonyms, _, meaning = info.index_to_description(output, detailed=True).partition(": ")
        classes.append(SourceClass(tuple(synonyms.split(", ")), meaning))
    return tuple(classes)
