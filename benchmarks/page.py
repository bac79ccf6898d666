"""Write docs/benchmarks.md from the raw figures: python -m benchmarks.page [--out runs/benchmarks] [--write FILE]"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.timing import speedup, spread

QUESTIONS = ("head", "gradual", "full", "partial", "second_run", "predict", "limits", "breakdown")
INTRO = """
Whole commands, timed from the start of the process to its end, with the saved model or table; the commands of a row
took turns (A B A B ...) on one machine, from the same images, weights and epochs. The plain loop is PyTorch's transfer
learning tutorial in eager fp32 with two loading workers. Headstart's feature cache was empty at the start of every run
but the one that is about finding it full. Run 1 of every command has seed 0, run 2 seed 1, and so on. Figures are
medians, with (lowest to highest, n). How many times faster is taken pair by pair where both sides ran equally often,
and from the medians where one of them, being slow, ran once.
"""
SMOKE = "**A smoke run on a few images: these figures mean nothing.**"
LIMITS = {
    "decode": "decoding, resize and crop alone, images/s",
    "engine": "the engine alone on ready arrays, images/s",
    "together": "1 / (1/decode + 1/engine), images/s",
    "stream": "`predict` once started, images/s",
    "copy_gb_s": "copying memory, GB/s",
    "agreement": "share of images that both sides put into one class",
}
Contest = dict[str, Any]
Rows = Iterator[tuple[object, ...]]


def table(header: str, rows: Iterable[Iterable[object]]) -> list[str]:
    rule = "---|" * (header.count("|") + 1)
    return [f"| {header} |", f"|{rule}", *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def column(runs: list[dict[str, Any]], key: str) -> list[float]:
    return [run[key] for run in runs if key in run]


def verdicts(contest: Contest) -> Iterator[tuple[str, str, bool]]:
    """Hold a contest's figures against its goals: what was asked for, what was found, whether that is enough."""
    first, own = next(iter(contest["runs"].values())), contest["runs"]["headstart"]
    for kind, goal in contest["goal"].items():
        if kind == "ratio":
            faster = speedup(first, own)
            yield f"at least {goal:g} times faster", faster.text, faster.times >= goal
        elif kind == "seconds":
            found = column(own, "wall_s")
            yield f"under {goal:g} s", f"{spread(found)} s", median(found) < goal
        elif kind == "accuracy":
            found = column(own, "accuracy")
            yield f"accuracy at least {goal:g}", f"mean {mean(found):.3f} (n = {len(found)})", mean(found) >= goal
        elif kind == "no_lower":
            found, other = mean(column(own, "accuracy")), mean(column(first, "accuracy"))
            yield "accuracy no lower", f"mean {found:.3f} against {other:.3f}", found >= other
        else:
            number, limits = contest["numbers"]["images"], contest["runs"]["limits"]
            asked = f"at least {goal:.0%} of what decoding and engine allow"
            started = [limit["stream"] / limit["together"] for limit in limits]
            whole = [number / run["wall_s"] / limit["together"] for run, limit in zip(own, limits, strict=True)]
            for shares, meant in ((started, "once started"), (whole, "the whole command")):
                yield f"{asked}, {meant}", spread(shares, 2), median(shares) >= goal


def goal_rows(contests: list[Contest]) -> Rows:
    for contest in contests:
        if contest["goal"]:
            (name, first), own = next(iter(contest["runs"].items())), contest["runs"]["headstart"]
            lead = (contest["name"], f"{name}: {spread(column(first, 'wall_s'))}", spread(column(own, "wall_s")))
            for asked, found, met in verdicts(contest):
                yield *lead, asked, found, "yes" if met else "no"
                lead = ("", "", "")


def command_rows(contests: list[Contest]) -> Rows:
    for contest in contests:
        for name, runs in contest["runs"].items():
            if contest["goal"] and name not in LIMITS and name != "limits":
                accuracies = ", ".join(f"{value:.3f}" for value in column(runs, "accuracy"))
                usage = (f"{median(column(runs, key)):.0f}" for key in ("cpu_s", "largest_process_mb"))
                yield contest["name"], name, spread(column(runs, "wall_s")), accuracies, *usage
        for name in contest["left_out"]:
            yield contest["name"], name, "left out: no interpreter that has it was given", "", "", ""


def part_rows(contests: list[Contest], parts: list[str], together: float | None) -> Rows:
    """Where the seconds of the median run went; what is outside `total` is starting Python and importing."""
    for contest in contests:
        for name, runs in contest["runs"].items():
            timed = sorted((run for run in runs if "time_s" in run), key=lambda run: run["wall_s"])
            if timed:
                run = timed[(len(timed) - 1) // 2]
                total, spent = run["time_s"]["total"], [run["time_s"].get(part, 0.0) for part in parts]
                seconds = [run["wall_s"], run["wall_s"] - total, *spent, total - sum(spent)]
                limit = f"{run['images'] / together:.1f}" if together else ""
                yield contest["name"], f"{name} ({run['evaluated_by']})", *(f"{value:.1f}" for value in seconds), limit


def stretch_rows(contests: list[Contest]) -> Rows:
    """Each stretch of a run in a process of its own, from the run whose time is the median."""
    for contest in contests:
        for name, runs in contest["runs"].items():
            timed = sorted((run for run in runs if "parts" in run), key=lambda run: run["wall_s"])
            for title, parts in timed[(len(timed) - 1) // 2]["parts"].items() if timed else ():
                keys = ("wall_s", "cpu_s", "decode_s", "open_s", "write_s")
                yield name, title, *(f"{parts[key]:.1f}" if key in parts else "" for key in keys)


def limit_rows(contests: list[Contest]) -> Rows:
    for contest in contests:
        for name, runs in contest["runs"].items():
            for key, meaning in LIMITS.items():
                if values := column(runs, key):
                    yield contest["name"], meaning, spread(values, 4 if key == "agreement" else 1)
            if not contest["goal"] and name != "limits":
                yield contest["name"], f"`{contest['commands'][name]}`, s", spread(column(runs, "wall_s"), 2)


def times(contests: list[Contest]) -> list[str]:
    runs = [run for contest in contests for side in contest["runs"].values() for run in side]
    parts = list(dict.fromkeys(part for run in runs for part in run.get("time_s", ()) if part != "total"))
    rates = column(runs, "together")
    header = " | ".join(["what", "command", "whole", "start", *parts, "rest", "one pass at the limit"])
    return [
        "Seconds of the median run (in brackets: engine and precision of its evaluation). `start` is Python and the",
        "imports; the last column is every image decoded and passed through the engine once, at the rates measured",
        "alone (below).",
        "",
        *table(header, part_rows(contests, parts, median(rates) if rates else None)),
    ]


def place(reports: dict[str, dict[str, Any]]) -> list[str]:
    """When each question was measured, and every machine that was used."""
    machines, rows = [], []
    for name, report in reports.items():
        machine = dict(report["hardware"])
        rows.append((name, report["date"], str(machine.pop("git_commit"))[:10], machine.pop("load_before")))
        if machine not in machines:
            machines.append(machine)
    blocks = [line for machine in machines for line in ("```json", json.dumps(machine, indent=2), "```", "")]
    return [*table("question | date | commit | load before", rows), *blocks]


def page(reports: dict[str, dict[str, Any]]) -> str:
    contests = [contest for report in reports.values() for contest in report["contests"]]
    is_smoke = any(report["quick"] for report in reports.values())
    lines = [line for one in contests for line in (*one["prepare"], *one["commands"].values())]
    sections = {
        "Goals": table("what | beside, s | Headstart, s | goal | found | met", goal_rows(contests)),
        "Every command": table(
            "what | command | seconds | accuracy per seed | processor s | largest process, MB", command_rows(contests)
        ),
        "Where Headstart's time goes": times(contests),
        "Stretch by stretch": [
            "Processor seconds are those of all threads; decoding includes resize and crop, opening the comparison of",
            "engines. The runs of this table are timed within the process, the imports before anything else.",
            "",
            *table(
                "strategy | stretch | seconds | processor s | decoding | opening engines | writing rows",
                stretch_rows(contests),
            ),
        ],
        "What the machine allows": table("measured beside | what | found", limit_rows(contests)),
        "Commands": [
            "All: `make bench DATA=DATA`; one question: `python -m benchmarks.head --data DATA`. What they run:",
            *("", "```", *dict.fromkeys(lines), "```", ""),
        ],
        "When and where": place(reports),
    }
    body = [line for title, section in sections.items() for line in (f"## {title}", "", *section)]
    return "\n".join(["# Benchmarks", INTRO, *([SMOKE, ""] if is_smoke else []), *body])


def write(folder: Path, target: Path) -> None:
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    reports = {name: found[name] for name in (*QUESTIONS, *found) if name in found}
    target.write_text(page(reports), encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="where the raw figures are")
    parser.add_argument("--write", type=Path, default=Path("docs/benchmarks.md"))
    given = parser.parse_args()
    write(given.out, given.write)
