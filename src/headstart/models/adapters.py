"""Small parts in a pretrained network: low-rank changes of its weights (LoRA), and bottlenecks after its blocks.

Until they train, a network with parts computes exactly what it did without them. What the network had keeps its values;
a weight with a low-rank change is called `LAYER.parametrizations.weight.original` while it trains, and `LAYER.weight`
again once it is saved.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from headstart.errors import ModelError
from headstart.types import Stage

_PART_NAMES = (".lora_a", ".lora_b", ".adapter.")


class LowRank(nn.Module):
    """A low-rank change of a weight: W' = W + scale * B A (Hu et al. 2021, arXiv:2106.09685).

    W counts as a matrix with a row per output: (out, in) in a linear layer, (out, in / groups * height * width) in a
    convolution. With groups, each output has a row of B of its own and all groups share A, so that W' is again a weight
    of that convolution, depthwise included. A rank at which A and B would hold more numbers than W is lowered.

    The sum is made in every pass, where a second path beside the layer would save the gradient of W: this way it holds
    for whatever a layer does with its weight (stride, dilation, fused attention), and merging changes no result.

    Attributes:
        lora_a: A, (rank, columns); starts as a linear layer's weight does.
        lora_b: B, (rows, rank); starts at zero, so that W' = W.
        scale: alpha / rank, with the rank that was asked for.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows = weight.shape[0]
        columns = weight[0].numel()
        self.scale = alpha / rank
        rank = max(1, min(rank, rows * columns // (rows + columns)))
        self.lora_a = nn.Parameter(weight.new_empty(rank, columns))
        self.lora_b = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Map W to W', of the same shape."""
        return weight + self.scale * (self.lora_b @ self.lora_a).view(weight.shape)


class Adapter(nn.Module):
    """A bottleneck with a residual: h + U gelu(D h + d) + u, over the channels.

    Placed after a block, as in Houlsby et al. 2019 (arXiv:1902.00751) for transformers and in Rebuffi et al. 2017
    (arXiv:1705.08045) for convolutional networks, where D and U are 1x1 convolutions. U and u start at zero.
    After a block that ends in a ReLU, ReLU here would leave units that never learn.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, width)
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, C, H, W), (N, L, C) or (N, C) to the same shape."""
        if hidden.ndim == 4:
            return hidden + self._change(hidden.movedim(1, -1)).movedim(-1, 1)
        return hidden + self._change(hidden)

    def _change(self, hidden: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        change: Tensor = self.up(functional.gelu(self.down(hidden)))
        return change


def is_part(name: str) -> bool:
    """Tell whether the parameter called `name` belongs to an inserted part."""
    return any(part in name for part in _PART_NAMES)


def insert_lora(network: nn.Module, stages: tuple[Stage, ...], *, rank: int, alpha: float) -> None:
    """Give every linear layer and convolution of some stages a low-rank change, from torch's global generator.

    Args:
        network: Changed in place.
        stages: Stages that get them; not the head, which trains as it is.
        rank: Highest rank of a change.
        alpha: Each change is scaled by alpha / rank.
    """
    for name, module in list(network.named_modules()):
        if not any(stage.owns(name) for stage in stages):
            continue
        for key in _weight_names(module):
            low_rank = LowRank(getattr(module, key), rank, alpha)
            parametrize.register_parametrization(module, key, low_rank)


def _weight_names(module: nn.Module) -> Iterator[str]:
    """Name the parameters of a module that get a low-rank change."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        yield "weight"
    # torch's attention holds the weights of three linear layers in one parameter of its own.
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        yield "in_proj_weight"


def _low_ranks(network: nn.Module) -> Iterator[tuple[str, LowRank, Tensor]]:
    """Give the name of each weight that has a low-rank change, the change, and the weight without it."""
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module):
            parametrizations: Any = module.parametrizations
            for key, each in parametrizations.items():
                if isinstance(each[0], LowRank):
                    yield f"{name}.{key}", each[0], each.original


@torch.no_grad()
def merge(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """Return W + scale * B A on the CPU, rounded once from 64 bits, so that it is the same bits on every machine."""
    change = lora_b.cpu().double() @ lora_a.cpu().double()
    merged = weight.cpu().double() + scale * change.view(weight.shape)
    return merged.to(weight.dtype)


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors under the library's own names, low-rank changes merged; adapters stay what they are.

    The network itself is left as it is.
    """
    merged = {}
    merged_parts: tuple[str, ...] = ()
    for name, low_rank, original in _low_ranks(network):
        parent, _, key = name.rpartition(".")
        merged_parts += (f"{parent}.parametrizations.{key}.",)
        merged[name] = merge(original, low_rank.lora_a, low_rank.lora_b, low_rank.scale)
    state = network.state_dict()
    unchanged = {name: tensor for name, tensor in state.items() if not name.startswith(merged_parts)}
    return unchanged | merged


def lora_factors(network: nn.Module) -> tuple[dict[str, Tensor], float]:
    """Return A and B of each changed weight as `NAME.lora_a` and `NAME.lora_b`, and their scale (0.0: there are none).

    The name is that of the weight in `merged_state`.
    """
    tensors: dict[str, Tensor] = {}
    scale = 0.0
    for name, low_rank, _ in _low_ranks(network):
        for key, factor in low_rank.named_parameters():
            tensors[f"{name}.{key}"] = factor.detach().cpu()
        scale = low_rank.scale
    return tensors, scale


def insert_adapters(network: nn.Module, stages: tuple[Stage, ...], *, width: int, size: tuple[int, int]) -> None:
    """Put an adapter after every block of some stages, from torch's global generator.

    A stage's blocks are its parts that consist of layers (residual blocks, transformer blocks); a stage of bare layers
    (VGG) has one adapter, at its end. The stem has none.

    Args:
        network: Changed in place.
        stages: Stages that get them.
        width: Width of the bottleneck.
        size: (height, width) of the input, pixels.
    """
    parts_by_stage = [list(_module_names(network, stage)) for stage in stages if stage.name != "stem"]
    parts = list(itertools.chain.from_iterable(parts_by_stage))
    channels = _output_channels(network, parts, size)

    places: list[str] = []
    for names in parts_by_stage:
        called = [name for name in names if name in channels]
        blocks = [name for name in called if _is_block(network.get_submodule(name))]
        if blocks:
            places += blocks
        else:
            places += called[-1:]
    attach_adapters(network, {name: (channels[name], width) for name in places})


def attach_adapters(network: nn.Module, places: Mapping[str, tuple[int, int]]) -> None:
    """Put an adapter at the output of each module named, where there is none yet: name -> (channels, width).

    Raises:
        ModelError: There is no such module.
    """
    for name, size in places.items():
        try:
            module = network.get_submodule(name)
        except AttributeError as error:
            raise ModelError(f"{type(network).__name__} has no module {name!r} to put an adapter after") from error
        if isinstance(getattr(module, "adapter", None), Adapter):
            continue
        parameter = next(network.parameters())
        module.add_module("adapter", Adapter(*size).to(parameter.device))
        # A Sequential runs its children in turn, the last of which the adapter is now.
        if not isinstance(module, nn.Sequential):
            module.register_forward_hook(_adapted)


def _adapted(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """Pass a module's output through its adapter, as a hook after the module."""
    adapted: Tensor = module.get_submodule("adapter")(output)
    return adapted


def adapter_layout(network: nn.Module) -> dict[str, list[int]] | None:
    """Return what `config.json` says of a network's adapters: [channels, width] by module, None without any."""
    layout = {}
    for name, module in network.named_modules():
        if isinstance(module, Adapter):
            layout[name.removesuffix(".adapter")] = [module.down.in_features, module.down.out_features]
    return layout or None


def restore_adapters(network: nn.Module, layout: object, what: str) -> None:
    """Put the adapters of `adapter_layout`, read from a file, into a network.

    Raises:
        ModelError: The description is damaged.
    """
    if layout is None:
        return
    try:
        described: Any = layout
        places = {}
        for name, (channels, width) in described.items():
            places[str(name)] = (int(channels), int(width))
        attach_adapters(network, places)
    except (TypeError, ValueError, AttributeError, RuntimeError, ModelError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{what}: 'adapters' of its config is damaged ({reason}); copy the folder again") from error


def _module_names(network: nn.Module, stage: Stage) -> Iterator[str]:
    """Name the modules that a stage consists of, one by one where they are a plain list."""
    modules = dict(network.named_modules())
    for prefix in stage.prefixes:
        if prefix not in modules:  # a parameter of the network itself
            continue
        module = modules[prefix]
        blocks = getattr(module, "blocks", None)  # timm's ConvNeXt keeps a stage's blocks beside its downsampling
        if type(module) is nn.Sequential:
            yield from (f"{prefix}.{name}" for name, _ in module.named_children())
        elif isinstance(blocks, nn.Sequential):
            yield from (f"{prefix}.blocks.{name}" for name, _ in blocks.named_children())
        else:
            yield prefix


def _is_block(module: nn.Module) -> bool:
    """Tell whether a module consists of layers that have parameters."""
    # A dense block is a ModuleDict that runs whatever it holds as one of its layers.
    if isinstance(module, nn.ModuleDict | nn.ModuleList):
        return False
    return any(list(child.parameters()) for child in module.children())


@torch.no_grad()
def _output_channels(network: nn.Module, names: list[str], size: tuple[int, int]) -> dict[str, int]:
    """Run the network once, and return the channels of the output of each module that gave one tensor."""
    channels: dict[str, int] = {}

    def note_channels(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            channels[name] = output.shape[1 if output.ndim == 4 else -1]

    hooks = []
    for name in names:
        module = network.get_submodule(name)
        hooks.append(module.register_forward_hook(partial(note_channels, name)))
    modes = [(module, module.training) for module in network.modules()]
    device = next(network.parameters()).device
    try:
        network.eval()
        network(torch.zeros(1, 3, *size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return channels


def norm_and_bias_names(network: nn.Module) -> tuple[str, ...]:
    """Name the parameters of normalisation layers (by the name of their class), and every bias."""
    of_norms = set()
    for name, module in network.named_modules():
        if "norm" in type(module).__name__.lower():
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 1:
                    of_norms.add(f"{name}.{key}")
    return tuple(name for name, _ in network.named_parameters() if name in of_norms or name.endswith("bias"))
