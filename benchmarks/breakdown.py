"""Where do the seconds of a run go? python -m benchmarks.breakdown --data DIR

`python -m benchmarks.breakdown STRATEGY FOLDER EPOCHS OUT` does one run in its own process and prints JSON: for each
stretch of the run its seconds, the processor seconds of all threads, and how many of those went into decoding (with
resize and crop), into opening and comparing engines, and into writing rows to the disk.
"""

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.timing import Contest, Side, main

_WORDS = ("python", "-m", "benchmarks.breakdown")

CONTESTS = (
    Contest(
        "breakdown",
        (
            Side("head", (*_WORDS, "head", "{data}/hymenoptera", "{epochs}", "{out}")),
            Side("gradual", (*_WORDS, "gradual", "{data}/hymenoptera", "{epochs}", "{out}")),
            Side("full", (*_WORDS, "full", "{data}/hymenoptera", "{epochs}", "{out}"), repeats=1),
        ),
        {"epochs": 5},
    ),
)


class Clocks:
    """Seconds by stretch of a run; the innermost stretch that is open gets them."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._open, self._last = ["imports"], (time.perf_counter(), 0.0)
        self._lock = threading.Lock()

    def _settle(self) -> None:
        now = time.perf_counter(), time.process_time()
        self.figures[self._open[-1]]["wall_s"] += now[0] - self._last[0]
        self.figures[self._open[-1]]["cpu_s"] += now[1] - self._last[1]
        self._last = now

    def begin(self, title: str) -> None:
        """Count from here on what belongs to no stretch under another title."""
        self._settle()
        self._open[0] = title

    def stretch(self, owner: Any, name: str, title: str) -> None:
        """Count what runs inside a function, in the main thread, as a stretch of its own."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._settle()
            self._open.append(title)
            try:
                return function(*args, **kwargs)
            finally:
                self._settle()
                self._open.pop()

        setattr(owner, name, timed)

    def part(self, owner: Any, name: str, title: str) -> None:
        """Count a function's own processor time, in whichever thread it runs, as a part of the stretch."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.figures[self._open[-1]][title] += time.thread_time() - started

        setattr(owner, name, timed)

    def end(self) -> dict[str, dict[str, float]]:
        self._settle()
        return {title: {key: round(value, 2) for key, value in parts.items()} for title, parts in self.figures.items()}


def measure(strategy: str, folder: str, epochs: int, out: str) -> dict[str, dict[str, float]]:
    clocks = Clocks()
    from headstart import experiment
    from headstart.data import checks, loading
    from headstart.experiment import session
    from headstart.experiment.experiment import Experiment
    from headstart.features import supply, trunk
    from headstart.features.table import FeatureTable
    from headstart.inference import inputs

    clocks.begin("rest")
    for owner, name, title in (
        (Experiment, "prepare", "data and network"),
        (supply.FeatureSupply, "_inputs_above", "features"),
        (session, "run_fit", "training"),
        (session, "load", "evaluation"),
        (session, "evaluate", "evaluation"),
    ):
        clocks.stretch(owner, name, title)
    for owner, name, title in (
        (loading.ImageBatches, "_make_views", "decode_s"),
        (checks, "_fingerprint", "decode_s"),
        (inputs, "_view_or_error", "decode_s"),
        (FeatureTable, "_store_shard", "write_s"),
        (trunk, "open_engine", "open_s"),
    ):
        clocks.part(owner, name, title)
    experiment.fit(folder, strategy=strategy, epochs=epochs, out=out)
    return clocks.end()


if __name__ == "__main__":
    if len(sys.argv) == 5 and not sys.argv[1].startswith("-"):
        print(json.dumps({"parts": measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])}))
    else:
        main("breakdown", CONTESTS, __doc__)
