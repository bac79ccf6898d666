"""One display for many runs: a bar with the time left on a terminal, lines in a log."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Self, final

from rich.console import Console
from rich.progress import TextColumn

from headstart.display import Display, make_bars
from headstart.text import visible

_EVERY_S = 30.0  # between lines within a run, where the console is no terminal


@dataclass
class TimeLeft:
    """Guesses how long the runs to come take, from those that are done.

    A cell that has been run takes as long again; others take their guessed work times the seconds that a unit of work
    took so far.

    Attributes:
        waiting: (cell, guessed work) of each run that is not done, in order.
        seconds: Cell -> seconds of each of its runs that are done.
        work: Cell -> guessed work.
    """

    waiting: list[tuple[str, float]]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)

    def done(self, cell: str, seconds: float) -> None:
        """Note that the first waiting run of a cell is done."""
        names = [name for name, _ in self.waiting]
        _, work = self.waiting.pop(names.index(cell))
        self.work[cell] = work
        self.seconds.setdefault(cell, []).append(seconds)

    def drop(self, cell: str) -> None:
        """Forget the waiting runs of a cell."""
        self.waiting = [(name, work) for name, work in self.waiting if name != cell]

    def left(self, running_s: float = 0.0) -> float | None:
        """Return the seconds left, the first waiting run being at it for `running_s`; None where nothing is known."""
        if not self.waiting:
            return 0.0
        means = {cell: fmean(seconds) for cell, seconds in self.seconds.items()}
        total_work = sum(self.work.values())

        expected = []
        for cell, work in self.waiting:
            if cell in means:
                expected.append(means[cell])
            elif total_work:
                expected.append(sum(means.values()) / total_work * work)
            else:
                return None
        running, *others = expected
        return max(0.0, running - running_s) + sum(others)


@final
class StudyProgress:
    """Shows how far a study is. Used as a context, so that the bar is taken away at the end."""

    def __init__(self, console: Console | None, *, is_verbose: bool = False) -> None:
        """Show nothing yet, on a console or, with None, nowhere; with `is_verbose`, details of runs are shown too."""
        self._console = console
        self.is_verbose = is_verbose
        self._is_bar = console is not None and console.is_terminal
        self._bar = make_bars(console or Console(quiet=True), TextColumn("{task.fields[count]}"))
        self._task = self._bar.add_task("reading the data", total=None, count="")
        self._time_left = TimeLeft([])
        self._num_runs = 0
        self._title = ""
        self._began = time.monotonic()
        self._said = time.monotonic()
        self._lines: set[str] = set()

    def __enter__(self) -> Self:
        self._time_left = TimeLeft([])
        self._num_runs = 0
        self._title = ""
        if self._is_bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_bar:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        if self._console is not None:
            self._console.print(visible(line), highlight=False, markup=False, soft_wrap=True)
            self._said = time.monotonic()

    def say_once(self, line: str) -> None:
        """Show a line unless it has been shown before: every run has the same notes about the data."""
        if line not in self._lines:
            self._lines.add(line)
            self.say(line)

    def plan(self, runs: Sequence[tuple[str, float]]) -> None:
        """Learn of all runs: (cell, guessed work), in order."""
        self._time_left = TimeLeft(list(runs))
        self._num_runs = len(runs)

    def begin(self, title: str) -> None:
        """Show that a run begins."""
        self._title = title
        self._began = time.monotonic()
        if not self._is_bar:
            self.say(f"{title} ({self._num_done + 1} of {self._num_runs}){self._left_text(', {} left')}")
        self.update("")

    def end(self, cell: str, seconds: float) -> None:
        """Note that a run of a cell is done, or was done before."""
        self._time_left.done(cell, seconds)

    def skip(self, cell: str) -> None:
        """Note that the runs of a cell that are still waiting will not be done."""
        num_done = self._num_done
        self._time_left.drop(cell)
        self._num_runs = num_done + len(self._time_left.waiting)

    def of_run(self) -> Display:
        """Return what one run of the study is shown on."""
        return _RunDisplay(self)

    def update(self, text: str) -> None:
        """Show what the run is at."""
        if self._is_bar:
            what = ", ".join(part for part in (self._title, text) if part)
            count = ""
            if self._num_runs:
                count = f"{self._num_done} of {self._num_runs} runs{self._left_text(', {} left')}"
            total = self._num_runs or None
            self._bar.update(self._task, description=what, completed=self._num_done, total=total, count=count)
        elif self._console is not None and text and time.monotonic() - self._said >= _EVERY_S:
            lead = f"{self._title}: " if self._title else ""
            self.say(f"{lead}{text}{self._left_text('; {} left for all')}")

    @property
    def _num_done(self) -> int:
        """How many runs of the study are done."""
        return self._num_runs - len(self._time_left.waiting)

    def _left_text(self, form: str) -> str:
        """Return the time left in the words of `form`, or '' where nothing is known of it."""
        if not self._time_left.waiting:
            return ""
        left_s = self._time_left.left(time.monotonic() - self._began)
        if left_s is None:
            return ""
        return form.format(f"about {duration(left_s)}")


class _RunDisplay(Display):
    """Turns what goes on in a run into words beside the bar of the study."""

    def __init__(self, study: StudyProgress) -> None:
        self._study = study
        self._title = ""
        self._done = 0
        self._num_steps = 0

    def say(self, line: str) -> None:
        """Show a line unless another run has: every run has the same notes about the data."""
        self._study.say_once(line)

    def detail(self, line: str) -> None:
        """Show a line once, where details are wanted."""
        if self._study.is_verbose:
            self._study.say_once(line)

    def begin_run(self, folder: Path) -> None:
        """Say nothing: the study names its folder once."""

    def progress(self, title: str, done: int, total: int) -> None:
        """Show how far a long pass over the images is."""
        self._study.update(f"{title}: {done} of {total}")

    def begin_training(self, title: str, num_steps: int, done: int) -> None:
        """Note where training stands."""
        self._title = title.rpartition(" ")[2]  # without the strategy, which the cell's name has
        self._num_steps = num_steps
        self._done = done

    def step(self) -> None:
        """Show the step."""
        self._done += 1
        self._study.update(f"{self._title}: step {self._done} of {self._num_steps}")


def duration(seconds: float) -> str:
    """Say a length of time: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
