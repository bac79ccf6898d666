"""What is added to the loss to keep weights near a place. Importing this module loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import Tensor, nn

    from headstart.models.classifier import ClassifierNetwork


@dataclass(frozen=True)
class L2SP:
    """A pull towards the pretrained weights (Li et al. 2018, arXiv:1802.01483), added to the loss as it is reduced.

        0.5 * alpha * ||w - w0||^2  over what was pretrained, w0 being its values at the start of the run,
        0.5 * beta * ||v||^2        over what is new: the head, and inserted parts.

    A head that starts from rows of the source is not new, and neither is a part that came with the weights.

    Only what trains counts. The penalty takes the place of weight decay, which is off. Reported losses do not hold it.

    Attributes:
        alpha: Strength of the pull towards the start.
        beta: Strength of the pull towards zero.
    """

    alpha: Annotated[float, Field(ge=0)] = 0.1
    beta: Annotated[float, Field(ge=0)] = 0.01

    def __str__(self) -> str:
        """Return the penalty in words, for tables and reports."""
        return f"L2-SP, {self.alpha:g} towards the start, {self.beta:g} towards zero where new"

    def add_gradient(self, parameters: "Mapping[str, nn.Parameter]", start: "Mapping[str, Tensor]") -> None:
        """Add the penalty's gradient, alpha * (w - w0) or beta * v, to gradients that are there.

        Args:
            parameters: What trains, by name; one without a gradient is left alone.
            start: The pretrained values, by name; see `pretrained_start`.
        """
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            weight = parameter.detach()
            if name in start:
                parameter.grad.add_(weight - start[name], alpha=self.alpha)
            else:
                parameter.grad.add_(weight, alpha=self.beta)


def pretrained_start(model: "ClassifierNetwork") -> "dict[str, Tensor]":
    """Copy the pretrained parameters of a network, before it trains.

    Of a head that starts from rows of the source, the new rows are zero here: that is where they are pulled to.
    """
    from headstart.models.adapters import is_part

    head = model.stages[-1]
    start = {}
    for name, parameter in model.network.named_parameters():
        is_new = is_part(name) and name not in model.parts_brought
        if head.owns(name):
            is_new = model.source_head is None
        if is_new:
            continue
        start[name] = parameter.detach().clone()
        if head.owns(name) and model.source_head is not None:
            matching = model.source_head.matching
            for row, output in enumerate(matching.outputs):
                if output is None and row != matching.rest:
                    start[name][row] = 0.0
    return start
