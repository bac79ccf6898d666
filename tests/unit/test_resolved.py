"""The record of what a run decided."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from headstart.errors import RunError
from headstart.resolved import Resolved, decisions_of_version_0_1
from headstart.types import StepChoice

WHERE = Path("r/resolved.json")
FULL = Resolved(
    strategy="mine", table={"phases": [{"rules": {"*": None}}]}, lr=0.1, head_lr=1.0, batch_size=4,
    head_init="source", match={"a": 3, "b": "rest"}, epochs=(1, 2), is_timed=True, stop_after=(1, 1),
    steps=(None, StepChoice(False, "bf16", True)), engines={4: "openvino bf16"},
)  # fmt: skip


def test_it_is_read_back_equal_and_cannot_change():
    assert Resolved.from_json(FULL.to_json().encode(), WHERE) == FULL
    with pytest.raises(ValidationError):
        FULL.lr = 0.5


def test_a_decision_is_a_new_value():
    later = FULL.with_step(0, StepChoice())
    assert (FULL.steps[0], later.steps) == (None, (StepChoice(), FULL.steps[1]))


def test_the_steps_of_a_later_phase_may_be_decided_first():
    found = Resolved(strategy="lp-ft", lr=0.1, head_lr=1.0).with_step(1, StepChoice())
    assert found.steps == (None, StepChoice())


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"strategy": "x", "lr": "fast", "head_lr": 1}'])
def test_a_damaged_one_says_where_and_what_to_do(data):
    with pytest.raises(RunError, match=r"r/resolved.json is damaged or another version's \(.*train again"):
        Resolved.from_json(data, WHERE)


OLD = {
    "strategy": "full", "lr": 1e-3, "head_lr": None, "head_lr_mult": 3.0, "batch_size": 8, "head_init": "random",
    "phase_epochs": None, "choices": {"stop_after": [2], "step_of_phase_1": {"channels_last": False}},
}  # fmt: skip


def test_the_decisions_of_version_0_1_stand_among_its_settings():
    found = decisions_of_version_0_1(OLD, WHERE)
    assert (found.lr, found.head_lr, found.epochs, found.stop_after) == (1e-3, 3e-3, (), (2,))
    assert (found.steps, found.is_timed) == ((StepChoice(False),), False)
    timed = decisions_of_version_0_1({**OLD, "choices": {"epochs": [4]}}, WHERE)
    assert (timed.epochs, timed.stop_after, timed.is_timed) == ((4,), None, True)


def test_a_phase_of_version_0_1_that_was_solved_had_no_steps():
    found = decisions_of_version_0_1({**OLD, "choices": {"step_of_phase_2": {"precision": "bf16"}}}, WHERE)
    assert found.steps == (None, StepChoice(precision="bf16"))


@pytest.mark.parametrize("change", [{"lr": "fast"}, {"choices": 3}, {"batch_size": None}])
def test_damaged_settings_of_version_0_1_say_so(change):
    with pytest.raises(RunError, match=r"r/resolved.json is damaged, or is no longer read"):
        decisions_of_version_0_1({**OLD, **change}, WHERE)
