"""What people are told while work goes on: one protocol from the data to the report. Importing this loads no torch."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from headstart.text import visible, visible_line

Row = Mapping[str, Any]  # of metrics.csv

_LINE_EVERY_S = 15.0  # within long work, where there is no terminal
_BAR_AFTER_S = 0.1  # a pass that is shorter shows no bar
_WIDTH_FOR_BAR = 70  # columns; on a narrower terminal the numbers stand without a bar
_WIDTH_OF_A_PIPE = 140  # columns; a pipe has no width, and a table cut at 80 columns is hard to read back
_TRAINING = ""  # the key of the bar of training; the key of a pass is its title


class Display:
    """Is told what goes on, and shows nothing. A subclass overrides what it shows.

    An error that a display raises ends the work.
    """

    def say(self, line: str) -> None:
        """Receive a line for people."""

    def note(self, line: str) -> None:
        """Receive something that people should know of."""
        self.say(f"note: {visible_line(line)}")

    def detail(self, line: str) -> None:
        """Receive something that asks for no action; it is shown where details are wanted (`--verbose`)."""

    def progress(self, title: str, done: int, total: int) -> None:
        """Learn how far a long pass over images or bytes is; `total` is 0 where it is not known."""

    def begin_run(self, folder: Path) -> None:
        """Learn that the folder of a run is there; what happens from now on can be resumed."""
        self.say(f"run folder: {folder}")

    def begin_training(self, title: str, num_steps: int, done: int) -> None:
        """Learn that training begins: `num_steps` optimizer steps, of which `done` were done before a resume."""

    def step(self) -> None:
        """Learn that one optimizer step is done."""

    def epoch(self, row: Row) -> None:
        """Learn that an epoch is done, and receive its row of metrics.csv."""

    def end_training(self) -> None:
        """Learn that training is over, also where it failed."""


class LineDisplay(Display):
    """Shows plain lines, and one now and then within long work: for logs, notebooks and simple terminals."""

    def __init__(self, stream: TextIO | None = None, *, is_verbose: bool = False) -> None:
        """Show nothing yet.

        Args:
            stream: Where lines go; default: the standard error stream, beside the results.
            is_verbose: Whether details are shown too.
        """
        self._stream = stream
        self._is_verbose = is_verbose
        self._passes: dict[str, float] = {}
        self._num_steps = 0
        self._first_step = 0
        self._num_done = 0
        self._started = time.monotonic()
        self._said = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        print(visible(line), file=self._stream or sys.stderr, flush=True)

    def detail(self, line: str) -> None:
        """Print a line, where details are wanted."""
        if self._is_verbose:
            self.say(line)

    def progress(self, title: str, done: int, total: int) -> None:
        """Say how far a pass is, every 15 seconds."""
        now = time.monotonic()
        if total and done >= total:
            self._passes.pop(title, None)  # the next pass of this name begins anew
            return
        last_line = self._passes.setdefault(title, now)
        if now - last_line >= _LINE_EVERY_S:
            self._passes[title] = now
            self.say(f"{title}: {_count_text(done, total)}")

    def begin_training(self, title: str, num_steps: int, done: int) -> None:
        """Note where training stands."""
        self._num_steps = num_steps
        self._num_done = done
        self._first_step = done
        self._started = time.monotonic()
        self._said = time.monotonic()

    def step(self) -> None:
        """Say now and then how far training is."""
        self._num_done += 1
        now = time.monotonic()
        since_first = self._num_done - self._first_step - 1
        if since_first == 0:
            self._started = now  # the first step waited for what comes before training
        elif now - self._said >= _LINE_EVERY_S:
            seconds_per_step = (now - self._started) / since_first
            left_s = seconds_per_step * (self._num_steps - self._num_done)
            self.say(f"step {self._num_done} of {self._num_steps}, about {left_s:.0f} s left")
            self._said = now

    def epoch(self, row: Row) -> None:
        """Print the epoch's line."""
        self.say(epoch_line(row))
        self._said = time.monotonic()


class TerminalDisplay(Display):
    """Shows lines on a terminal, and below them a bar for whatever takes long.

    All of it goes to the standard error stream, beside the results.
    """

    # A terminal has one last line, so one display at a time has bars on it.
    _with_bars: ClassVar["TerminalDisplay | None"] = None

    def __init__(self, *, is_verbose: bool = False) -> None:
        """Show nothing yet; with `is_verbose`, details are shown too."""
        self._console = make_console(to_stderr=True)
        self._is_verbose = is_verbose
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Print a line, above the bars if there are any."""
        self._console.print(visible(line), soft_wrap=True)

    def detail(self, line: str) -> None:
        """Print a line, where details are wanted."""
        if self._is_verbose:
            self.say(line)

    def progress(self, title: str, done: int, total: int) -> None:
        """Show how far a pass is; its bar goes when it is done."""
        now = time.monotonic()
        if total and done >= total:
            self._began.pop(title, None)  # the next pass of this name begins anew
            self._remove_bar(title)
            return
        began = self._began.setdefault(title, now)
        if now - began >= _BAR_AFTER_S:
            self._show_bar(title, title, done, total)

    def begin_training(self, title: str, num_steps: int, done: int) -> None:
        """Show the bar of training."""
        self._show_bar(_TRAINING, title, done, num_steps)

    def step(self) -> None:
        """Move the bar of training."""
        if self._bars is not None and _TRAINING in self._tasks:
            self._bars.advance(self._tasks[_TRAINING])

    def epoch(self, row: Row) -> None:
        """Print the epoch's line."""
        self.say(epoch_line(row))

    def end_training(self) -> None:
        """Take the bar of training away."""
        self._remove_bar(_TRAINING)

    def clear(self) -> None:
        """Take all bars away."""
        self._tasks.clear()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _show_bar(self, key: str, title: str, done: int, total: int) -> None:
        """Show a bar, or move the one that is there."""
        if self._bars is None:
            clear_bars()
            TerminalDisplay._with_bars = self
            self._bars = make_bars(self._console, CountColumn(), TimeRemainingColumn())
            self._bars.start()
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(visible(title), total=None)
        self._bars.update(self._tasks[key], completed=done, total=total or None)

    def _remove_bar(self, key: str) -> None:
        """Take a bar away. With the last one the space below the lines goes too."""
        if self._bars is None or key not in self._tasks:
            return
        self._bars.remove_task(self._tasks.pop(key))
        if not self._tasks:
            self.clear()


class CountColumn(ProgressColumn):
    """Shows how much of a pass is done: `1,024 of 2,000`."""

    def render(self, task: Task) -> Text:
        """Return the text for one bar."""
        return Text(_count_text(int(task.completed), int(task.total or 0)))


def make_display(*, is_verbose: bool = False) -> Display:
    """Return what shows progress and notes on the standard error stream: with bars on a terminal that can draw them."""
    if can_draw(sys.stderr):
        return TerminalDisplay(is_verbose=is_verbose)
    return LineDisplay(is_verbose=is_verbose)


def make_console(*, to_stderr: bool = False) -> Console:
    """Return a console for plain text: of the results, or of what is said beside them.

    It writes escape sequences only where `can_draw` says so, and takes no text of the user's for markup: a class may be
    called `[b]` or `:cat:`.
    """
    clear_bars()
    stream = sys.stderr if to_stderr else sys.stdout
    is_drawn = can_draw(stream)
    return Console(
        stderr=to_stderr,
        force_terminal=is_drawn,
        force_jupyter=False,
        color_system="auto" if is_drawn else None,
        width=None if stream.isatty() else _WIDTH_OF_A_PIPE,
        highlight=False,
        markup=False,
        emoji=False,
    )


def make_bars(console: Console, *columns: ProgressColumn) -> Progress:
    """Return bars, with columns behind them, that vanish when they stop.

    What is printed to the standard output meanwhile stays there, which may be a file.
    """
    shown: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    if console.width >= _WIDTH_FOR_BAR:
        shown.append(BarColumn())
    return Progress(
        *shown,
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
    )


def can_draw(stream: TextIO) -> bool:
    """Tell whether escape sequences may be written: to a terminal that is not dumb, unless NO_COLOR is set."""
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return stream.isatty() and not is_dumb and not os.environ.get("NO_COLOR")


def clear_bars() -> None:
    """Take away the bars that stand on the terminal, before something else is printed."""
    if TerminalDisplay._with_bars is not None:
        TerminalDisplay._with_bars.clear()
        TerminalDisplay._with_bars = None


def epoch_line(row: Row) -> str:
    """Format one epoch for people."""
    done = f"epoch {row['epoch']}" if row["epoch"] else "solved"
    line = f"{row['phase_name']}, {done}: loss {_loss_text(row['train_loss'])}, accuracy {row['train_accuracy']:.3f}"
    if row["val_loss"] is not None:
        line += f" | {row['val_split']} loss {_loss_text(row['val_loss'])}, accuracy {row['val_accuracy']:.3f}"
    line += " | "
    if row.get("lr") is not None:
        line += f"lr {row['lr']:.2e}, "
    return f"{line}{row['time_s']:.1f} s"


def _loss_text(value: float) -> str:
    """Format a loss. One of a million or more would take many digits, and gets an exponent."""
    return f"{value:.4f}" if value < 1e6 else f"{value:.2e}"


def _count_text(done: int, total: int) -> str:
    """Format how much of a pass is done; `total` is 0 where it is not known."""
    return f"{done:,} of {total:,}" if total else f"{done:,}"
