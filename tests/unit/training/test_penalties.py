import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from headstart.errors import PlanError, TrainingError
from headstart.models.adapters import insert_adapters, insert_lora
from headstart.models.source_head import SourceHead
from headstart.models.source_head.matching import Matching
from headstart.training.penalties import L2SP, pretrained_start
from headstart.training.plan import Phase, Plan, Rule, apply_modes, resolve
from headstart.training.plan_table import tabulate_plan
from headstart.training.schedules import lr_factor
from headstart.training.step import step_seed
from headstart.training.user_table import parse_table
from headstart.types import Stage
from tests.helpers.displays import Killed, Killer
from tests.helpers.fits import HEAD, Rows, assert_equal, run, state
from tests.helpers.tiny import STAGES, make_model

PENALTY = L2SP(alpha=2.0, beta=0.5)
PULLED = Phase("all", (Rule("fc", 10.0), Rule("*", 1.0)), 0.02, 2, penalty=PENALTY)


def test_by_hand():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    old, new = network[0].weight, network[1].weight
    with torch.no_grad():
        old.fill_(1.5)
        new.fill_(3.0)
    stages = (Stage("body", ("0",)), Stage("head", ("1",)))
    start = pretrained_start(replace(make_model(), network=network, stages=stages))
    with torch.no_grad():
        old.fill_(2.0)
    old.grad, new.grad = torch.tensor([[1.0]]), torch.tensor([[1.0]])
    L2SP(alpha=0.1, beta=0.01).add_gradient(dict(network.named_parameters()), start)
    assert old.grad.item() == pytest.approx(1 + 0.1 * (2.0 - 1.5))
    assert new.grad.item() == pytest.approx(1 + 0.01 * 3.0)


def test_the_gradient_is_that_of_the_formula():
    model = make_model()
    network = model.network.double()
    start = pretrained_start(model)
    assert set(start) == {name for name, _ in network.named_parameters() if not name.startswith("fc.")}
    parameters = dict(network.named_parameters())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn_like(parameter))
    pull = sum(((p - start[name]) ** 2).sum() for name, p in parameters.items() if name in start)
    decay = sum((p**2).sum() for name, p in parameters.items() if name.startswith("fc."))
    expected = torch.autograd.grad(0.5 * 2.0 * pull + 0.5 * 0.5 * decay, list(parameters.values()))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    parameters["bn1.weight"].grad = None  # what has no gradient gets none
    PENALTY.add_gradient(parameters, start)
    assert parameters["bn1.weight"].grad is None
    for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
        if name != "bn1.weight":
            assert torch.allclose(parameter.grad, gradient, atol=1e-12), name


def test_inserted_parts_are_new():
    model = make_model()
    names = set(dict(model.network.named_parameters()))
    insert_adapters(model.network, STAGES[:-1], width=2, size=(8, 8))
    assert set(pretrained_start(model)) == {name for name in names if not name.startswith("fc.")}
    insert_lora(model.network, STAGES[:-1], rank=2, alpha=2.0)
    start = pretrained_start(model)
    assert not any("lora" in name or "adapter." in name for name in start)


def test_parts_that_came_with_the_weights_are_not_new():
    model = make_model()
    insert_adapters(model.network, STAGES[:-1], width=2, size=(8, 8))
    brought = frozenset(name for name, _ in model.network.named_parameters() if "adapter." in name)
    assert brought
    start = pretrained_start(replace(model, parts_brought=brought))
    assert brought <= start.keys()


def test_a_head_from_the_sources_rows_is_pulled_to_them_and_its_new_rows_to_zero():
    model = make_model()
    matching = Matching(("a", "b", "c"), (7, None, None), rest=2)
    source = SourceHead(torch.zeros(9, 8), torch.zeros(9), (), matching)
    start = pretrained_start(replace(model, source_head=source))
    for name in ("fc.weight", "fc.bias"):
        now = model.network.get_parameter(name)
        assert torch.equal(start[name][[0, 2]], now[[0, 2]])
        assert not start[name][1].any()
        assert now[1].any()


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"clip_norm": 0.5}], ids=str)
def test_training_minimises_the_loss_plus_the_penalty(batches, tmp_path, settings):
    """As raw PyTorch does, with the formula in the loss; weight decay is off."""
    model, raw = make_model(), make_model().network.to(memory_format=torch.channels_last)  # dropout draws in its order
    start = copy.deepcopy(raw)
    run(model, [PULLED], batches, tmp_path, optimizer="sgd", momentum=0.0, weight_decay=0.7, **settings)
    apply_modes(raw, resolve(PULLED, raw, STAGES))
    parameters, first = dict(raw.named_parameters()), dict(start.named_parameters())
    step, size = 0, settings.get("accumulate", 1)
    for epoch in range(2):
        groups = list(batches.epoch(epoch))
        for number, begin in enumerate(range(0, len(groups), size)):
            torch.manual_seed(step_seed(0, 0, epoch, number))
            members = groups[begin : begin + size]
            count = sum(len(batch.targets) for batch in members)
            loss = sum(
                functional.cross_entropy(raw((b.pixels / 255 - 0.5) / 0.5), b.targets, reduction="sum") / count
                for b in members
            )
            for name, parameter in parameters.items():
                if name.startswith("fc."):
                    loss = loss + 0.25 * (parameter**2).sum()
                else:
                    loss = loss + 1.0 * ((parameter - first[name]) ** 2).sum()
            raw.zero_grad()
            loss.backward()
            if "clip_norm" in settings:
                nn.utils.clip_grad_norm_(list(parameters.values()), settings["clip_norm"])
            factor = lr_factor("one-cycle", step, 2 * -(-len(groups) // size), 0.1)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.sub_(0.02 * factor * (10 if name.startswith("fc.") else 1) * parameter.grad)
            step += 1
    for name, tensor in raw.state_dict().items():
        assert torch.allclose(tensor, model.network.state_dict()[name], atol=2e-5), name


def test_the_stronger_the_pull_the_nearer_to_the_start(batches, tmp_path):
    first, distances = make_model().network.conv1.weight, []
    for alpha in (0.0, 1.0, 30.0):
        model = make_model()
        phase = replace(PULLED, penalty=L2SP(alpha, 0.0))
        run(model, [phase], batches, tmp_path / str(alpha), optimizer="sgd", momentum=0.0)
        distances.append((model.network.conv1.weight - first).norm().item())
    assert distances[0] > 1.02 * distances[1]
    assert distances[1] > 1.5 * distances[2] > 0


def build(parts):
    """A classifier as it is built for the first and for every later process of a run."""
    model = make_model()
    torch.manual_seed(7)
    if parts == "lora":
        insert_lora(model.network, STAGES[:-1], rank=2, alpha=4.0)
    if parts == "adapter":
        insert_adapters(model.network, STAGES[:-1], width=3, size=(8, 8))
    return model


RULES = {
    "lora": (Rule("fc", 10.0), Rule("*.lora_a", 1.0), Rule("*.lora_b", 1.0), Rule("*", None)),
    "adapter": (Rule("fc", 10.0), Rule("*.adapter.*", 1.0), Rule("*", None)),
}
PARTED = {parts: Phase(parts, rules, 0.05, 2, "batch") for parts, rules in RULES.items()}


@pytest.mark.parametrize(
    ("parts", "phases"),
    [
        ("", [replace(PULLED, batch_norm="batch")]),
        ("", [HEAD, PULLED]),
        ("lora", [replace(PARTED["lora"], penalty=PENALTY)]),
        ("lora", [PARTED["lora"]]),
        ("adapter", [PARTED["adapter"]]),
    ],
    ids=["l2-sp", "head, then l2-sp", "lora and l2-sp", "lora", "adapter"],
)
def test_killed_after_any_step_and_resumed_is_as_if_it_had_not_been(batches, tmp_path, parts, phases):
    settings = {"optimizer": "adamw", "ema": 0.9, "checkpoint_every_s": 0.0}
    whole = build(parts)
    run(whole, phases, batches, tmp_path / "whole", **settings)
    for after in (1, 4, 6, 8):
        folder, log = tmp_path / f"{after}", Rows()
        with pytest.raises(Killed):
            run(build(parts), phases, batches, folder, rows=log, display=Killer(steps=after), **settings)
        resumed = build(parts)
        run(resumed, phases, batches, folder, rows=log, **settings)
        assert_equal(state(whole), state(resumed))


def test_a_run_that_would_be_pulled_to_another_start_is_not_resumed(batches, tmp_path):
    """All trains, so no frozen tensor tells that the pretrained weights are others than the run began with."""
    phase = replace(PULLED, batch_norm="batch")
    with pytest.raises(Killed):
        run(make_model(), [phase], batches, tmp_path, display=Killer(steps=3), checkpoint_every_s=0.0)
    with pytest.raises(TrainingError, match="not those that the run began with; start a new run"):
        run(make_model(seed=1), [phase], batches, tmp_path)


@pytest.mark.parametrize("parts", PARTED)
def test_only_the_parts_and_the_head_change(batches, tmp_path, parts):
    """Nothing else to the bit: not the weights, and not BatchNorm's statistics though the policy is `batch`."""
    model = build(parts)
    before = state(model)
    result, _ = run(model, [PARTED[parts]], batches, tmp_path, weight_decay=0.1, decay_all=True)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    word = ".adapter." if parts == "adapter" else ".lora_"
    assert changed == {name for name in before if word in name or name.startswith("fc.")}
    assert result.unchanged == ()
    assert any("running_mean" in name for name in before)


def table(penalty, **phase):
    return {"phases": [{"rules": {"*": 1}, "penalty": penalty, **phase}]}


def test_a_table_of_ones_own_has_penalties_and_parts():
    plan = parse_table({**table({"alpha": "1e-2"}), "parts": "lora"}, name="mine", default_lr=1.0, default_epochs=1)
    assert plan.phases[0].penalty == L2SP(alpha=0.01, beta=0.01)
    (row,) = tabulate_plan(Plan("x", (PULLED,)), make_model().network, STAGES)
    assert row.penalty == "L2-SP, 2 towards the start, 0.5 towards zero where new"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (table(0.1), r"phases\[0\]\.penalty: input should be a mapping; got 0\.1"),
        (table({"alfa": 1}), r"unknown key phases\[0\]\.penalty\.alfa\. Did you mean 'alpha'"),
        (table({"alpha": "strong"}), r"phases\[0\]\.penalty\.alpha: input should be a valid number"),
        (table({"alpha": -1}), "input should be greater than or equal to 0; got -1"),
        (table({"alpha": float("nan")}), "input should be .*; got nan"),
        (table({"alpha": 1}, solver="lbfgs"), r"phases\[0\] is solved, which takes no penalty"),
        ({**table(None), "parts": "lorra"}, "parts: input should be 'lora' or 'adapter'; got 'lorra'"),
    ],
)
def test_a_wrong_penalty_is_an_error_in_words(values, message):
    with pytest.raises(PlanError, match=message):
        parse_table(values, name="mine", default_lr=0.01, default_epochs=1)
