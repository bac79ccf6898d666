"""The command line run within the test's process, and small settings."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from headstart import cli

# A network that trains in a second on 32-pixel pictures.
TINY = ("--backbone", "simple-cnn", "--image-size", "32", "--strategy", "scratch", "--augment", "flip")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def headstart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs `headstart WORDS` and gives its exit code and output."""

    def run(*words: object) -> Outcome:
        torch.set_num_threads(1)  # small networks: more threads only wait for each other
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        return Outcome(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
