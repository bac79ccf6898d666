"""Heads that start from what the weights know: zero-shot, with a class more, against the rest, and resumed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from headstart import experiment
from headstart.config import load_config, make_config
from headstart.errors import ConfigError
from headstart.runs import Run
from tests.helpers.displays import Killed, Killer, Remembering
from tests.helpers.pictures import COLOURS, write_folder

TINY = {"backbone": "simple-cnn", "image_size": 32, "augment": "flip", "threads": 1}
RED = {"map": "leaf=not_apple,sky=not_apple", "head_init": "source"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"{split}/{label}": n for split, n in (("train", 12), ("val", 6)) for label in COLOURS}
    return write_folder(tmp_path_factory.mktemp("pictures") / "fruit", counts)


@pytest.fixture(scope="module")
def source(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that knows apple, leaf and sky."""
    torch.set_num_threads(1)
    out = str(tmp_path_factory.mktemp("source") / "run")
    return experiment.train(
        make_config({**TINY, "data": str(pictures), "strategy": "scratch", "epochs": 12, "out": out})
    )


class Train:
    """Runs from the source, and what they said."""

    def __init__(self, pictures: Path, source: Run, folder: Path) -> None:
        self._base = {**TINY, "data": str(pictures), "weights": str(source.path)}
        self._folder, self._count = folder, 0
        self.said: list[str] = []

    def __call__(self, **settings: Any) -> Run:
        self._count += 1
        out = settings.pop("out", str(self._folder / f"run {self._count}"))
        display = Remembering()
        self.said = display.said
        return experiment.train(make_config({**self._base, **settings, "out": out}), display=display)


@pytest.fixture
def train(pictures: Path, source: Run, tmp_path: Path) -> Train:
    torch.set_num_threads(1)
    return Train(pictures, source, tmp_path)


def model_of(run: Run) -> bytes:
    return (run.path / "model" / "model.safetensors").read_bytes()


def head_of(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = load_file(run.path / "model" / "model.safetensors")
    return tensors["head.weight"], tensors["head.bias"]


def test_without_epochs_a_run_on_its_own_classes_is_what_it_was(train: Train, source: Run) -> None:
    run = train(epochs=0)
    assert model_of(run) == model_of(source)
    metrics = run.metrics()
    assert metrics["accuracy"] == source.metrics()["accuracy"]
    assert metrics["epochs_run"] == [0]
    assert run.history() == []
    assert metrics["head_starts_from"] == {"apple": "0 (apple)", "leaf": "1 (leaf)", "sky": "2 (sky)"}
    assert run.resolved().head_init == "source"
    assert run.resolved().match == {"apple": 0, "leaf": 1, "sky": 2}
    assert any("apple = 0 (apple), leaf = 1 (leaf), sky = 2 (sky)" in line for line in train.said)
    assert any("--head-init random would start anew" in line for line in train.said)


@pytest.mark.parametrize("new", ["banana", "apples"])  # the second would mean a row of the source that is taken
def test_a_new_class_leaves_the_rows_of_the_others_as_they_were(
    train: Train, source: Run, make_folder: Callable[..., Path], new: str
) -> None:
    counts = {f"{split}/{label}": 4 for split in ("train", "val") for label in (*COLOURS, new)}
    run = train(data=str(make_folder(counts, "more")), epochs=0)
    assert run.labels == ("apple", new, "leaf", "sky")
    assert run.config().match == {}
    assert any(f"new rows for {new}" in line for line in train.said)
    (weight, bias), (old_weight, old_bias) = head_of(run), head_of(source)
    for row, old in ((0, 0), (2, 1), (3, 2)):
        assert torch.equal(weight[row], old_weight[old])
        assert torch.equal(bias[row], old_bias[old])
    assert float(weight[1].square().mean() / old_weight.square().mean()) == pytest.approx(1, abs=0.5)
    assert float(bias[1]) == pytest.approx(float(old_bias.mean()), abs=1e-6)


def test_what_was_not_asked_for_starts_anew_and_is_told_of(train: Train) -> None:
    train(epochs=0, head_init="random")
    assert any("knows 3 of these 3 classes, and the head starts anew" in line for line in train.said)
    assert any("no epochs and a random head" in line for line in train.said)
    fewer = train(epochs=0, map="sky=cloud")  # not all of the run's classes are here
    assert fewer.resolved().head_init == "random"
    assert any("knows 2 of these 3 classes" in line for line in train.said)
    solved = train(solver="lbfgs", head_init="source")
    assert any("head_init=source changes nothing here" in line for line in train.said)
    assert "head_starts_from" in solved.metrics()


def test_a_head_that_knows_its_classes_has_the_rate_of_what_is_pretrained(train: Train) -> None:
    run = train(epochs=0)
    assert run.resolved().lr == pytest.approx(1e-3)  # a tenth of a new head's
    assert not any("has no effect" in line for line in train.said)
    assert train(epochs=0, head_init="random").resolved().lr == pytest.approx(1e-2)
    assert train(epochs=0, lr=0.5).resolved().lr == 0.5
    full = train(strategy="full", epochs=0).resolved()
    assert (full.lr, full.head_lr) == (pytest.approx(3e-4), pytest.approx(3e-4))
    assert train(strategy="full", epochs=0, head_lr_mult=10.0).resolved().head_lr == pytest.approx(3e-3)


def test_one_class_against_the_rest_needs_no_training(train: Train, source: Run) -> None:
    run = train(**RED, epochs=0)
    assert run.labels == ("apple", "not_apple")
    assert run.metrics()["accuracy"]["value"] >= 17 / 18
    assert any("not_apple starts from all other classes" in line for line in train.said)
    assert torch.equal(head_of(run)[0][0], head_of(source)[0][0])
    assert model_of(train(**RED, epochs=0, cache=False)) == model_of(run)
    assert model_of(train(map=RED["map"], epochs=0, head_init="random")) != model_of(run)


def test_a_users_word_is_recorded_and_replayed(train: Train, tmp_path: Path) -> None:
    words = {"map": "apple=warm,leaf=cold,sky=cold"}
    run = train(**words, match="warm=apple,cold=rest", epochs=0)
    assert run.resolved().match == {"warm": 0, "cold": "rest"}
    assert run.config().head_init == "source"
    assert run.metrics()["accuracy"]["value"] >= 17 / 18
    repeated = experiment.train(load_config(run.path / "config.yaml", {"out": str(tmp_path / "again")}))
    assert model_of(repeated) == model_of(run)
    assert model_of(train(**words, match={"warm": 0, "cold": "rest"}, epochs=0)) == model_of(run)
    other = load_config(run.path / "config.yaml", {"match": "warm=1", "out": str(tmp_path / "other")})
    assert (other.match, other.head_init, other.repeat) == ({"warm": "1"}, "source", str(run.path))


FROZEN_FIRST = {
    "strategy": "mine",
    "table": {
        "phases": [
            {"name": "below", "epochs": 1, "lr": 1e-3, "rules": {"hidden": 1, "*": None}},
            {"name": "head", "epochs": 1, "lr": 1e-3, "rules": {"head": 1, "*": None}},
        ]
    },
}


@pytest.mark.parametrize("settings", [{"strategy": "head", "epochs": 2}, FROZEN_FIRST], ids=["head", "frozen first"])
def test_killed_and_resumed_it_ends_in_the_same_bytes(
    train: Train, pictures: Path, source: Run, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = train(**RED, **settings)
    values = {**TINY, **RED, **settings, "data": str(pictures), "weights": str(source.path), "out": str(tmp_path / "k")}
    with pytest.raises(Killed):
        experiment.train(make_config(values), display=Killer(epochs=1))
    copy = tmp_path / "without the row"
    shutil.copytree(tmp_path / "k", copy)
    (copy / "checkpoints" / "final" / "rest-row.safetensors").unlink()  # it comes out the same again
    for folder in (tmp_path / "k", copy):
        assert model_of(experiment.resume(folder)) == model_of(whole)


def test_selection_and_refit_start_from_rows_of_their_own(train: Train) -> None:
    run = train(**RED, epochs=2, best_epoch=True, keep_checkpoints=True)
    rows = [run.path / "checkpoints" / name / "rest-row.safetensors" for name in ("selection", "final")]
    assert rows[0].read_bytes() != rows[1].read_bytes()  # the first saw a part of the images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"match": "apple=0", "head_init": "random"}, "head_init=random uses none"),
        ({"head_init": "source", "head_hidden": 8}, "leave out head_hidden"),
        ({"head_init": "source", "weights": "none"}, "needs pretrained weights"),
        ({"head_init": "source", "weights": None, "strategy": "scratch"}, "needs pretrained weights"),
        ({"match": "apple=9"}, "numbered from 0 to 2"),
        ({"match": "pear=0"}, "match names 'pear', which is no class of the data"),
    ],
)
def test_contradictions_leave_nothing_behind(
    train: Train, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(**settings, epochs=0)
    assert not list(tmp_path.glob("run *"))


def test_the_command_line_takes_it(headstart: Any, pictures: Path, source: Run, tmp_path: Path) -> None:
    words = ("--backbone", "simple-cnn", "--image-size", 32, "--weights", source.path, "--out", tmp_path / "run")
    red = ("--map", "leaf=not_apple,sky=not_apple", "--match", "apple=0")
    outcome = headstart("train", pictures, *words, *red, "--epochs", 0)
    assert outcome.code == 0, outcome.err
    assert "apple = 0 (apple)" in outcome.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["head_starts_from"]["not_apple"] == "rest"
    refused = headstart("train", pictures, *words, "--overwrite", "--match", "apple=leaf", "--head-init", "random")
    assert refused.code == 2
    assert "leave one out" in refused.err
