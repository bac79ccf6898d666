"""A network of every family, cut at the boundary of every phase of every strategy, computes what it did uncut."""

from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn

from headstart.features.cut import cut
from headstart.models.adapters import is_part
from headstart.models.classifier import ClassifierNetwork
from headstart.models.stages import derive_stages
from headstart.training.plan import Phase, ResolvedPhase, apply_modes, resolve
from headstart.training.strategies import STRATEGIES
from headstart.types import Parts
from tests.helpers.networks import SIDE, SMALL, build, plan_for, with_parts


@pytest.fixture(params=SMALL, scope="module")
def model(request: pytest.FixtureRequest) -> Iterator[ClassifierNetwork]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield build(request.param, dropout=0.2)
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def phases(model: ClassifierNetwork, parts: Parts | None) -> Iterator[Phase]:
    """Every phase of every strategy with such parts; `gradual` stops at each boundary."""
    for strategy, row in STRATEGIES.items():
        if row.parts == parts:
            yield from plan_for(strategy, model, phases=len(model.stages)).phases


def different_phases(model: ClassifierNetwork, parts: Parts | None) -> list[tuple[Phase, ResolvedPhase]]:
    """One phase for each set of what trains: beyond that they differ in rates and lengths."""
    resolved = [(phase, resolve(phase, model.network, model.stages)) for phase in phases(model, parts)]
    return list({(frozenset(r.learning_rates), r.training_modules): (phase, r) for phase, r in resolved}.values())


def snapshot(network: nn.Module) -> list[tuple[str, object]]:
    """What may not change: every attribute of every module, by identity."""
    return [
        (f"{name}.{key}", {k: id(v) for k, v in value.items()} if isinstance(value, dict) else value)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
    ]


def backward(function: Callable[[Tensor], Tensor], inputs: Tensor, network: nn.Module) -> tuple[Tensor, dict]:
    """Run forward and backward from the same random state; return the logits and the gradients."""
    network.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    logits = function(inputs)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(inputs))).backward()
    return logits, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [None, *get_args(Parts)])
def test_every_phase_computes_what_it_did_uncut(model: ClassifierNetwork, images: Tensor, parts: Parts | None) -> None:
    if parts is not None:
        model = with_parts(parts, model)
        for name, parameter in model.network.named_parameters():
            if is_part(name):
                torch.nn.init.uniform_(parameter, -0.1, 0.1)
    network, parameters = model.network, dict(model.network.named_parameters())
    for phase, resolved in different_phases(model, parts):
        apply_modes(network, resolved)
        before = snapshot(network)
        result = cut(network, model.stages, resolved.boundary)
        assert snapshot(network) == before
        assert (result.boundary, result.note) == (resolved.boundary, ""), phase
        if result.trunk is None:
            assert result.tail is network
            continue
        modes = [module.training for module in network.modules()]
        result.trunk.eval()
        assert [module.training for module in network.modules()] == modes  # what is frozen was in eval mode already

        tail, trunk = dict(result.tail.named_parameters()), dict(result.trunk.named_parameters())
        assert all(tail[name] is parameters[name] for name in tail)
        assert set(tail) >= set(resolved.learning_rates)
        assert set(trunk).isdisjoint(resolved.learning_rates)
        assert set(trunk) | set(tail) == set(parameters)
        assert {**result.trunk.state_dict(), **result.tail.state_dict()}.keys() == network.state_dict().keys()

        with torch.no_grad():
            activations = result.trunk(images)
        kept = activations.clone()
        logits, gradients = backward(result.tail, activations, network)
        assert torch.equal(activations, kept)
        expected_logits, expected = backward(network, images, network)
        assert torch.equal(logits, expected_logits)
        assert gradients.keys() == expected.keys() == resolved.learning_rates.keys()
        assert all(torch.equal(gradients[name], expected[name]) for name in expected)

        network.eval()
        with torch.no_grad():
            assert torch.equal(result.tail(result.trunk(images)), network(images))


def test_above_the_boundary_chance_and_statistics_are_at_work(model: ClassifierNetwork, images: Tensor) -> None:
    """What the test above compares in training mode differs from evaluation, so the tail is not just evaluated."""
    plan = plan_for("partial", model, stages=1)
    apply_modes(model.network, resolve(plan.phases[0], model.network, model.stages))
    training = model.network(images)
    assert not torch.equal(training, model.network.eval()(images))


def test_the_trunk_below_the_head_gives_the_heads_input(model: ClassifierNetwork, images: Tensor) -> None:
    network = model.network.eval()
    result = cut(network, model.stages, len(model.stages) - 1)
    seen: list[Tensor] = []
    head = network.get_submodule(model.stages[-1].prefixes[0])
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
        handle.remove()
        assert result.trunk is not None
        assert torch.equal(result.trunk(images), seen[0])


def test_with_all_stages_in_the_trunk_the_tail_passes_the_logits_on(images: Tensor) -> None:
    model = build("headstart/simple-cnn", hidden=6, dropout=0.1)
    network = model.network.eval()
    result = cut(network, model.stages, len(model.stages))
    assert result.trunk is not None
    with torch.no_grad():
        assert torch.equal(result.tail(result.trunk(images)), network(images))
    assert not list(result.tail.parameters())


@pytest.mark.parametrize(
    "name",
    ["torchvision/squeezenet1_1", "torchvision/shufflenet_v2_x0_5", "timm/test_byobnet", "timm/test_nfnet"],
)
def test_a_network_of_unknown_family_is_cut_at_the_head(name: str, images: Tensor) -> None:
    torch.manual_seed(0)
    library, _, architecture = name.partition("/")
    network = timm.create_model(architecture) if library == "timm" else tv.get_model(architecture)
    stages = derive_stages(network.eval(), library)
    result = cut(network, stages, 1)
    assert [stage.name for stage in stages] == ["body", "head"]
    assert (result.boundary, result.note) == (1, "")
    assert result.trunk is not None
    with torch.no_grad():
        assert torch.equal(result.tail(result.trunk(images)), network(images))
    assert all(stages[1].owns(key) for key in result.tail.state_dict())


def test_dropout_in_the_forward_code_itself_forbids_a_cut() -> None:
    network = timm.create_model("ghostnet_050")
    result = cut(network, derive_stages(network, "timm"), 1)
    assert (result.trunk, result.tail, result.boundary) == (None, network, 0)
    assert result.note == (
        "GhostNet cannot be cut, as its forward code is no fixed list of steps: "
        "it differs between training and evaluation"
    )
