"""What follows from the settings, and what a repeat takes over."""

import json
import re

import pytest

from headstart.config import dump_config, make_config
from headstart.experiment.resolve import decide, repeated, timed_as
from headstart.resolved import Resolved
from headstart.types import StepChoice

LABELS = ("ant", "bee")


@pytest.fixture
def model_folder(tmp_path):
    """What of a run's model tells its classes."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"label_names": ["ant", "bee"]}))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "lr", "head_lr"),
    [
        ({"strategy": "full"}, 3e-4, 3e-3),
        ({"strategy": "full", "optimizer": "sgd"}, 3e-3, 3e-2),
        ({"strategy": "full", "lr": 1e-3, "head_lr_mult": 2}, 1e-3, 2e-3),
        ({"strategy": "full", "head_lr": 0.5}, 3e-4, 0.5),
        ({"strategy": "head", "head_init": "source"}, 1e-3, 1e-2),  # a tenth of a new head's
        ({"strategy": "full", "head_init": "source"}, 3e-4, 3e-4),  # it is pretrained, too
        ({"strategy": "full", "head_init": "source", "head_lr_mult": 10}, 3e-4, 3e-3),
    ],
    ids=str,
)
def test_rates_follow_from_strategy_optimizer_and_head(settings, lr, head_lr):
    found = decide(make_config(settings), LABELS)
    assert (found.lr, found.head_lr) == (pytest.approx(lr), pytest.approx(head_lr))


def test_a_head_that_knows_all_its_classes_goes_on_unless_asked_otherwise(model_folder):
    def init(labels=LABELS, **settings):
        return decide(make_config({"weights": model_folder, **settings}), labels).head_init

    assert init() == "source"
    assert init(labels=("ant", "bee", "cat")) == "source"
    assert init(labels=("ant", "cat")) == "random"
    assert init(head_init="random") == "random"
    assert init(head_hidden=8) == "random"
    assert init(weights=None) == "random"


@pytest.fixture
def run(tmp_path):
    """A run's settings and decisions."""
    config = make_config({"data": "d", "strategy": "full", "epochs": 4})
    resolved = Resolved(
        strategy="full", lr=0.1, head_lr=0.2, batch_size=7, match={"ant": 3, "bee": "rest"}, epochs=(4,),
        stop_after=(2,), steps=(StepChoice(False),), engines={3: "openvino 32"},
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "resolved.json").write_text(resolved.to_json())
    return str(tmp_path), resolved


def test_a_repeat_decides_as_before_where_the_settings_are_the_same(run):
    path, resolved = run
    aside = {"out": "x", "threads": 2, "keep_checkpoints": True, "repeat": path}
    same = make_config({"data": "d", "strategy": "full", "epochs": 4, **aside})
    assert repeated(same, LABELS) == (resolved, "")
    assert repeated(make_config({"data": "d"}), LABELS) == (None, "")


@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        ({"epochs": 5}, LABELS, "epochs is not as in"),
        ({"seed": 1, "lr": 0.5}, LABELS, "seed, lr are not as in|lr, seed are not as in"),
        ({}, ("ant", "cat"), "the classes are not those of"),
    ],
)
def test_with_other_settings_a_repeat_decides_anew_and_says_so(run, change, labels, message):
    settings = {"data": "d", "strategy": "full", "epochs": 4, "repeat": run[0], **change}
    found, why = repeated(make_config(settings), labels)
    assert found is None
    assert re.search(message, why)
    assert why.endswith("so what follows from settings is decided anew")


def test_another_seed_takes_over_what_was_timed_and_nothing_else(run):
    _, other = run
    own = Resolved(strategy="full", lr=0.5, head_lr=1.0)
    found = timed_as(own, other)
    assert (found.batch_size, found.epochs, found.steps, found.engines) == (7, (4,), other.steps, other.engines)
    assert (found.lr, found.stop_after, found.match) == (0.5, None, {})


def test_lengths_that_a_time_limit_set_are_not_timed_again_for_another_seed(run):
    _, other = run
    own = Resolved(strategy="full", lr=0.5, head_lr=1.0)
    assert timed_as(own, other.replace(is_timed=True)).is_timed
    assert not timed_as(own, other).is_timed
