"""What people are told while work goes on: one protocol from the data to the report. Importing this loads no torch."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Row = Mapping[str, Any]  # of metrics.csv

_LINE_EVERY_S = 15.0  # within long work, where there is no terminal
_REDRAW_EVERY_S = 0.1


class Display:
    """Is told what goes on, and shows nothing; others override what they show.

    Whatever a display raises ends the work.
    """

    def say(self, line: str) -> None:
        """Receive a line for people."""

    def note(self, line: str) -> None:
        """Receive something that people should know of."""
        self.say(f"note: {line}")

    def progress(self, title: str, done: int, total: int) -> None:
        """Learn how far a long pass over images or bytes is; `total` is 0 where it is not known."""

    def begin_run(self, folder: Path) -> None:
        """Learn that the folder of a run is there; what happens from now on can be resumed."""

    def begin_training(self, title: str, num_steps: int, done: int) -> None:
        """Training begins: so many optimizer steps in all, of which some are done already (after a resume)."""

    def step(self) -> None:
        """One optimizer step is done."""

    def epoch(self, row: Row) -> None:
        """An epoch is done; receive its row of metrics.csv."""

    def end_training(self) -> None:
        """Training is over, also where it failed."""


class TerminalDisplay(Display):
    """Shows lines, and how far long work is: with a bar on a terminal, with a line now and then in a log.

    All of it goes to the standard error stream, beside the results.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._num_steps = self._done = self._first = 0
        self._started = self._said = time.monotonic()
        self._passes: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)

    def progress(self, title: str, done: int, total: int) -> None:
        """Say how far a pass is: on one line of the terminal, or a line every 15 seconds in a log."""
        is_terminal = sys.stderr.isatty()
        now = time.monotonic()
        if total and done >= total:
            self._passes.pop(title, None)  # the next pass of this name begins anew
            clear_line()
            return
        every_s = _REDRAW_EVERY_S if is_terminal else _LINE_EVERY_S
        if now - self._passes.setdefault(title, now) < every_s:
            return
        self._passes[title] = now
        line = f"{title}: {done:,} of {total:,}" if total else f"{title}: {done:,}"
        if is_terminal:  # over the line before, which may be longer
            print(f"\x1b[K{line}", end="\r", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def begin_run(self, folder: Path) -> None:
        """Name the folder."""
        self.say(f"run folder: {folder}")

    def begin_training(self, title: str, num_steps: int, done: int) -> None:
        """Show the bar, or note where training stands."""
        self._num_steps, self._done, self._first = num_steps, done, done
        self._started = self._said = time.monotonic()
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(title, total=num_steps, completed=done)
            self._bar.start()

    def step(self) -> None:
        """Move the bar, or say now and then how far it is."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
            return
        now = time.monotonic()
        since_first = self._done - self._first - 1
        if not since_first:
            self._started = now  # the first step waited for what comes before training
        elif now - self._said >= _LINE_EVERY_S:
            left_s = (now - self._started) / since_first * (self._num_steps - self._done)
            self._print(f"step {self._done} of {self._num_steps}, about {left_s:.0f} s left")

    def epoch(self, row: Row) -> None:
        """Print the epoch's line, above the bar."""
        if self._bar is not None:
            self._bar.console.print(epoch_line(row), highlight=False, soft_wrap=True)
        else:
            self._print(epoch_line(row))

    def end_training(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        self.say(line)
        self._said = time.monotonic()


def clear_line() -> None:
    """Take away what `TerminalDisplay.progress` left on the terminal."""
    if sys.stderr.isatty():
        print("\x1b[K", end="", file=sys.stderr, flush=True)


def epoch_line(row: Row) -> str:
    """Format one epoch for people."""
    what = f"epoch {row['epoch']}" if row["epoch"] else "solved"
    line = f"{row['phase_name']}, {what}: loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.3f}"
    if row["val_loss"] is not None:
        line += f" | {row['val_split']} loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.3f}"
    rate = f"lr {row['lr']:.2e}, " if row.get("lr") is not None else ""
    return f"{line} | {rate}{row['time_s']:.1f} s"
