"""The layer that is new for a new set of classes."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from headstart.errors import ModelError
from headstart.types import Stage


def _dropped(rate: float, layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Apply dropout to a layer's input, as a hook before the layer."""
    return functional.dropout(inputs[0], rate, layer.training)


def new_head(
    in_features: int, num_classes: int, *, hidden: int | None = None, dropout: float = 0.0, convolutional: bool = False
) -> nn.Module:
    """Build a head with Xavier uniform weights (Glorot and Bengio 2010) and zero biases, from torch's global generator.

    Args:
        in_features: Width of its input.
        num_classes: Width of its output.
        hidden: Width of a hidden layer with ReLU, or None for one linear layer.
        dropout: Probability of dropping an input of the last layer.
        convolutional: Use 1x1 convolutions, for the networks that pool after their last layer (SqueezeNet).
    """
    layer: Callable[[int, int], nn.Module] = nn.Linear
    if convolutional:
        layer = partial(nn.Conv2d, kernel_size=1)

    if hidden is not None:
        first = layer(in_features, hidden)
        head: nn.Module = nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), layer(hidden, num_classes))
    else:
        head = layer(in_features, num_classes)
        if dropout > 0:  # a hook, so that type and tensors are those that other libraries load
            head.register_forward_pre_hook(partial(_dropped, dropout))

    for module in head.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def head_of(network: nn.Module, stages: tuple[Stage, ...]) -> nn.Module:
    """Return the module that the last stage owns."""
    return network.get_submodule(stages[-1].prefixes[0])


def num_features(head: nn.Module) -> int:
    """Return the width of a one-layer head's input.

    Raises:
        ModelError: The head is no linear layer or 1x1 convolution.
    """
    if isinstance(head, nn.Linear):
        return head.in_features
    if isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1):
        return head.in_channels
    raise ModelError(
        f"the network's last layer is {describe_head(head)}; expected a linear layer or a 1x1 convolution. "
        "Choose another backbone, such as lite0"
    )


def replace_head(network: nn.Module, stages: tuple[Stage, ...], head: nn.Module) -> None:
    """Put `head` in the place of the network's final layer."""
    parent, _, name = stages[-1].prefixes[0].rpartition(".")
    setattr(network.get_submodule(parent), name, head)


def describe_head(head: nn.Module) -> str:
    """Write a head as text: `Linear(512, 1000)`."""
    if isinstance(head, nn.Sequential):
        return " - ".join(describe_head(module) for module in head)
    if isinstance(head, (nn.Linear, nn.Conv2d)):
        outputs, inputs = head.weight.shape[:2]
        return f"{type(head).__name__}({inputs}, {outputs})"
    if isinstance(head, nn.Dropout):
        return f"Dropout({head.p:g})"
    return type(head).__name__
