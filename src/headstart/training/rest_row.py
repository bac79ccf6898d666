"""The row of a class that stands for all the rest, fitted before training; see `models.source_head`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from headstart.features.supply import FeatureSupply
from headstart.models.classifier import ClassifierNetwork
from headstart.models.heads import head_of
from headstart.models.source_head import SourceHead, fit_rest_row, write_rest_row
from headstart.training.checkpoint import Checkpoints

_NAME = "rest-row"


def start_rest_row(
    model: ClassifierNetwork, supply: FeatureSupply, checkpoints: Checkpoints | None, say: Callable[[str], None]
) -> None:
    """Give the class that stands for the rest its row, before training; nothing where there is no such class.

    The row is written to the checkpoints, so that a resumed run starts from the same bits.

    Args:
        model: The network, whose head starts from the source's; changed in place.
        supply: Gives the training features.
        checkpoints: Place to keep the row, if there is one.
        say: Told where there is no such row.
    """
    source = model.source_head
    head = head_of(model.network, model.stages)
    if source is None or source.matching.rest is None or not isinstance(head, nn.Linear | nn.Conv2d):
        return

    saved = checkpoints.load(_NAME) if checkpoints is not None else None
    if saved is not None:
        tensors, _ = saved
        write_rest_row(head, source.matching.rest, tensors["weight"], tensors["bias"])
        return

    fitted = _fit_row(model, source, supply)
    if isinstance(fitted, str):
        label = source.matching.labels[source.matching.rest]
        say(f"{label} starts from a new row: {fitted}")
        return

    if checkpoints is not None:
        checkpoints.save(_NAME, fitted, {})
    write_rest_row(head, source.matching.rest, fitted["weight"], fitted["bias"])


def _fit_row(model: ClassifierNetwork, source: SourceHead, supply: FeatureSupply) -> dict[str, Tensor] | str:
    """Fit the row to training features, or say why that cannot be done."""
    if not isinstance(head_of(model.network, model.stages), nn.Linear):
        return "the head is a convolution, whose results are pooled, so that no row of it stands for several classes"
    model.network.eval()
    features = supply.phase(len(model.stages) - 1, [], all_views=True).features
    if features is None:
        return "the head's inputs cannot be computed for all views at once"
    others, other_bias = source.unmatched()
    weight, bias = fit_rest_row(features, others.numpy(), other_bias.numpy())
    return {"weight": torch.from_numpy(weight).float(), "bias": torch.tensor(bias)}
