"""Every strategy of the real table, on a network of every family: a new row is tested without writing a test."""

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from headstart.config import make_config
from headstart.errors import PlanError
from headstart.experiment.experiment import fit_settings
from headstart.experiment.network import build_plan
from headstart.experiment.resolve import decide
from headstart.models.backbones import Backbone, create_backbone
from headstart.models.classifier import build_classifier
from headstart.models.stages import derive_stages
from headstart.training.consumers import run_fit
from headstart.training.loop import Fit
from headstart.training.plan import resolve
from headstart.training.plan_table import tabulate_plan
from headstart.training.strategies import STRATEGIES
from headstart.types import InputSpec
from tests.helpers.fits import PixelSupply
from tests.helpers.networks import FAMILIES, NETWORKS, insert, plan_for, with_parts
from tests.helpers.tiny import TensorBatches

TRAINED = ("timm/mobilenetv3_small_050", "timm/resnet10t", "timm/test_vit", "simple-cnn", "resnet18_v2")


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    """A classifier of each family, without any numbers."""
    library, _, name = request.param.partition("/")
    with torch.device("meta"):
        network = NETWORKS[request.param]()
        backbone = Backbone(name, library, name, network, derive_stages(network, library), InputSpec(), "none", "none")
        return build_classifier(backbone, ("a", "b"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_plan_covers_the_network_and_the_boundary_is_the_deepest(strategy, model):
    model = with_parts(strategy, model)
    plan = plan_for(strategy, model)
    for phase in plan.phases:
        resolved = resolve(phase, model.network, model.stages)
        trains = [any(stage.owns(name) for name in resolved.learning_rates) for stage in model.stages]
        assert trains[-1]
        assert resolved.boundary == trains.index(True)
        below = model.stages[: resolved.boundary]
        assert not any(stage.owns(name) for stage in below for name in resolved.training_modules if name)
    shares = [table.trainable for table in tabulate_plan(plan, model.network, model.stages)]
    assert shares == sorted(shares)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rates_follow_the_rule_of_the_design(strategy, model):
    """Where pretrained parts and a new head train together the head gets ten times the rate; else there is one rate."""
    model = with_parts(strategy, model)
    for phase in plan_for(strategy, model, lr=1e-3).phases:
        rates = resolve(phase, model.network, model.stages).learning_rates
        head = {rate for name, rate in rates.items() if model.stages[-1].owns(name)}
        body = {rate for name, rate in rates.items() if not model.stages[-1].owns(name)}
        if strategy in ("full", "partial", "layerwise", "l2-sp", "lora", "adapter", "norm"):
            assert list(head) == [pytest.approx(1e-2)]
            assert max(body) == pytest.approx(1e-3)
        else:
            assert len(head | body) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_a_phase_of_the_head_alone_is_solved(strategy, model):
    for solver, expected in (("auto", {"lp-ft"}), ("lbfgs", {"head", "gradual", "lp-ft"}), ("loop", set())):
        phases = plan_for(strategy, model, solver=solver).phases
        solved = [phase.solver == "lbfgs" for phase in phases]
        assert solved == [strategy in expected] + [False] * (len(phases) - 1)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frozen_stays_bit_identical_and_the_rest_changes(strategy, name):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = 160 if name == "timm/test_vit" else 32
    model = build_classifier(create_backbone(name, weights="none", image_size=size), ("a", "b", "c"))
    # Decay on everything: a residual branch that starts at zero gives what lies before it no gradient.
    settings = {"epochs": 1, "phases": 3, "optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01, "decay_all": True}
    config = make_config({"strategy": strategy, **settings})
    resolved = decide(config, model.labels)
    insert(strategy, config, model)
    with torch.no_grad():  # timm's residual branches start at zero, which gives what lies before no gradient
        for key, parameter in model.network.named_parameters():
            if parameter.ndim == 1 and key.endswith("weight"):
                parameter.fill_(1)
    pixels = torch.randint(0, 255, (8, 3, size, size), dtype=torch.uint8)
    batches = TensorBatches(pixels, torch.arange(8) % 3, 4)
    plan = build_plan(config, resolved, model)
    for phase in plan.phases:
        applied = resolve(phase, model.network, model.stages)
        before = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
        supply, fabric = PixelSupply(model.network, batches), Fabric(accelerator="cpu", devices=1)
        run_fit(Fit(model, replace(plan, phases=(phase,)), supply, fit_settings(config), fabric))
        same = {key for key, tensor in model.network.state_dict().items() if torch.equal(before[key], tensor)}
        saved_frozen = {key for key in before if key in applied.frozen}
        assert same >= saved_frozen
        # A bias before a norm may have a gradient of exactly zero, and zero does not decay.
        assert {key for key in same - saved_frozen if key.endswith(("weight", "lora_a", "lora_b"))} == set()


def test_a_network_without_known_stages_takes_whole_network_strategies_only():
    with torch.device("meta"):
        backbone = create_backbone("squeezenet1_1", weights="none")
        model = build_classifier(backbone, ("a", "b"))
    for strategy, row in STRATEGIES.items():
        if row.needs_stages:
            with pytest.raises(PlanError, match=r"stages of lite0 are not known.*scratch, head, full, lp-ft"):
                plan_for(strategy, model)
        else:
            assert plan_for(strategy, with_parts(strategy, model, stages=None), stages=None).phases
            if strategy in ("lora", "norm"):
                with pytest.raises(PlanError, match="leave out --stages"):
                    plan_for(strategy, model)
