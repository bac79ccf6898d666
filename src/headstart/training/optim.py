"""Optimizers over named groups, and the moving average of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# How PyTorch and LoRA call the matrices and filters of linear maps; a weight beside its low-rank change is `original`.
_NAMES_OF_MAPS = ("weight", "weight.original", "lora_a", "lora_b")
# Tables of positions that some networks keep in an `nn.Embedding`.
_POSITIONS = ("pos_embed", "position_embedding", "position_embeddings", "rel_pos")


def is_decayed(name: str, parameter: Tensor, *, decay_all: bool) -> bool:
    """Tell whether weight decay applies to a parameter: to all, or (default) to matrices and filters of linear maps.

    Those are called `weight` in all libraries. What is not: biases, norms, scales such as LayerScale's `(C, 1, 1)`, the
    tokens of classes and registers, and tables of positions. Decay would pull these towards a zero that means nothing.

    Args:
        name: The name of the parameter in its network.
        parameter: The parameter.
        decay_all: Whether it applies everywhere.
    """
    if decay_all:
        return True
    module = name.rpartition(".")[0]
    return parameter.ndim > 1 and name.endswith(_NAMES_OF_MAPS) and not module.endswith(_POSITIONS)


def build_optimizer(
    name: str,
    parameters: Mapping[str, nn.Parameter],
    learning_rates: Mapping[str, float],
    *,
    momentum: float,
    weight_decay: float,
    decay_all: bool,
) -> torch.optim.Optimizer:
    """Make an optimizer with one group per pair of (learning rate, decayed or not), lowest rate first.

    Args:
        name: `adamw`, `adam` or `sgd`.
        parameters: All parameters by name; only those in `learning_rates` enter.
        learning_rates: Rate at the top of the schedule; kept in each group as `base_lr`.
        momentum: The momentum of `sgd`; the others have none.
        weight_decay: Strength of the decay, decoupled for `adamw` and added to the gradient for the others.
        decay_all: Decay norms and biases too.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for key, rate in learning_rates.items():
        decayed = is_decayed(key, parameters[key], decay_all=decay_all)
        groups.setdefault((rate, decayed), []).append(parameters[key])

    table: list[dict[str, Any]] = []
    for rate, decayed in sorted(groups):
        group = {"params": groups[rate, decayed], "lr": rate, "base_lr": rate, "weight_decay": 0.0}
        if decayed:
            group["weight_decay"] = weight_decay
        table.append(group)

    if name == "sgd":
        return torch.optim.SGD(table, momentum=momentum, fused=True)
    if name == "adam":
        return torch.optim.Adam(table, fused=True)
    return torch.optim.AdamW(table, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


class WeightAverage:
    """Exponential moving average of what trains; frozen tensors never enter it.

    The decay warms up as min(decay, (1 + t) / (10 + t)), so that short runs are not ruled by the first weights.
    """

    def __init__(self, network: nn.Module, frozen: frozenset[str], decay: float) -> None:
        self._network = network
        self._frozen = frozen
        self._decay = decay
        self.num_updates = 0
        self.shadow = self._copies()

    def _changing_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters and buffers that are not frozen, by name."""
        for name, tensor in (*self._network.named_parameters(), *self._network.named_buffers()):
            if name not in self._frozen:
                yield name, tensor

    def _copies(self) -> dict[str, Tensor]:
        """Copy the current weights."""
        return {name: tensor.detach().clone() for name, tensor in self._changing_tensors()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights."""
        self.num_updates += 1
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, tensor in self._changing_tensors():
            if tensor.is_floating_point():
                self.shadow[name].lerp_(tensor.detach(), 1 - decay)
            else:
                self.shadow[name].copy_(tensor)

    @torch.no_grad()
    def copy_to_network(self) -> None:
        """Make the average the network's weights."""
        for name, tensor in self._changing_tensors():
            tensor.copy_(self.shadow[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights within the block, and put the current ones back bit for bit."""
        current = self._copies()
        self.copy_to_network()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._changing_tensors():
                    tensor.copy_(current[name])
