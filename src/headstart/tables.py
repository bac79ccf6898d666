"""Tables and plots of the command line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from headstart.display import make_console
from headstart.errors import RunError, either
from headstart.files import make_parent
from headstart.stats.baseline import baseline, figure_notes, worst_class
from headstart.stats.caveats import caveats
from headstart.stats.confusion import confusion_table, read_confusion
from headstart.text import visible_line
from headstart.types import Interval

if TYPE_CHECKING:
    from headstart.data.manifest import Manifest
    from headstart.stats.compare import Difference
    from headstart.studies.compare import Comparison
    from headstart.studies.rank import Ranked
    from headstart.training.lr_find import RangeTest
    from headstart.training.plan_table import PhaseTable


_ANY_WIDTH = 10_000  # columns
_MAX_CONFUSION = 12  # classes whose confusion matrix still fits a terminal


def _make_table(*columns: str) -> Table:
    """Return an empty table, with all columns but the first to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.columns[0].justify = "left"
    return table


def _print_table(console: Console, table: Table) -> None:
    """Print a table or, where that is wider than the terminal, its rows one below the other: no cell is ever split."""
    # Measured without the limit of the terminal, which would be the answer for any wider table.
    without_limit = console.options.update(width=_ANY_WIDTH)
    needed = console.measure(table, options=without_limit).maximum
    if needed <= console.width:
        console.print(table)
        return

    headings = [str(column.header) for column in table.columns]
    columns = [column.cells for column in table.columns]
    for first, *others in zip(*columns, strict=True):
        console.print(f"{headings[0]} {first}".strip(), soft_wrap=True)
        for heading, cell in zip(headings[1:], others, strict=True):
            if cell:
                console.print(f"  {heading}: {cell}", soft_wrap=True)
    console.print()


def print_counts(manifest: "Manifest") -> None:
    """Print the number of images per split and class."""
    counts = manifest.counts()
    table = _make_table("class", *counts, "all")
    for label in manifest.labels:
        row = [counts[split].get(label, 0) for split in counts]
        table.add_row(visible_line(label), *map(str, row), str(sum(row)))
    totals = [sum(counts[split].values()) for split in counts]
    table.add_row("all", *map(str, totals), str(sum(totals)))
    _print_table(make_console(), table)


def print_plan(strategy: str, tables: Sequence["PhaseTable"], manifest: "Manifest") -> None:
    """Print a plan per phase and stage."""
    console = make_console()
    sizes = [f"{split} {sum(by_class.values())}" for split, by_class in manifest.counts().items()]
    data = f"{manifest.name}: {len(manifest.labels)} classes; images: {', '.join(sizes)}"
    console.print(visible_line(f"strategy {strategy} on {data}"))

    for number, phase in enumerate(tables, 1):
        length = _length_text(phase)
        title = f"phase {number} of {len(tables)}: {phase.name}, {length}, trains {phase.share}"
        console.print(title, style="bold", soft_wrap=True)
        table = _make_table("stage", "parameters", "trainable", "share", "learning rate")
        for row in phase.stages:
            share = f"{100 * row.trainable / row.parameters:.0f} %" if row.parameters else "-"
            rates = _range_text(row.learning_rates)
            table.add_row(row.stage, f"{row.parameters:,}", f"{row.trainable:,}", share, rates)
        _print_table(console, table)
        penalty = f"; penalty: {phase.penalty}" if phase.penalty else ""
        console.print(f"  freeze boundary: {phase.boundary}; BatchNorm statistics: {phase.batch_norm}{penalty}\n")


def _length_text(phase: "PhaseTable") -> str:
    """Say how long a phase trains."""
    if phase.solver == "lbfgs":
        return "solved to its optimum"
    return "1 epoch" if phase.epochs == 1 else f"{phase.epochs} epochs"


def _range_text(rates: Sequence[float]) -> str:
    """Return the first and the last of a stage's learning rates."""
    if not rates:
        return "frozen"
    if len(rates) == 1:
        return f"{rates[0]:.2e}"
    return f"{rates[0]:.2e} to {rates[-1]:.2e}"


def print_metrics(metrics: Mapping[str, Any], *, brief: bool = False) -> None:
    """Print the accuracy with its interval in one line and, unless `brief`, the other figures.

    Args:
        metrics: The content of `metrics.json`.
        brief: Whether to leave out the other figures.
    """
    console = make_console()
    line = f"accuracy {Interval(**metrics['accuracy'])} on {metrics['num_images']} {metrics['split']} images"
    if "num_groups" in metrics:
        line += f" in {metrics['num_groups']} groups"
    reasons = [caveat.reason for caveat in caveats(metrics)]
    if reasons:
        line += f"; optimistic, because {either(reasons, 'and')}"
    console.print(line, soft_wrap=True)
    balanced = f"balanced accuracy {metrics['balanced_accuracy']:.3f}"
    console.print(f"{baseline(metrics)}; {balanced}; {worst_class(metrics)}", soft_wrap=True)
    for note in figure_notes(metrics):
        console.print(f"note: {note}", soft_wrap=True)
    if brief:
        return

    figures = [f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in ("macro_f1", "log_loss", "ece")]
    console.print(", ".join(figures), soft_wrap=True)

    table = _make_table("class", "images", "precision", "recall", "f1")
    for label, row in metrics["per_class"].items():
        table.add_row(
            visible_line(label),
            str(row["num_images"]),
            _figure_text(row["precision"]),
            _figure_text(row["recall"]),
            _figure_text(row["f1"]),
        )
    _print_table(console, table)

    labels = list(metrics["per_class"])
    if len(labels) <= _MAX_CONFUSION:
        console.print("confusion (rows: true class, columns: predicted class)")
        table = _make_table("", *map(visible_line, labels))
        rows = confusion_table(read_confusion(metrics), labels)
        for label, counts in zip(labels, rows, strict=True):
            table.add_row(visible_line(label), *map(str, counts))
        _print_table(console, table)


def _figure_text(value: float | None) -> str:
    """Format a figure; one that is not defined is a dash."""
    return "-" if value is None else f"{value:.3f}"


def print_comparison(comparison: "Comparison") -> None:
    """Print a row per cell, best first, then the verdict."""
    console = make_console()
    is_ranked_by_loss = comparison.ranked_by == "selection"
    headings = [
        "", "accuracy", f"{comparison.level:.0%} interval", "behind the first", "p (Holm)", "seconds", "trainable",
        "peak MB",
    ]  # fmt: skip
    if not comparison.baseline.is_even:
        headings.insert(2, "balanced")
    if is_ranked_by_loss:
        headings.insert(1, "selection loss")

    table = _make_table(*headings)
    for row in comparison.rows:
        mark = "*" if row.is_marked else ""
        lead, p_value = _lead_and_p_value(comparison.differences.get(row.name))
        cells = [
            f"{row.rank}. {visible_line(row.name)}",
            f"{row.accuracy.value:.3f}{mark}",
            f"{row.accuracy.low:.3f} to {row.accuracy.high:.3f}",
            lead,
            p_value,
            f"{row.seconds:.0f}",
            f"{row.trainable_parameters:,}",
            "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:,.0f}",
        ]
        if not comparison.baseline.is_even:
            cells.insert(2, _figure_text(row.balanced_accuracy))
        if is_ranked_by_loss:
            cells.insert(1, _figure_text(row.selection_log_loss))
        table.add_row(*cells)
    _print_table(console, table)
    for line in comparison.verdict:
        console.print(visible_line(line), soft_wrap=True)


def _lead_and_p_value(difference: "Difference | None") -> tuple[str, str]:
    """Format how far a row is behind the first, and the p-value of that; both are empty for the first itself."""
    if difference is None:
        return "", ""
    p_value = "<0.001" if difference.p_holm < 0.001 else f"{difference.p_holm:.3f}"
    return f"{100 * difference.difference:+.1f} points", p_value


def print_ranking(rows: Sequence["Ranked"]) -> None:
    """Print a row per backbone, best first."""
    table = _make_table(
        "", "probe loss", "probe accuracy", "LogME", "features", "parameters", "MB", "images/s", "engine"
    )
    for row in rows:
        table.add_row(
            f"{row.rank}. {row.backbone}",
            _figure_text(row.probe_loss),
            _figure_text(row.probe_accuracy),
            f"{row.logme:.3f}",
            f"{row.features:,}",
            f"{row.parameters:,}",
            f"{row.megabytes:.1f}",
            f"{row.images_per_s:.0f}",
            row.engine,
        )
    _print_table(make_console(), table)


def plan_json(strategy: str, tables: Sequence["PhaseTable"]) -> str:
    """Return a plan as JSON."""
    phases = [{**asdict(table), "share": table.share} for table in tables]
    return json.dumps({"strategy": strategy, "phases": phases}, indent=2)


def print_backbone(facts: Mapping[str, Any]) -> None:
    """Print the facts that `describe_backbone` returns about a network."""
    console = make_console()
    given = facts["input"]
    height, width = given["size"]
    resize = given["resize"]
    if isinstance(resize, int):
        whole = f"a shorter side of {resize}"
    else:
        whole = f"{resize[0]}x{resize[1]}"
    geometry = f"{height}x{width} px, cut from {whole}"
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
    table = _make_table("stage", "parameters")
    for stage in facts["stages"]:
        table.add_row(stage["name"], f"{stage['parameters']:,}")
    _print_table(console, table)


def plot_range_test(result: "RangeTest", path: Path) -> None:
    """Draw the smoothed loss over the learning rate, and mark the suggested rate.

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
