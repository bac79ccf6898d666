"""A time limit is for all that a run does; a second goes by between any two looks at the clock of these tests."""

import itertools

import pytest

from headstart.config import make_config
from headstart.experiment.experiment import Experiment
from headstart.experiment.time_limit import within_time_limit
from tests.helpers.displays import Remembering

SETTINGS = {"backbone": "simple-cnn", "image_size": 32, "strategy": "scratch", "epochs": 1000, "batch_size": 8}


def limited(folder, started=0.0, **settings):
    display = Remembering()
    config = make_config({**SETTINGS, "data": str(folder), "tune": "off", **settings})
    experiment = Experiment.prepare(config, display=display)
    clock = itertools.count(1.0).__next__
    return within_time_limit(experiment, started, clock=clock), display


# Of 36 training images 30 are the inner part; 18 are reported, and watched after every epoch.
@pytest.mark.parametrize(
    ("settings", "seconds_of_an_epoch"),
    [
        ({"monitor": False}, 5),
        ({}, 5 + 18 / 8 / 2),
        ({"monitor": False, "selection_score": True}, 5 + 4),
        ({"monitor": False, "accumulate": 2}, 3),
    ],
    ids=str,
)
def test_all_fits_and_the_evaluation_are_within_the_limit(image_folder, settings, seconds_of_an_epoch):
    limit_s = 200.0
    found, display = limited(image_folder, time_limit=limit_s, **settings)
    (epochs,) = found.resolved.epochs
    num_evaluated = 18 + (6 if settings.get("selection_score") else 0)
    evaluation_s = num_evaluated / 8
    spent_s = 9.0  # looks at the clock: four steps, four around two forward passes, and this one
    left_s = limit_s - spent_s - evaluation_s
    assert epochs * seconds_of_an_epoch <= left_s < (epochs + 1) * seconds_of_an_epoch
    expected_s = spent_s + epochs * seconds_of_an_epoch + evaluation_s
    assert f"time limit 200 s: epochs per phase [{epochs}], about {expected_s:.0f} s in all" in display.said
    assert found.resolved.is_timed
    assert [len(found.images(fit.train)) for fit in found.fits()] in ([36], [30, 36])


def test_what_was_spent_before_counts(image_folder):
    early, _ = limited(image_folder, time_limit=200.0)
    late, _ = limited(image_folder, started=-100.0, time_limit=200.0)
    assert late.resolved.epochs[0] < 0.6 * early.resolved.epochs[0]
    none_left, display = limited(image_folder, started=-500.0, time_limit=200.0)
    assert none_left.resolved.epochs == (1,)
    assert any("too short for one epoch" in line for line in display.said)


def test_the_way_that_was_timed_is_the_way_that_is_decided(image_folder):
    found, _ = limited(image_folder, time_limit=200.0)
    assert found.resolved.steps == (found.fit_settings.step,)
    assert within_time_limit(found, 0.0) is found
