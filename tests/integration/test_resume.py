"""A run that is killed at any moment and resumed ends in the same bytes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.command_line import TINY
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
