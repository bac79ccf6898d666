"""What watches training and changes nothing: the lines and bars on the terminal."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Row = Mapping[str, Any]


class Observer(Protocol):
    """Told about every step and epoch; whatever it raises stops training."""

    def on_start(self, num_steps: int, done: int) -> None:
        """Learn how many optimizer steps there are in all, and how many are already done (after a resume)."""

    def on_step(self) -> None:
        """One optimizer step is done."""

    def on_epoch(self, row: Row) -> None:
        """Receive a row of metrics.csv."""

    def on_end(self) -> None:
        """Training is over, also where it failed."""


def epoch_line(row: Row) -> str:
    """Format one epoch for people."""
    what = f"epoch {row['epoch']}" if row["epoch"] else "solved"
    line = f"{row['phase_name']}, {what}: loss {row['train_loss']:.4f}"
    line += f", accuracy {row['train_accuracy']:.3f}"
    if row["val_loss"] is not None:
        line += f" | {row['val_split']} loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.3f}"
    rate = f"lr {row['lr']:.2e}, " if row.get("lr") is not None else ""
    return f"{line} | {rate}{row['time_s']:.1f} s"


class SilentProgress:
    """Shows nothing."""

    def on_start(self, num_steps: int, done: int) -> None:
        """Ignore."""

    def on_step(self) -> None:
        """Ignore."""

    def on_epoch(self, row: Row) -> None:
        """Ignore."""

    def on_end(self) -> None:
        """Ignore."""


class BarProgress:
    """A rich bar with the time left, for a terminal."""

    def __init__(self, title: str, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(title, total=None)

    def on_start(self, num_steps: int, done: int) -> None:
        """Show the bar."""
        self._bar.update(self._task, total=num_steps, completed=done)
        self._bar.start()

    def on_step(self) -> None:
        """Move it."""
        self._bar.advance(self._task)

    def on_epoch(self, row: Row) -> None:
        """Print the epoch's line above the bar."""
        self._bar.console.print(epoch_line(row), highlight=False, soft_wrap=True)

    def on_end(self) -> None:
        """Take it away."""
        self._bar.stop()


class PlainProgress:
    """Lines for logs: one per epoch, and one every `every_s` seconds within a long epoch."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 15.0) -> None:
        self._stream, self._every_s = stream, every_s
        self._done = self._first = self._num_steps = 0
        self._started = self._said = time.monotonic()

    def _say(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)
        self._said = time.monotonic()

    def on_start(self, num_steps: int, done: int) -> None:
        """Note where training stands."""
        self._num_steps, self._done, self._first = num_steps, done, done
        self._started = self._said = time.monotonic()

    def on_step(self) -> None:
        """Say how far it is, now and then."""
        self._done += 1
        now = time.monotonic()
        if self._done == self._first + 1:
            self._started = now  # the first step waited for what comes before training
        elif now - self._said >= self._every_s:
            rate = (now - self._started) / (self._done - self._first - 1)
            left = rate * (self._num_steps - self._done)
            self._say(f"step {self._done} of {self._num_steps}, about {left:.0f} s left")

    def on_epoch(self, row: Row) -> None:
        """Print the epoch's line."""
        self._say(epoch_line(row))

    def on_end(self) -> None:
        """Nothing is left to do."""


def terminal_progress(title: str) -> Observer:
    """Choose the bar on a terminal and plain lines elsewhere; both go to the standard error stream."""
    console = Console(stderr=True)
    return BarProgress(title, console) if console.is_terminal else PlainProgress()
