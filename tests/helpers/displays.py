"""Displays for tests: what remembers what was said, and what ends a training as a kill would."""

from typing import Any

from headstart.display import Display


class Remembering(Display):
    """Remembers what was said, and how far passes were."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.passes: list[tuple[str, int, int]] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def progress(self, title: str, done: int, total: int) -> None:
        self.passes.append((title, done, total))


class Killed(Exception):
    """Ends a training in the middle."""


class Killer(Display):
    """Ends a training after so many steps, or so many epochs."""

    def __init__(self, *, steps: int = 0, epochs: int = 0) -> None:
        self.steps_left, self.epochs_left = steps, epochs

    def step(self) -> None:
        self.steps_left -= 1
        if not self.steps_left:
            raise Killed

    def epoch(self, row: Any) -> None:
        self.epochs_left -= 1
        if not self.epochs_left:
            raise Killed
