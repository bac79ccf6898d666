"""A run that is killed at any moment and resumed ends in the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.command_line import TINY

WORDS = [*TINY, "--epochs", "8", "--ema", "0.9", "--best-epoch", "--mixup", "0.2", "--threads", "1"]


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "headstart", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # read now: by then the caches are the tests' own
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(*words: object) -> None:
    process = start(*words)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def rows(folder: Path) -> int:
    path = folder / "metrics.csv"
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


@pytest.fixture(scope="module")
def whole(image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish("train", image_folder, *WORDS, "--out", folder)
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
    process = start("train", image_folder, *WORDS, "--out", folder)
    limit = time.monotonic() + 90
    while not MOMENTS[moment](folder) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.exists()
    if not (folder / "metrics.json").exists():
        finish("train", "--resume", folder)
    model = Path("model") / "model.safetensors"
    assert (folder / model).read_bytes() == (whole / model).read_bytes()
    without_time = [
        [line.rpartition(",")[0] for line in (path / "metrics.csv").read_text().splitlines()]
        for path in (folder, whole)
    ]
    assert without_time[0] == without_time[1]
