import copy
from dataclasses import replace

import pytest
import torch

from headstart.errors import TrainingError
from headstart.training.budget import StepTiming, epoch_seconds, fit_to_time, time_steps
from headstart.training.loop import Fit
from headstart.training.lr_find import find_lr, suggest
from headstart.training.penalties import L2SP
from headstart.training.plan import Phase, Plan, Rule
from headstart.training.settings import FitSettings
from headstart.types import StepChoice
from tests.helpers.fits import PixelSupply, SolvableSupply, run
from tests.helpers.tiny import TensorBatches

PHASES = (Phase("head", (Rule("fc", 1.0), Rule("*", None)), 0.05, 4), Phase("all", (Rule("*", 1.0),), 0.05, 8, "batch"))


def pixels(train, held_out=None):
    return lambda trial: PixelSupply(trial.network, train, held_out)


def test_phases_shrink_in_proportion():
    plan = Plan("x", PHASES)
    assert fit_to_time(plan, (1.0, 2.0), 100.0) == ((4, 8), 20.0)
    assert fit_to_time(plan, (1.0, 2.0), 10.0) == ((2, 4), 10.0)
    assert fit_to_time(plan, (1.0, 2.0), 0.1) == ((1, 1), 3.0)
    assert fit_to_time(plan, (1.0, 2.0), -0.5) == ((1, 1), 3.0)  # reading the images has taken longer than the limit
    assert fit_to_time(plan, (0.0, 0.0), -0.5) == ((4, 8), 0.0)  # nothing is known that would be shorter


class Seconds:
    """A clock by which a second goes by between any two looks at it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_timing_leaves_the_model_and_its_training_alone(model, batches, held_out, fabric, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    other = replace(model, network=copy.deepcopy(model.network))
    found = time_steps(model, Plan("x", PHASES), pixels(batches, held_out), FitSettings(), fabric, clock=Seconds())
    assert found == (StepTiming(1.0, StepChoice()),) * 2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())
    run(model, PHASES[1:], batches, tmp_path / "timed")
    run(other, PHASES[1:], batches, tmp_path / "other")
    after = other.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in model.network.state_dict().items())


def test_steps_are_timed_as_they_will_run(model, batches, fabric):
    """The default step was timed, although a faster one was chosen later."""
    chosen = {0: StepChoice(False), 1: StepChoice(True, "bf16")}
    ran = []

    def choose(number, phase):
        phase.inputs.module.fc.register_forward_hook(lambda module, inputs, output: ran.append(output.dtype))
        return chosen[number]

    found = time_steps(
        model, Plan("x", PHASES), pixels(batches), FitSettings(), fabric, choose_step=choose, clock=Seconds()
    )
    assert [timing.choice for timing in found] == [chosen[0], chosen[1]]
    assert set(ran[:4]) == {torch.float32}
    assert set(ran[-4:]) == {torch.bfloat16}


def test_the_views_that_are_asked_for_are_those_of_the_training_to_come(model, batches, fabric):
    """Otherwise features would be computed after all, within the time that is left for steps."""
    asked = []

    class Asked(PixelSupply):
        def phase(self, boundary, epochs, *, all_views=False):
            asked.append(list(epochs))
            return super().phase(boundary, epochs)

    plan = Plan("x", PHASES)
    time_steps(model, plan, lambda trial: Asked(trial.network, batches), FitSettings(), fabric)
    timed = list(asked)
    asked.clear()
    for _ in Fit(model, plan, Asked(model.network, batches), FitSettings(), fabric).events():
        pass
    assert timed == asked


def test_an_epoch_is_its_steps_and_its_evaluation():
    timing = StepTiming(2.0, StepChoice())
    assert epoch_seconds(timing, 33, 0, 8) == 2.0 * 5
    assert epoch_seconds(timing, 32, 16, 8) == 2.0 * (4 + 1)


def test_a_head_that_is_solved_takes_no_epoch_and_one_that_has_to_be_trained_does(model, batches, fabric):
    plan = Plan("x", (replace(PHASES[0], solver="lbfgs"),))
    solvable = time_steps(model, plan, lambda t: SolvableSupply(t.network, batches), FitSettings(), fabric)
    assert solvable == (StepTiming(0.0, None),)
    (trained,) = time_steps(model, plan, pixels(batches), FitSettings(), fabric, clock=Seconds())
    assert trained.seconds == 1.0


def test_the_range_test_suggests_where_the_loss_falls_and_throws_the_model_away(model, batches, fabric):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    result = find_lr(model, PHASES[1], pixels(batches), FitSettings(), fabric, low=1e-5, high=10, num_steps=80)
    assert 1e-4 < result.suggestion < 1
    assert min(result.losses) < result.losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())


def test_the_range_test_pulls_as_training_does(model, batches, fabric):
    def losses(penalty):
        phase = replace(PHASES[1], penalty=penalty)
        return find_lr(model, phase, pixels(batches), FitSettings(), fabric, low=1e-4, high=1e-2, num_steps=40).losses

    strong = losses(L2SP(1.0, 1.0))
    assert losses(L2SP(0.0, 0.0)) != strong
    assert strong != losses(None)


def test_the_range_test_joins_a_last_batch_of_one_image(model, data, fabric):
    sizes = []
    model.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    train, asked = TensorBatches(data[0][:33], data[1][:33], 8), []

    class Asked(PixelSupply):
        def phase(self, boundary, epochs, *, all_views=False):
            asked.extend(epochs)
            return super().phase(boundary, epochs)

    find_lr(model, PHASES[1], lambda t: Asked(t.network, train), FitSettings(), fabric, low=1e-5, high=1, num_steps=10)
    assert min(sizes[1:]) == 8  # the first is what measured the memory
    assert asked == [0, 1, 2]  # of four batches each: the views of all epochs are there


def test_too_short_a_test_says_so():
    with pytest.raises(TrainingError, match="expected at least 5"):
        suggest([1e-3, 1e-2], [2.0, 1.0])
