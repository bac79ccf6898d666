"""Cut a network at the freeze boundary: a trunk that is a pure function of the images, and a tail that trains.

The network's own forward code is traced with every part (a module that one stage owns) as one step, so that what it
does between the parts (a ReLU, pooling, the class token) is kept, and lands below the boundary wherever it can.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from headstart.types import Stage


@dataclass(frozen=True, eq=False)
class Cut:
    """A network in two parts, `tail(trunk(images))`, which are the network's own modules under their own names.

    What trains the tail trains the network, and the tail obeys the modes set on the network's modules. A network must
    be on its device before it is cut: moving it replaces the buffers.

    Attributes:
        trunk: Maps normalised images (N, 3, H, W) to activations (N, ...), which may be a view of a larger tensor; a
            pure function with the network's modes as a phase's `apply_modes` leaves them, or in eval mode. None where
            `boundary` is 0.
        tail: Maps activations, or images where `boundary` is 0, to logits (N, C).
        boundary: Number of leading stages in the trunk; smaller than asked for where the network cannot be cut there.
        note: Why it is smaller, for people, or ''.
    """

    trunk: nn.Module | None
    tail: nn.Module
    boundary: int
    note: str


def cut(network: nn.Module, stages: tuple[Stage, ...], boundary: int) -> Cut:
    """Split a network after its first `boundary` stages, as late in its forward code as that allows.

    Leaves the network and the random generators as they were. Not for use while other threads run a network: for the
    moment of tracing, `nn.Module` is patched.

    Args:
        network: Maps normalised images (N, 3, H, W) to logits (N, C).
        stages: Stages of the network, in forward order.
        boundary: How many leading stages to put into the trunk; with all of them the tail passes the logits on.

    Returns:
        The parts, at the highest boundary up to `boundary` where exactly one tensor crosses. At 0 where the forward
        code cannot be traced, or where the steps of it depend on the mode.
    """
    if boundary <= 0:
        return Cut(None, network, 0, "")
    name = type(network).__name__
    try:
        graph = _trace(network, stages, training=False)
        in_training = _trace(network, stages, training=True)
        if graph.python_code("self").src != in_training.python_code("self").src:
            raise TraceError("it differs between training and evaluation")
    except Exception as error:  # anything: it is what the network's own code does with a stand-in for its images
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return Cut(None, network, 0, f"{name} cannot be cut, as its forward code is no fixed list of steps: {reason}")
    asked = min(boundary, len(stages))
    for depth in range(asked, 0, -1):
        point = _find_point(graph, network, stages, depth)
        if point is not None:
            trunk, tail = _split_graph(graph, network, *point)
            note = ""
            if depth < asked:
                note = _falls_short(name, stages, asked, stages[depth - 1].name)
            return Cut(trunk, tail, depth, note)
    return Cut(None, network, 0, _falls_short(name, stages, asked, "no stage"))


def _falls_short(name: str, stages: tuple[Stage, ...], asked: int, found: str) -> str:
    return f"{name} is cut after {found}: after {stages[asked - 1].name} there is no single tensor to cut at"


class _Tracer(fx.Tracer):
    """Records the forward code between the parts; each part is one step."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        self._stages = stages

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return any(stage.owns(module_qualified_name) for stage in self._stages)

    def create_args_for_root(self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None) -> Any:
        # The network is only ever called with images: what else its forward takes keeps its default.
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, nn.Module):
            raise TraceError("it hands a module to a function, which hides what runs")
        return super().create_arg(a)

    def get_fresh_qualname(self, prefix: str) -> str:
        # Only asked for to put a constant, computed once and for all, onto the network.
        raise TraceError("it makes tensors of its own")


def _trace(network: nn.Module, stages: tuple[Stage, ...], *, training: bool) -> fx.Graph:
    """Record the forward code as it runs with every module in one mode."""
    attributes = [(module, dict(vars(module))) for module in network.modules()]
    try:
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            for module, _ in attributes:
                module.training = training
            graph = _Tracer(stages).trace(network)
            if not torch.equal(before, torch.get_rng_state()):
                raise TraceError("it draws random numbers")  # which the record holds fixed
            return graph
    finally:
        for module, values in attributes:  # the modes, and what a forward that keeps notes left on its module
            vars(module).clear()
            vars(module).update(values)


def _find_point(
    graph: fx.Graph, network: nn.Module, stages: tuple[Stage, ...], depth: int
) -> tuple[int, fx.Node] | None:
    """Find the most steps that can make the trunk of `depth` stages, and the one whose value the tail starts from."""
    nodes = list(graph.nodes)
    above = [i for i, node in enumerate(nodes) if _uses_stage(node, stages[depth:])]
    below = [i for i, node in enumerate(nodes) if _uses_stage(node, stages[:depth]) and _has_state(node, network)]
    # Everything with weights in these stages belongs into the trunk; the steps right after it may be on either side.
    latest = above[0] if above else len(nodes) - 1
    earliest = below[-1] + 1 if below else 1
    for at in range(latest, earliest - 1, -1):
        later = set(nodes[at:])
        crossing = [node for node in nodes[:at] if not later.isdisjoint(node.users)]
        if len(crossing) == 1 and not any(_unpacks(user) for user in later.intersection(crossing[0].users)):
            return at, crossing[0]
    return None


def _uses_stage(node: fx.Node, stages: tuple[Stage, ...]) -> bool:
    """Tell whether a step calls a module, or reads a parameter or buffer, of one of these stages."""
    return node.op in ("call_module", "get_attr") and any(stage.owns(str(node.target)) for stage in stages)


def _has_state(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "get_attr":
        return True
    module = network.get_submodule(str(node.target))
    return bool([*module.parameters(), *module.buffers()])


def _unpacks(node: fx.Node) -> bool:
    """Tell whether a step takes one item of a tuple or dict: no batch of tensors is indexed by one number or name."""
    return node.target is operator.getitem and isinstance(node.args[1], int | str)


def _split_graph(graph: fx.Graph, network: nn.Module, at: int, crossing: fx.Node) -> tuple[nn.Module, nn.Module]:
    """Return the steps before number `at` as the trunk, and the others as the tail, which begins with `crossing`."""
    nodes = list(graph.nodes)

    trunk = fx.Graph()
    below: dict[fx.Node, fx.Node] = {}
    for node in nodes[:at]:
        below[node] = trunk.node_copy(node, below.__getitem__)
    trunk.output(below[crossing])

    tail = fx.Graph()
    above = {crossing: tail.placeholder("activations")}
    for node in nodes[at:-1]:
        above[node] = tail.node_copy(node, above.__getitem__)
    tail.output(fx.map_arg(nodes[-1].args[0], above.__getitem__))
    return fx.GraphModule(network, trunk, "Trunk"), fx.GraphModule(network, tail, "Tail")
