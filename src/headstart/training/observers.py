"""What watches training and changes nothing: the lines and bars on the terminal, and TensorBoard's event files."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headstart.history import MetricsLog
from headstart.optional import require

Row = Mapping[str, Any]


class Observer:
    """Told about every step and epoch, and ignores what it does not override; whatever it raises stops training."""

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


class SilentProgress(Observer):
    """Shows nothing."""


class BarProgress(Observer):
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


class PlainProgress(Observer):
    """Lines for logs: one per epoch, and one every 15 seconds within a long epoch."""

    def __init__(self) -> None:
        self._done = self._first = self._num_steps = 0
        self._started = self._said = time.monotonic()

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
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
        elif now - self._said >= 15.0:
            rate = (now - self._started) / (self._done - self._first - 1)
            left = rate * (self._num_steps - self._done)
            self._say(f"step {self._done} of {self._num_steps}, about {left:.0f} s left")

    def on_epoch(self, row: Row) -> None:
        """Print the epoch's line."""
        self._say(epoch_line(row))


def terminal_progress(title: str) -> Observer:
    """Choose the bar on a terminal and plain lines elsewhere; both go to the standard error stream."""
    console = Console(stderr=True)
    return BarProgress(title, console) if console.is_terminal else PlainProgress()


class TensorBoardLog:
    """A table of epochs that is written as TensorBoard's event files too: losses, accuracies and learning rates.

    The step of an event is the number of its row. After a resume TensorBoard is told to forget the rows that come
    again, as the table does.
    """

    def __init__(self, log: MetricsLog, folder: Path) -> None:
        """Name the files; they are opened when a fit begins.

        Args:
            log: The table.
            folder: Of the event files, one per fit.

        Raises:
            MissingExtraError: The package tensorboard is not installed.
        """
        require_tensorboard()
        self._log, self._folder = log, folder
        self._writer: Any = None
        self._num_rows = 0

    def truncate_to(self, num_rows: int) -> None:
        """Forget the rows that a checkpoint does not know of."""
        from torch.utils.tensorboard import SummaryWriter

        self._log.truncate_to(num_rows)
        self._num_rows = num_rows
        self._writer = SummaryWriter(self._folder, purge_step=num_rows + 1)

    def append(self, row: Row) -> None:
        """Add one row to both."""
        self._log.append(row)
        self._num_rows += 1
        named = {
            "loss/train": row.get("train_loss"),
            "accuracy/train": row.get("train_accuracy"),
            f"loss/{row.get('val_split')}": row.get("val_loss"),
            f"accuracy/{row.get('val_split')}": row.get("val_accuracy"),
            "learning_rate/lowest": row.get("lr"),
            "learning_rate/head": row.get("head_lr"),
            "phase": row.get("phase"),
        }
        for name, value in named.items():
            if value is not None:
                self._writer.add_scalar(name.replace(" ", "_"), value, self._num_rows)
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def require_tensorboard() -> None:
    """Refuse `--log tensorboard` where the package is missing; to be asked before anything is trained.

    Raises:
        MissingExtraError: It is not installed.
    """
    require("tensorboard", extra="tensorboard", purpose="--log tensorboard")
