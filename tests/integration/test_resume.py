"""A run that is killed at any moment and resumed ends in the same bytes."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart import experiment
from headstart.config import make_config
from headstart.display import Display, Row
from headstart.runs import sole_writer
from headstart.studies.progress import StudyProgress
from tests.helpers.command_line import TINY, Outcome
from tests.helpers.processes import Forked, headstart

WORDS = [*TINY, "--epochs", "8", "--ema", "0.9", "--best-epoch", "--mixup", "0.2", "--threads", "1"]


def rows(folder: Path) -> int:
    path = folder / "metrics.csv"
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


@pytest.fixture(scope="module")
def whole(image_folder, tmp_path_factory):
    """The one that ends undisturbed, from the command line itself; the others are forked."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, "-m", "headstart", "train", str(image_folder), *WORDS, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


MOMENTS = {
    "as soon as the folder is there": lambda folder: folder.exists(),
    "while selecting": lambda folder: rows(folder) >= 3,
    "while refitting": lambda folder: rows(folder) >= 10,
    "while saving": lambda folder: (folder / "model").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_and_resume(whole, image_folder, tmp_path, moment):
    folder = tmp_path / "run"
    process = Forked(headstart, "train", str(image_folder), *WORDS, "--out", str(folder))
    while not MOMENTS[moment](folder) and process.is_running:
        time.sleep(0.002)
    process.kill()
    assert folder.exists(), process.output
    if not (folder / "metrics.json").exists():
        Forked(headstart, "train", "--resume", str(folder)).finish()
    model = Path("model") / "model.safetensors"
    assert (folder / model).read_bytes() == (whole / model).read_bytes()
    without_time = [
        [line.rpartition(",")[0] for line in (path / "metrics.csv").read_text().splitlines()]
        for path in (folder, whole)
    ]
    assert without_time[0] == without_time[1]


class Interfering(Display):
    """Starts other commands on the folder of a run while that trains."""

    def __init__(self, start: Callable[..., Outcome], data: Path) -> None:
        self.start, self.data = start, data
        self.refused: list[Outcome] = []

    def begin_run(self, folder: Path) -> None:
        self.folder = folder

    def epoch(self, row: Row) -> None:
        out = ["--out", self.folder]
        for words in (
            ["train", self.data, *TINY, *out],
            ["train", self.data, *TINY, *out, "--overwrite"],
            ["train", "--resume", self.folder],
        ):
            self.refused.append(self.start(*words))


def test_nothing_else_touches_a_run_that_trains(headstart, image_folder, tmp_path):
    display = Interfering(headstart, image_folder)
    settings = {"data": str(image_folder), "backbone": "simple-cnn", "image_size": 16, "strategy": "scratch"}
    run = experiment.train(make_config({**settings, "epochs": 1, "out": str(tmp_path / "run")}), display=display)
    line = f"error: another command is writing to {run.path} (process {os.getpid()} on {platform.node()}); "
    assert [outcome.code for outcome in display.refused] == [2, 2, 2]
    for outcome in display.refused:
        assert outcome.err == f"{line}wait until it ends, or stop it\n"
    assert len(run.history()) == 1
    assert os.listdir(tmp_path) == ["run"]
    assert not list(run.path.glob(".*"))


def test_a_study_has_one_writer(headstart, image_folder, tmp_path):
    with sole_writer(tmp_path / "study"):
        outcome = headstart("compare", image_folder, "--strategies", "scratch,head", "--out", tmp_path / "study")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: another command is writing to {tmp_path}/study (process {os.getpid()} on ")
    assert os.listdir(tmp_path) == []


def test_a_finished_run_keeps_no_checkpoints_unless_asked(headstart, image_folder, tmp_path):
    words = ["train", image_folder, *TINY, "--epochs", "1", "--best-epoch", "--selection-score"]
    assert headstart(*words, "--out", tmp_path / "a").code == 0
    assert headstart(*words, "--keep-checkpoints", "--out", tmp_path / "b").code == 0
    assert not (tmp_path / "a" / "checkpoints").exists()
    kept = {path.relative_to(tmp_path / "b" / "checkpoints").as_posix() for path in (tmp_path / "b").rglob("last.*")}
    assert kept == {"selection/last.safetensors", "final/last.safetensors"}

    # Whatever comes after the end needs none.
    for name in ("a", "b"):
        outcome = headstart("train", "--resume", tmp_path / name)
        assert (outcome.code, outcome.err) == (0, f"{tmp_path / name} is already complete; nothing was done\n")
        again = [*words, "--config", tmp_path / name / "config.yaml", "--out", tmp_path / f"{name}-again"]
        assert headstart(*again).code == 0
    models = {(path / "model" / "model.safetensors").read_bytes() for path in tmp_path.iterdir()}
    assert len(models) == 1


class Interrupted(Display):
    """Is interrupted when training begins."""

    def begin_training(self, title: str, num_steps: int, done: int) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_says_how_to_go_on(headstart, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.cli.training.terminal", Interrupted)
    words = ["train", image_folder, *TINY, "--epochs", "1", "--out", tmp_path / "my run"]
    again = ["train", "--resume", tmp_path / "my run"]
    for command in (words, again):
        outcome = headstart(*command)
        assert outcome.code == 130
        assert outcome.err == f"interrupted; go on with: headstart train --resume '{tmp_path / 'my run'}'\n"
    monkeypatch.undo()
    assert f"\nnext: headstart predict '{tmp_path / 'my run'}' IMAGE...\n" in headstart(*again).out


def test_an_interrupted_study_says_how_to_go_on(headstart, image_folder, tmp_path, monkeypatch):
    def interrupt(progress: StudyProgress, title: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyProgress, "begin", interrupt)
    outcome = headstart("compare", image_folder, *TINY, "--vary", "lr=0.1,0.2", "--out", tmp_path / "study")
    assert outcome.code == 130
    assert outcome.err.endswith("interrupted; the same command goes on: what is finished is not run again\n")
    assert os.listdir(tmp_path) == []
