"""What the strategies reach on real sets: a grid of whole `headstart train` commands, and docs/results.md from it.

    python -m benchmarks.results --data DIR [--runs DIR] [--only PATTERN] [--write docs/results.md]

DIR holds the folders `hymenoptera` (train, val), `hotdog` (train, test) and `cifar10` (train, test). A cell whose run
folder is finished is not run again; an unfinished one is resumed.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean, median, stdev

from headstart.runs import Run, open_run

STRATEGIES = ("scratch", "head", "full", "gradual", "lp-ft")
SETS = ("hymenoptera", "hotdog")
SEEDS = (0, 1, 2)
SUPER_CLASSES = ",".join(
    [f"{name}=animal" for name in ("bird", "cat", "deer", "dog", "frog", "horse")]
    + [f"{name}=vehicle" for name in ("airplane", "automobile", "ship", "truck")]
)


@dataclass(frozen=True)
class Cell:
    """One command of the grid."""

    data: str
    strategy: str
    seed: int
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.data}-{self.strategy}-{self.seed}" + ("-merged" if self.extra else "")

    def words(self, data: str, runs: str) -> list[str]:
        """The command's words, with the folders filled in."""
        words = ["headstart", "train", f"{data}/{self.data}", "--strategy", self.strategy, "--seed", str(self.seed)]
        return [*words, "--epochs", "5", "--no-monitor", *self.extra, "--out", f"{runs}/{self.name}"]


def grid() -> list[Cell]:
    cells = [Cell(data, strategy, seed) for seed in SEEDS for data in SETS for strategy in STRATEGIES]
    return [*cells, Cell("cifar10", "head", 0), Cell("cifar10", "head", 0, ("--map", SUPER_CLASSES))]


def finished(cell: Cell, runs: Path) -> Run | None:
    folder = runs / cell.name
    return open_run(folder) if (folder / "metrics.json").exists() else None


def run_cell(cell: Cell, data: Path, runs: Path) -> None:
    words = cell.words(str(data), str(runs))
    if (runs / cell.name).exists():
        words = ["headstart", "train", "--resume", str(runs / cell.name)]
    print(f"-- {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def table(runs: Path) -> list[str]:
    """One line per set and strategy, with the seeds' spread, then one per run."""
    lines = [
        "| set | strategy | accuracy, mean of seeds | lowest to highest | seconds, median |",
        "|---|---|---|---|---|",
    ]
    for data in SETS:
        for strategy in STRATEGIES:
            found = [run.metrics() for seed in SEEDS if (run := finished(Cell(data, strategy, seed), runs))]
            if found:
                values = [metrics["accuracy"]["value"] for metrics in found]
                seconds = median(metrics["time_s"]["total"] for metrics in found)
                spread = f"{min(values):.3f} to {max(values):.3f}" + (
                    f" (sd {stdev(values):.3f})" if len(values) > 1 else ""
                )
                lines.append(
                    f"| {data} | `{strategy}` | {mean(values):.3f} (n = {len(values)}) | {spread} | {seconds:.0f} |"
                )
    lines += [
        "",
        "| run | images | accuracy | 95 % interval | seconds | of them training |",
        "|---|---|---|---|---|---|",
    ]
    for cell in grid():
        if run := finished(cell, runs):
            metrics = run.metrics()
            accuracy, time_s = metrics["accuracy"], metrics["time_s"]
            interval = f"{accuracy['low']:.3f} to {accuracy['high']:.3f}"
            words = (cell.name, metrics["num_images"], f"{accuracy['value']:.3f}", interval)
            seconds = (f"{time_s['total']:.0f}", f"{time_s['train']:.0f}")
            lines.append("| " + " | ".join(map(str, (*words, *seconds))) + " |")
    return lines


def page(runs: Path) -> str:
    done = [run for cell in grid() if (run := finished(cell, runs))]
    facts = done[0].environment() if done else {}
    facts = {key: facts[key] for key in ("python", "platform", "cpu", "cores", "packages") if key in facts}
    commands = "\n".join(" ".join(cell.words("DATA", "runs/results")) for cell in grid() if finished(cell, runs))
    return "\n".join(
        [
            "# Results on real sets",
            "",
            "Every figure comes from the `metrics.json` of a run folder; the commands are below. `lite0`, five epochs",
            "per phase, `--no-monitor` (no look at the reported split after each epoch), all other settings at their",
            "defaults. Accuracy is on the reported split, which selected nothing within a run; but the default rate of",
            "`head` was chosen on these sets ([decision 0003](decisions/0003-default-rates.md)), so its figures are",
            "slightly optimistic. The interval of a run is Wilson's, over its images. Seconds are from the start of",
            "the command to the written run folder, on two shared cores that other work used too: they say no",
            "more than the order of magnitude. Seed 0 and the cells of `head`, other than cifar10 and hotdog-lp-ft-0,",
            "ran before [decision 0004](decisions/0004-keep-freed-memory.md), which made training faster; those two",
            "exceptions, cifar10-head-0 and hotdog-lp-ft-0, were resumed and count the time since then only.",
            "",
            *table(runs),
            "",
            "## Commands",
            "",
            "All of them, resumable: `python -m benchmarks.results --data DATA`. One by one:",
            "",
            "```",
            commands,
            "```",
            "",
            "## Machine",
            "",
            "```json",
            json.dumps(facts, indent=2),
            "```",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--only", default="*", help="cells to run, such as 'hotdog-head-*'")
    parser.add_argument("--write", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    for cell in grid():
        if fnmatch(cell.name, arguments.only) and finished(cell, arguments.runs) is None:
            run_cell(cell, arguments.data, arguments.runs)
            arguments.write.write_text(page(arguments.runs), encoding="utf-8")
    arguments.write.write_text(page(arguments.runs), encoding="utf-8")
    print("\n".join(table(arguments.runs)))


if __name__ == "__main__":
    main()
