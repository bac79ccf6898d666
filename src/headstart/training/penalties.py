"""What is added to the loss to keep weights near a place. Importing this module loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from headstart.types import Stage

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class L2SP:
    """A pull towards the pretrained weights (Li et al. 2018, arXiv:1802.01483), added to the loss as it is reduced.

        0.5 * alpha * ||w - w0||^2  over what was pretrained, w0 being its values at the start of the run,
        0.5 * beta * ||v||^2        over what is new: the head, and inserted parts.

    Only what trains counts. It stands in the place of weight decay, and so that is off where it is on. Reported losses
    do not hold it.

    Attributes:
        alpha: Strength of the pull towards the start.
        beta: Strength of the pull towards zero.
    """

    alpha: Annotated[float, Field(ge=0)] = 0.1
    beta: Annotated[float, Field(ge=0)] = 0.01

    def __str__(self) -> str:
        return f"L2-SP, {self.alpha:g} towards the start, {self.beta:g} towards zero where new"

    def add_gradient(self, parameters: "Mapping[str, nn.Parameter]", start: "Mapping[str, Tensor]") -> None:
        """Add the penalty's gradient, alpha * (w - w0) or beta * v, to gradients that are there.

        Args:
            parameters: What trains, by name; one without a gradient is left alone.
            start: From `pretrained_start`.
        """
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            weight = parameter.detach()
            if name in start:
                parameter.grad.add_(weight - start[name], alpha=self.alpha)
            else:
                parameter.grad.add_(weight, alpha=self.beta)


def pretrained_start(network: "nn.Module", head: Stage) -> "dict[str, Tensor]":
    """Copy the parameters of a network before it trains, but for its head and inserted parts, which are new."""
    from headstart.models.adapters import is_part

    return {
        name: parameter.detach().clone()
        for name, parameter in network.named_parameters()
        if not head.owns(name) and not is_part(name)
    }
