"""A network as an ordered list of stages (stem, blocks..., head), for plans, progressive unfreezing and the boundary.

One rule serves every family. The network's parts are listed in forward order; a part that is a block opens a stage;
what comes before the first block is the stem, and what follows a block without being one (a transition, the last norm
or convolution, dropout, pooling) belongs to that block's stage. The classification layer alone is the head.
"""

from collections.abc import Iterator, Mapping

from torch import nn

from headstart.errors import ModelError
from headstart.models.libraries import LIBRARIES, Library, library_named
from headstart.types import Stage

_FINAL_LAYERS = (nn.Linear, nn.Conv2d)


def derive_stages(network: nn.Module, library: str) -> tuple[Stage, ...]:
    """List the stages of a network in forward order.

    Every parameter and buffer is owned by exactly one stage, and so is every module that does not span stages.

    Args:
        network: A classifier, with its source head or a new one of one layer.
        library: Whose network it is, by the library's name.

    Returns:
        `stem`, the blocks, and last `head`, which owns exactly the final classification layer. For a family that is
        not known: `body` and `head`.

    Raises:
        ModelError: The network has no single final layer.
    """
    row = library_named(library)
    head = _head_name(network, row)
    family = row.families.get(type(network))
    containers = _ancestors(head)
    if family is not None:
        containers.update(family.containers)
    parts = [part for part in _part_names(network, containers) if part != head]
    openers: Mapping[str, str] = {}
    if family is not None:
        openers = family.openers(network, parts)

    # Parts before the first block are the stem; with no block at all there is only a body.
    name = "stem" if openers else "body"
    grouped: list[tuple[str, list[str]]] = [(name, [])]
    for part in parts:
        if part in openers:
            grouped.append((openers[part], []))
        _, prefixes = grouped[-1]
        prefixes.append(part)
    grouped.append(("head", [head]))
    return tuple(Stage(name, tuple(prefixes)) for name, prefixes in grouped if prefixes)


def has_known_stages(network: nn.Module) -> bool:
    """Tell whether `derive_stages` knows the network's family; where not, only whole-network strategies apply."""
    return any(type(network) in library.families for library in LIBRARIES.values())


def _head_name(network: nn.Module, library: Library) -> str:
    """Find the final classification layer: where its library says, else the last linear layer or convolution."""
    declared = library.declared_head(network)
    if declared is not None and not isinstance(declared, str):
        raise ModelError(
            f"{type(network).__name__} has {len(declared)} classification layers ({', '.join(declared)}); "
            "a backbone needs exactly one. Choose another backbone, such as lite0"
        )
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if declared is None:
        for name, module in modules.items():
            if isinstance(module, _FINAL_LAYERS):
                declared = name
    if declared is None or declared not in modules:
        raise ModelError(f"{type(network).__name__} has no final linear layer; choose another backbone, such as lite0")
    return declared


def _ancestors(name: str) -> set[str]:
    """Name the modules that a module is in: `a` and `a.b` for `a.b.c`."""
    words = name.split(".")
    return {".".join(words[:count]) for count in range(1, len(words))}


def _part_names(network: nn.Module, containers: set[str], prefix: str = "") -> Iterator[str]:
    """Name the direct parameters, buffers and children of the network, and of its containers in their place."""
    for name, _ in network.named_parameters(recurse=False):
        yield prefix + name
    for name, _ in network.named_buffers(recurse=False):
        yield prefix + name
    for name, child in network.named_children():
        if prefix + name in containers:
            yield from _part_names(child, containers, f"{prefix}{name}.")
        else:
            yield prefix + name
