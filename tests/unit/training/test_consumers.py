from math import log

import pytest

from headstart.training.consumers import judged
from headstart.training.events import EpochDone, FitStarted, StepDone
from headstart.training.plan import Phase, Rule
from headstart.training.step import StepResult
from tests.helpers.displays import Remembering
from tests.helpers.fits import run

ADVICE = "train again with a smaller --lr; headstart lr-find suggests one"


def fit_events(first: float, *epochs: float, num_done: int = 0):
    yield FitStarted(len(epochs), num_done, 0)
    for loss in epochs:
        yield StepDone(StepResult((first,), 0.0, 1))
        yield EpochDone({"train_loss": loss}, "")


@pytest.mark.parametrize(
    ("first", "epochs", "num_done", "is_noted"),
    [
        (0.7, (0.5, 0.4), 0, False),
        (0.7, (0.9, 2.9e14), 0, True),
        (0.7, (0.9,), 0, False),  # about as guessing: nothing was learnt, which other notes say
        (0.7, (1.5,), 0, True),
        (2.5, (2.3, 1.0), 0, False),  # it has not got far yet, but it falls
        (0.2, (0.3, 0.4), 0, False),  # a source head that was good from the start, under augmentation
        (0.2, (0.3, 1.8), 0, True),
        (3e14, (2e14,), 5, True),  # resumed, and diverged before
        (0.7, (), 0, False),
        (0.7, (0.9, 0.5), 0, False),  # it has recovered
    ],
)
def test_a_fit_that_ends_worse_than_guessing_is_noted(first, epochs, num_done, is_noted):
    events = list(fit_events(first, *epochs, num_done=num_done))
    display = Remembering()
    assert list(judged(iter(events), display, num_classes=2)) == events
    assert len(display.said) == is_noted
    if is_noted:
        assert f"{epochs[-1]:.3g}; the same probability for every class would give {log(2):.3g}" in display.said[0]
        assert display.said[0].endswith(ADVICE)


def test_steps_that_are_too_large_are_noted_in_training(model, batches, tmp_path):
    display = Remembering()
    run(model, [Phase("all", (Rule("*", 1.0),), 300.0, 2)], batches, tmp_path, display=display)
    assert [line for line in display.said if line.endswith(ADVICE)] == display.said[-1:]


def test_training_that_learns_is_not_noted(model, batches, tmp_path):
    display = Remembering()
    run(model, [Phase("all", (Rule("*", 1.0),), 0.05, 2)], batches, tmp_path, display=display)
    assert not display.said
