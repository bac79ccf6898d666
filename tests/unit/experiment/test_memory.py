"""What is said of the memory that training will take."""

from pathlib import Path

import pytest

from headstart.experiment.memory import PhaseMemory
from headstart.types import StepChoice

GB = 10**9


@pytest.mark.parametrize(
    ("step", "fixed", "advice"),
    [
        (StepChoice(), 1, "use a smaller --batch-size, or a smaller --image-size"),
        (StepChoice(piece_size=4), 1, "use a smaller --batch-size, or a smaller --image-size"),
        (StepChoice(piece_size=1), 1, "use a smaller --image-size, or another --backbone"),
        (StepChoice(recomputes=True), 1, "use a smaller --batch-size, or --batch-norm fixed, with which"),
        (StepChoice(piece_size=1), 3, "about 3.0 GB of it does not depend on the batch, so raise the limit"),
    ],
)
def test_advice_is_what_would_help(step: StepChoice, fixed: int, advice: str) -> None:
    memory = PhaseMemory(num_bytes=4 * GB, fixed_bytes=fixed * GB, limit_bytes=2 * GB, batch_size=32, step=step)
    said = "training will take about 4.0 GB of memory, and may take 2.0 GB (--memory-limit); "
    assert memory.warning.startswith(said + advice)


def test_what_fits_is_no_matter() -> None:
    memory = PhaseMemory(num_bytes=2 * GB, fixed_bytes=GB, limit_bytes=2 * GB, batch_size=32, step=StepChoice())
    assert (memory.line, memory.warning) == ("memory: about 2.0 GB", "")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (StepChoice(piece_size=1), "; of a batch of 32 images 1 runs at a time"),
        (StepChoice(piece_size=16), "; of a batch of 32 images 16 run at a time"),
        (StepChoice(recomputes=True), "; blocks are computed twice to take less, which takes about a quarter longer"),
    ],
)
def test_how_batches_run_is_said(step: StepChoice, words: str) -> None:
    memory = PhaseMemory(num_bytes=2 * GB, fixed_bytes=GB, limit_bytes=2 * GB, batch_size=32, step=step)
    assert memory.line == f"memory: about 2.0 GB{words}"


def test_the_limit_that_was_set_is_the_one_that_is_named(headstart, image_folder: Path) -> None:
    small = ["--backbone", "simple-cnn", "--image-size", 32, "--strategy", "scratch"]
    outcome = headstart("plan", image_folder, *small, "--memory-limit", "100MB")
    assert outcome.code == 0, outcome.err
    assert " GB of memory, and may take 0.1 GB (--memory-limit); about " in outcome.err
