"""Run whole commands in turn (A B A B ...) and write down what each took; every question is a tuple of `Contest`.

The clock covers the process from its start to its end. Before anything is timed the images are read once and every
library is imported once, so that the first command does not pay for the disk. This module loads no torch: the peak
memory of a child counts from that of the process that started it.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from headstart.machine import environment

# No more than this in a smoke run, which also takes only the first images of every class.
QUICK = {"epochs": 1, "images": 48}
QUICK_PER_CLASS = 20
_IMPORTS = "import torch, torchvision, timm, sklearn.linear_model, headstart.experiment, headstart.inference.predict"


@dataclass(frozen=True)
class Side:
    """One of the commands that take turns.

    Attributes:
        name: Name in tables.
        words: The command; {data}, {work}, {out}, {seed} and the contest's numbers are filled in. The first word is
            `headstart`, `python`, or `fastai`: an interpreter of its own.
        repeats: At most so many runs, where a run is long.
        is_warm: Whether it finds the feature cache that the side before it left; else it starts with an empty one.
    """

    name: str
    words: tuple[str, ...]
    repeats: int | None = None
    is_warm: bool = False


@dataclass(frozen=True)
class Contest:
    """Commands that answer one question together.

    Attributes:
        name: Name of the row in the table.
        sides: The sides; the first is what `headstart` is compared with.
        numbers: Numbers that say how much the commands do: epochs, images.
        goal: `ratio` (how many times faster, at least), `accuracy` (at least), `no_lower` (than the first side's),
            `seconds` (at most), `share` (of what decoding and engine allow together, at least).
        prepare: Commands that run once before, not timed.
        repeats: Number of times that each side runs.
    """

    name: str
    sides: tuple[Side, ...]
    numbers: dict[str, int] = field(default_factory=dict)
    goal: dict[str, float] = field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()
    repeats: int = 3


def shown(words: Sequence[str], numbers: dict[str, int]) -> str:
    """The command as people read it, without the folders of this machine."""
    filled = [word.format(data="DATA", work="WORK", out="OUT", seed="SEED", **numbers) for word in words[1:]]
    return shlex.join(["python" if words[0] == "fastai" else words[0], *filled])


def run(words: Sequence[str], cache: Path) -> dict[str, Any]:
    """Run a command to its end; return its seconds, its peak memory, and the JSON of its last line if there is one."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(words, stdout=out, stderr=err, env={**os.environ, "HEADSTART_CACHE": str(cache)})
        _, status, usage = os.wait4(process.pid, 0)  # usage holds what the process waited for as well
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{err.read()[-3000:]}")
        last = (out.read().strip().splitlines() or [""])[-1]
    unit = 2**20 if sys.platform == "darwin" else 2**10
    figures = {"wall_s": round(wall_s, 3), "cpu_s": round(usage.ru_utime + usage.ru_stime, 3)}
    figures["largest_process_mb"] = round(usage.ru_maxrss / unit)
    return {**figures, **(json.loads(last) if last.startswith("{") else {})}


def hold(contest: Contest, options: argparse.Namespace, data: Path, work: Path) -> dict[str, Any]:
    """Let the sides take turns; return every figure."""
    numbers = {key: min(value, QUICK[key]) if options.quick else value for key, value in contest.numbers.items()}
    interpreters = {"headstart": [sys.executable, "-m", "headstart"], "python": [sys.executable]}
    if options.fastai_python:
        interpreters["fastai"] = [options.fastai_python]
    sides = [side for side in contest.sides if side.words[0] in interpreters]

    def filled(words: Sequence[str], **more: Any) -> list[str]:
        rest = [word.format(data=data, work=work, **numbers, **more) for word in words[1:]]
        return [*interpreters[words[0]], *rest]

    for words in contest.prepare:
        run(filled(words), work / "cache")
    runs: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for seed in range(limit(contest.repeats, options)):
        for side in sides:
            if seed >= limit(side.repeats or contest.repeats, options):
                continue
            if not side.is_warm:
                shutil.rmtree(work / "cache", ignore_errors=True)
                (work / "cache").mkdir()
            out = work / f"{side.name.replace(' ', '-')}-{seed}"
            figures = {"seed": seed, **run(filled(side.words, seed=seed, out=out), work / "cache"), **of_run(out)}
            runs[side.name].append(figures)
            print(f"  {side.name}, run {seed + 1}: {figures}", flush=True)
    lines = {side.name: shown(side.words, numbers) for side in sides}
    return {
        "name": contest.name,
        "goal": contest.goal,
        "numbers": numbers,
        "prepare": [shown(words, numbers) for words in contest.prepare],
        "commands": lines,
        "left_out": [side.name for side in contest.sides if side not in sides],
        "runs": runs,
    }


def limit(repeats: int, options: argparse.Namespace) -> int:
    return options.repeats or (1 if options.quick else repeats)


def of_run(folder: Path) -> dict[str, Any]:
    """What a run folder of Headstart says of itself."""
    if not (folder / "metrics.json").exists():
        return {}
    metrics, report = (json.loads((folder / name).read_text("utf-8")) for name in ("metrics.json", "data_report.json"))
    images = sum(count for split in report["counts"].values() for count in split.values())
    figures = {"accuracy": metrics["accuracy"]["value"], "images": images, "time_s": metrics["time_s"]}
    return {**figures, "evaluated_by": f"{metrics['engine']}, {metrics['precision']}"}


@dataclass(frozen=True)
class Speedup:
    """How many times faster the second of two sides was.

    Attributes:
        times: Median over pairs of runs, or ratio of the medians where there are no pairs.
        text: The same for people, with the spread or with how many runs it is from.
    """

    times: float
    text: str


def speedup(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Speedup:
    """Compare the seconds of two sides that took turns.

    Run i of one side and run i of the other were neighbours in time. Where one side ran less often the rest have no
    neighbour: then the medians are compared, and nothing is said of a spread.
    """
    before = [run["wall_s"] for run in first]
    after = [run["wall_s"] for run in second]
    if len(before) == len(after):
        ratios = [slow / fast for slow, fast in zip(before, after, strict=True)]
        return Speedup(median(ratios), f"{spread(ratios)} times")
    times = median(before) / median(after)
    return Speedup(times, f"{times:.1f} times (medians of {len(before)} and {len(after)} runs)")


def spread(values: Sequence[float], digits: int = 1) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({low} to {high}, n = {len(values)})" if len(values) > 1 else f"{middle} (n = 1)"


def subset(data: Path, work: Path) -> Path:
    """Copy the first images of every class."""
    for folder in sorted(path for name in ("hymenoptera", "hotdog") for path in (data / name).glob("*/*/")):
        kept = work / "data" / folder.relative_to(data)
        kept.mkdir(parents=True)
        for image in sorted(folder.iterdir())[:QUICK_PER_CLASS]:
            shutil.copy(image, kept)
    return work / "data"


def hardware() -> dict[str, Any]:
    facts = environment(seed=0)
    kept = {key: facts[key] for key in ("cpu", "cores", "python", "git_commit", "packages")}
    memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    system = f"{platform.system()} {platform.machine()}"
    return {**kept, "system": system, "memory_gb": memory_gb, "load_before": round(os.getloadavg()[0], 2)}


def answer(question: str, contests: Sequence[Contest], options: argparse.Namespace) -> None:
    """Run a question's contests, print the figures, and write them to OUT/QUESTION.json after each."""
    facts = hardware()
    print(f"{question}: {json.dumps(facts)}", flush=True)
    path = options.out / f"{question}.json"
    found = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = subset(options.data, Path(folder)) if options.quick else options.data
        for image in (image for name in ("hymenoptera", "hotdog") for image in (data / name).rglob("*.*")):
            image.read_bytes()
        run([sys.executable, "-c", _IMPORTS], Path(folder, "cache"))
        for number, contest in enumerate(contests):
            print(f" {contest.name}", flush=True)
            work = Path(folder, str(number))
            work.mkdir()
            found.append(hold(contest, options, data, work))
            report = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "quick": options.quick, "hardware": facts}
            path.write_text(json.dumps({**report, "contests": found}, indent=1) + "\n", encoding="utf-8")
            print_summary(found[-1])


def print_summary(contest: dict[str, Any]) -> None:
    first = next(iter(contest["runs"].values()))
    for name, runs in contest["runs"].items():
        print(f"  {contest['commands'][name]}\n    {spread([one['wall_s'] for one in runs])} s")
        if runs is not first and name == "headstart":
            print(f"    faster: {speedup(first, runs).text}", flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="folder that holds hymenoptera and hotdog")
    made.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="where the raw figures go, as JSON")
    made.add_argument("--repeats", type=int, help="of every command; default: 3, the longest once")
    made.add_argument("--quick", action="store_true", help="a smoke run on a few images; its figures mean nothing")
    made.add_argument("--fastai-python", help="an interpreter that has fastai; without it that peer is left out")
    return made


def main(question: str, contests: Sequence[Contest], description: str | None) -> None:
    answer(question, contests, parser(description).parse_args())
