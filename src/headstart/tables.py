"""Tables and plots of the command line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from headstart.errors import RunError
from headstart.files import make_parent
from headstart.types import Interval

if TYPE_CHECKING:
    from headstart.data.manifest import Manifest
    from headstart.studies.compare import Comparison
    from headstart.studies.rank import Ranked
    from headstart.training.lr_find import RangeTest
    from headstart.training.plan import PhaseTable


_MAX_CONFUSION = 12  # classes whose confusion matrix still fits a terminal


def _console() -> Console:
    # A pipe has no width; a table that wraps at 80 columns is hard to read back.
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # a class may be called [b] or :cat:
    console = Console(**plain)
    return console if console.is_terminal else Console(width=140, **plain)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def print_counts(manifest: "Manifest") -> None:
    """Print the number of images per split and class."""
    counts = manifest.counts()
    table = _table("class", *counts, "all")
    for label in manifest.labels:
        row = [counts[split].get(label, 0) for split in counts]
        table.add_row(label, *map(str, row), str(sum(row)))
    totals = [sum(counts[split].values()) for split in counts]
    table.add_row("all", *map(str, totals), str(sum(totals)))
    _console().print(table)


def print_plan(strategy: str, tables: Sequence["PhaseTable"], manifest: "Manifest") -> None:
    """Print a plan per phase and stage."""
    console = _console()
    splits = ", ".join(f"{split} {sum(by_class.values())}" for split, by_class in manifest.counts().items())
    console.print(f"strategy {strategy} on {manifest.name}: {len(manifest.labels)} classes; images: {splits}")
    for i, phase in enumerate(tables, 1):
        length = "solved to its optimum" if phase.solver == "lbfgs" else f"{phase.epochs} epochs"
        title = f"phase {i} of {len(tables)}: {phase.name}, {length}, trains {phase.share}"
        console.print(title, style="bold", soft_wrap=True)
        table = _table("stage", "parameters", "trainable", "share", "learning rate")
        for row in phase.stages:
            rates = " to ".join(f"{rate:.2e}" for rate in (row.learning_rates[:1] + row.learning_rates[1:][-1:]))
            share = f"{100 * row.trainable / row.parameters:.0f} %" if row.parameters else "-"
            table.add_row(row.stage, f"{row.parameters:,}", f"{row.trainable:,}", share, rates or "frozen")
        console.print(table)
        penalty = f"; penalty: {phase.penalty}" if phase.penalty else ""
        console.print(f"  freeze boundary: {phase.boundary}; BatchNorm statistics: {phase.batch_norm}{penalty}\n")


def print_metrics(metrics: Mapping[str, Any], *, brief: bool = False) -> None:
    """Print the accuracy with its interval in one line and, unless `brief`, the other figures.

    Args:
        metrics: As in `metrics.json`.
        brief: Whether that is all.
    """
    console, labels = _console(), list(metrics["per_class"])
    line = f"accuracy {Interval(**metrics['accuracy'])} on {metrics['num_images']} {metrics['split']} images"
    is_marked = metrics.get("selected_on_reported")
    console.print(line + "; too good, because these images also selected the model" * bool(is_marked), soft_wrap=True)
    if brief:
        return
    names = ("balanced_accuracy", "macro_f1", "log_loss", "ece")
    console.print(", ".join(f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in names), soft_wrap=True)
    table = _table("class", "images", "precision", "recall", "f1")
    for label, row in metrics["per_class"].items():
        figures = (row[name] for name in ("precision", "recall", "f1"))
        table.add_row(label, str(row["num_images"]), *("-" if each is None else f"{each:.3f}" for each in figures))
    console.print(table)
    if len(labels) <= _MAX_CONFUSION:
        console.print("confusion (rows: true class, columns: predicted class)")
        table = _table("", *labels)
        for label, counts in zip(labels, metrics["confusion"], strict=True):
            table.add_row(label, *map(str, counts))
        console.print(table)


def print_comparison(comparison: "Comparison") -> None:
    """Print a row per cell, best first, then the verdict."""
    console, scored = _console(), comparison.ranked_by == "selection"
    order = ("selection loss",) if scored else ()
    table = _table(
        "", *order, "accuracy", f"{comparison.level:.0%} interval", "first is ahead by", "p (Holm)", "seconds",
        "trainable", "peak MB",
    )  # fmt: skip
    for row in comparison.rows:
        d, a = comparison.differences.get(row.name), row.accuracy
        table.add_row(
            f"{row.rank}. {row.name}",
            *([f"{row.selection_log_loss:.3f}"] if scored else []),
            f"{a.value:.3f}" + ("*" if row.selected_on_reported else ""),
            f"{a.low:.3f} to {a.high:.3f}",
            f"{100 * d.difference:+.1f} points" if d else "",
            ("<0.001" if d.p_holm < 0.001 else f"{d.p_holm:.3f}") if d else "",
            f"{row.seconds:.0f}",
            f"{row.trainable_parameters:,}",
            f"{row.peak_memory_mb:,.0f}" if row.peak_memory_mb is not None else "-",
        )
    console.print(table)
    for line in comparison.verdict:
        console.print(line, soft_wrap=True)


def print_ranking(rows: Sequence["Ranked"]) -> None:
    """Print a row per backbone, best first."""
    table = _table("", "probe loss", "probe accuracy", "LogME", "features", "parameters", "MB", "images/s", "engine")
    for row in rows:
        probe = ("-", "-") if row.probe_loss is None else (f"{row.probe_loss:.3f}", f"{row.probe_accuracy:.3f}")
        table.add_row(
            f"{row.rank}. {row.backbone}", *probe, f"{row.logme:.3f}", f"{row.features:,}", f"{row.parameters:,}",
            f"{row.megabytes:.1f}", f"{row.images_per_s:.0f}", row.engine,
        )  # fmt: skip
    _console().print(table)


def plan_json(strategy: str, tables: Sequence["PhaseTable"]) -> str:
    """Return a plan as JSON."""
    return json.dumps({"strategy": strategy, "phases": [{**asdict(t), "share": t.share} for t in tables]}, indent=2)


def print_backbone(facts: Mapping[str, Any]) -> None:
    """Print what `describe_backbone` says."""
    console, given = _console(), facts["input"]
    resize = given["resize"]
    geometry = f"{given['size'][0]}x{given['size'][1]} px, cut from "
    geometry += f"a shorter side of {resize}" if isinstance(resize, int) else f"{resize[0]}x{resize[1]}"
    lines = {
        "name": facts["name"],
        "architecture": f"{facts['architecture']} ({facts['library']})",
        "source head": facts["head"],
        "parameters": f"{facts['parameters']:,}",
        "input": f"{geometry} ({given['interpolation']}), mean {given['mean']}, std {given['std']}",
        "licence": facts["published_licence"],
    }
    if facts["note"]:
        lines["note"] = facts["note"]
    for key, text in lines.items():
        console.print(f"{key:13}{text}", soft_wrap=True)
    table = _table("stage", "parameters")
    for stage in facts["stages"]:
        table.add_row(stage["name"], f"{stage['parameters']:,}")
    console.print(table)


def plot_range_test(result: "RangeTest", path: Path) -> None:
    """Draw the smoothed loss over the learning rate, the suggestion marked.

    Raises:
        RunError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xscale="log", xlabel="learning rate", ylabel="smoothed loss", title="Learning-rate range test"
    )
    axes.plot(result.learning_rates, result.losses)
    axes.axvline(result.suggestion, linestyle="--", color="tab:red", label=f"suggested {result.suggestion:.1e}")
    axes.legend()
    make_parent(path)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the plot {path}: {error}; name another file with --plot") from error
