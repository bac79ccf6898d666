import pytest
import torch
from torch import nn

from headstart.errors import PlanError
from headstart.training.plan import Phase, Plan, Rule, apply_modes, resolve
from headstart.training.plan_table import share, tabulate_plan
from headstart.training.user_table import parse_table
from tests.helpers.tiny import STAGES, TinyNet


def phase(*rules, batch_norm="fixed", lr=0.1):
    return Phase("p", tuple(Rule(*rule) for rule in rules), lr, 1, batch_norm)


def test_first_match_wins_and_leading_parts_match():
    resolved = resolve(phase(("layer2.0", None), ("layer2", 2.0), ("fc", 10.0), ("*", None)), TinyNet(), STAGES)
    assert resolved.learning_rates == pytest.approx(
        {"layer2.1.weight": 0.2, "layer2.1.bias": 0.2, "fc.weight": 1.0, "fc.bias": 1.0}
    )


def test_a_pattern_does_not_match_a_longer_name_beside_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer1, self.layer10 = nn.Linear(2, 2), nn.Linear(2, 2)

    resolved = resolve(phase(("layer1", 1.0), ("*", None)), Two(), (*STAGES[:0], STAGES[1]))
    assert set(resolved.learning_rates) == {"layer1.weight", "layer1.bias"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("fc", 1.0),), "covers no rate for 'conv1.weight' and 10 more"),
        ((("fcc", 1.0), ("*", 1.0)), "'fcc' matches no parameter"),
        ((("*", None),), "freezes every parameter"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(rules, message):
    with pytest.raises(PlanError, match=message.replace("*", r"\*")):
        resolve(phase(*rules), TinyNet(), STAGES)


@pytest.mark.parametrize(
    ("rules", "boundary"),
    [
        ((("fc", 1.0), ("*", None)), 3),
        ((("layer2", 1.0), ("*", None)), 2),
        ((("layer1.1", 1.0), ("fc", 1.0), ("*", None)), 1),
        ((("bn1", 1.0), ("*", None)), 0),
        ((("*", 1.0),), 0),
    ],
)
def test_the_boundary_is_the_deepest_possible(rules, boundary):
    assert resolve(phase(*rules), TinyNet(), STAGES).boundary == boundary


def test_modes_follow_the_table():
    network = TinyNet()
    apply_modes(network, resolve(phase(("layer2", 1.0), ("fc", 1.0), ("*", None), batch_norm="batch"), network, STAGES))
    training = {name for name, module in network.named_modules() if module.training}
    assert training == {"", "layer2", "layer2.0", "layer2.1", "layer2.2", "fc"}  # not layer1.3, the frozen dropout
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {
        "layer2.0.weight", "layer2.0.bias", "layer2.1.weight", "layer2.1.bias", "fc.weight", "fc.bias",
    }  # fmt: skip


def test_statistics_are_frozen_with_their_parameters_or_by_policy():
    network, everything = TinyNet(), ("*", 1.0)
    batch = resolve(phase(("layer1", None), everything, batch_norm="batch"), network, STAGES)
    assert "layer1.1.running_mean" in batch.frozen
    assert "layer2.1.running_mean" not in batch.frozen
    assert batch.trains_batch_statistics
    fixed = resolve(phase(everything, batch_norm="fixed"), network, STAGES)
    assert {"bn1.running_var", "layer1.1.running_mean", "layer2.1.num_batches_tracked"} <= fixed.frozen
    assert "layer2.1" not in fixed.training_modules
    assert not fixed.trains_batch_statistics


def test_a_norm_without_parameters_goes_with_its_stage():
    network = TinyNet()
    network.layer1[1] = nn.BatchNorm2d(8, affine=False)
    together = resolve(phase(("layer1", 1.0), ("fc", 1.0), ("*", None), batch_norm="batch"), network, STAGES)
    assert "layer1.1" in together.training_modules
    assert "layer1.1.running_var" not in together.frozen
    above = resolve(phase(("layer2", 1.0), ("fc", 1.0), ("*", None), batch_norm="batch"), network, STAGES)
    fixed = resolve(phase(("*", 1.0), batch_norm="fixed"), network, STAGES)
    for resolved in (above, fixed):
        assert "layer1.1" not in resolved.training_modules
        assert "layer1.1.running_var" in resolved.frozen


def test_share_is_printed_as_in_the_lessons():
    assert share(1026, 11177538) == "1,026 / 11,177,538 (0.01 %)"


def test_describe_counts_per_stage():
    (table,) = tabulate_plan(Plan("x", (phase(("fc", 10.0), ("layer2", 1.0), ("*", None)),)), TinyNet(), STAGES)
    rows = {row.stage: (row.parameters, row.trainable, row.learning_rates) for row in table.stages}
    assert rows["stem"] == (174, 0, ())
    assert rows["layer2"] == (600, 600, (0.1,))
    assert rows["head"] == (27, 27, (1.0,))
    assert table.boundary == "after layer1"
    assert table.trainable == 627


def test_a_table_of_ones_own():
    table = {
        "pretrained": False,
        "phases": [
            {"rules": {"fc": 10, 0: "frozen", "*": None}, "epochs": 2, "solver": "lbfgs"},
            {"lr": "1e-4", "rules": {"*": 1}, "batch_norm": "batch"},
        ],
    }
    plan = parse_table(table, name="mine", default_lr=0.01, default_epochs=7)
    assert not plan.is_pretrained
    assert [(p.name, p.lr, p.epochs, p.batch_norm, p.solver) for p in plan.phases] == [
        ("phase 1", 0.01, 2, "fixed", "lbfgs"),
        ("phase 2", 1e-4, 7, "batch", "loop"),
    ]
    assert plan.phases[0].rules == (Rule("fc", 10.0), Rule("0", None), Rule("*", None))


ALL = {"rules": {"*": 1}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"strategy table 'mine': phases: field required; got {}\. A table is such as {phases: "),
        ({"phases": []}, r"phases: list should have at least 1 item .*; got \[\]"),
        ({"phases": [3]}, r"phases\[0\]: input should be a mapping; got 3"),
        ({"phases": [{"ruls": {}}]}, r"unknown key phases\[0\]\.ruls\. Did you mean 'rules'"),
        ({"phase": []}, r"unknown key phase\. Did you mean 'phases'"),
        ({"phases": [{}]}, r"phases\[0\]\.rules: field required"),
        ({"phases": [{"rules": {}}]}, r"phases\[0\]\.rules: dictionary should have at least 1 item"),
        ({"phases": [{"rules": {"*": "fast"}}]}, r"phases\[0\]\.rules\.\*: input .* valid number.*; got 'fast'"),
        ({"phases": [{**ALL, "batch_norm": "frozen"}]}, "input should be 'batch' or 'fixed'; got 'frozen'"),
        ({"phases": [{**ALL, "solver": "newton"}]}, "'loop' or 'lbfgs'"),
        ({"phases": [{"rules": {"*": -1}}]}, "input should be greater than 0; got -1"),
        ({"phases": [ALL, {**ALL, "epochs": 2.7}]}, r"phases\[1\]\.epochs: .*integer.*; got 2\.7"),
        ({"phases": [{**ALL, "lr": float("nan")}]}, r"phases\[0\]\.lr: input should be .*; got nan"),
        ({"phases": [{**ALL, "lr": float("inf")}]}, r"phases\[0\]\.lr: input should be .*; got inf"),
        ({"phases": [{**ALL, "lr": None}]}, r"phases\[0\]\.lr: input should be a valid number; got None"),
        ({"phases": [ALL], "pretrained": "no"}, "pretrained: input should be a valid boolean; got 'no'"),
    ],
)
def test_a_wrong_table_is_an_error_in_words(table, message):
    with pytest.raises(PlanError, match=message) as error:
        parse_table(table, name="mine", default_lr=0.01, default_epochs=1)
    assert "\n" not in str(error.value)


def test_gradients_stop_below_the_boundary():
    network = TinyNet()
    apply_modes(network, resolve(phase(("fc", 1.0), ("*", None)), network, STAGES))
    network(torch.zeros(2, 3, 8, 8)).sum().backward()
    assert network.fc.weight.grad is not None
    assert network.conv1.weight.grad is None
