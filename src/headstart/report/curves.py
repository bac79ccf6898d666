"""What happened over the epochs: losses, accuracies and learning rates."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from headstart.report.canvas import INK, MUTED, PAPER, SERIES, Figure, draw, legend, shortened
from headstart.report.reading import Facts
from headstart.training.schedules import lr_factor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
_MAX_MARKERS = 30  # epochs; beyond that the line is enough
_MAX_NAMES = 45  # letters of the phases' names that fit above the axes
_TITLES = {"selection": "First fit, to select or score", "final": "Final fit"}
_STYLES = ("-", "--", ":")


class _Line(NamedTuple):
    """A line of a plot.

    Attributes:
        label: Words for the legend.
        xs: Places on the horizontal axis, in epochs.
        ys: Values at these places.
        colour: Colour of the canvas.
        style: Line style of Matplotlib.
    """

    label: str
    xs: list[float]
    ys: list[float]
    colour: str
    style: str = "-"


def training_figures(facts: Facts, ident: str) -> list[tuple[str, list[Figure]]]:
    """Draw loss, accuracy and learning rate of each fit; return them with the fit's title.

    Args:
        facts: The run.
        ident: Beginning of the figures' names.
    """
    fits = facts.fits()
    groups = []
    for fit, rows in fits.items():
        ending = "" if fit == "final" else f"-{fit}"
        split = _held_out_name(rows)
        phases = _phase_starts(rows)
        chosen = _chosen_epochs(facts, fit, rows)
        drawn = []
        for what in ("loss", "accuracy"):
            trained = _column_line(rows, "train", f"train_{what}", SERIES[0])
            held_out = _column_line(rows, split, f"val_{what}", SERIES[1])
            name = f"{ident}-{what}{ending}"
            caption = f"{what.capitalize()} after each epoch."
            drawn.append(_draw_curves(name, caption, what, [trained, held_out], phases, chosen))
        drawn.append(_draw_learning_rates(facts, rows, f"{ident}-lr{ending}"))
        title = ""
        if len(fits) > 1:
            title = _TITLES.get(fit, fit)
        groups.append((title, _those_drawn(drawn)))
    return groups


def overlaid_curves(facts: Sequence[Facts], names: Sequence[str]) -> list[Figure]:
    """Draw the final fits of several runs over one another."""
    drawn = []
    for key, what in (("val", "held-out"), ("train", "training")):
        for quantity in ("loss", "accuracy"):
            lines = []
            for number, (each, name) in enumerate(zip(facts, names, strict=True)):
                colour = SERIES[number % len(SERIES)]
                style = _STYLES[number // len(SERIES) % len(_STYLES)]
                rows = each.fits().get("final", [])
                lines.append(_column_line(rows, shortened(name, 28), f"{key}_{quantity}", colour, style))
            caption = f"{what.capitalize()} {quantity} of each run."
            drawn.append(_draw_curves(f"{what}-{quantity}", caption, f"{what} {quantity}", lines))
    return _those_drawn(drawn)


def _those_drawn(figures: Sequence[Figure | None]) -> list[Figure]:
    """Return the figures that could be drawn."""
    return [figure for figure in figures if figure is not None]


def _held_out_name(rows: Rows) -> str:
    """Name the split that was watched during a fit."""
    for row in rows:
        if row.get("val_split"):
            return str(row["val_split"])
    return "held-out"


def _draw_curves(
    name: str,
    caption: str,
    ylabel: str,
    lines: Sequence[_Line],
    phases: Sequence[tuple[float, str]] = (),
    chosen: Sequence[float] = (),
) -> Figure | None:
    """Draw lines over the epochs, the phases and the epochs that were selected marked; None where nothing is known."""
    lines = [line for line in lines if line.xs]
    if not lines:
        return None

    def paint(axes: "Axes") -> None:
        _set_up_epochs(axes, lines, phases)
        axes.set_ylabel(ylabel)
        for line in lines:
            marker = "o" if len(line.xs) <= _MAX_MARKERS else None
            axes.plot(line.xs, line.ys, line.style, color=line.colour, label=line.label, marker=marker,
                      markeredgecolor=PAPER)  # fmt: skip
        for epoch in chosen:
            axes.axvline(epoch, color=INK, linewidth=1, linestyle=":")
            axes.annotate("chosen", (epoch, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
                          textcoords="offset points", fontsize=8.5, color=INK)  # fmt: skip
        legend(axes)

    ends = "; ".join(f"{line.label} from {line.ys[0]:.3g} to {line.ys[-1]:.3g}" for line in lines)
    longest = max(line.xs[-1] for line in lines)
    return draw(name, caption, f"{ylabel} over {longest:g} epochs: {ends}.", paint)


def _draw_learning_rates(facts: Facts, rows: Rows, name: str) -> Figure | None:
    """Draw the rate of every step of a fit, computed from the plan, and what was recorded after each epoch."""
    of_head = _column_line(rows, "", "head_lr", SERIES[1])
    of_all = _column_line(rows, "", "lr", SERIES[0])
    if not of_all.xs:
        return None
    recorded = [of_all] if of_head.ys == of_all.ys else [of_head, of_all]
    planned: list[_Line] = []
    for phase, offset in _epochs_before(rows).items():
        planned.extend(_planned_rates(facts, rows, phase, offset))
    shown = planned or [of_head, of_all]
    tops = [max(line.ys) for line in shown if line.ys]

    def paint(axes: "Axes") -> None:
        _set_up_epochs(axes, [of_head, of_all], _phase_starts(rows))
        axes.set_ylabel("learning rate")
        if max(tops) > 5 * min(tops):  # on a linear scale the lower rates would all be 0
            axes.set_yscale("log")
            axes.set_ylim(min(tops) / 300, max(tops) * 2)
            axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}".replace("e-0", "e-"))
            axes.minorticks_off()
        is_line_seen = any(len(line.xs) > 1 for line in planned)
        style = "-" if is_line_seen else "o"
        # Each name once, though there is a line for each phase.
        named = {line.label: line for line in reversed(planned)}
        for line in named.values():
            axes.plot([], [], style, color=line.colour, label=line.label)
        for line in planned:
            axes.plot(line.xs, line.ys, color=line.colour)
        for line in recorded:
            axes.plot(line.xs, line.ys, "o", color=line.colour, markeredgecolor=PAPER)
        legend(axes)

    caption = "Learning rate as recorded at the last step of each epoch."
    if planned:
        caption = "Learning rate of every step, as planned; dots: as recorded at the last step of each epoch."
    alt = (
        f"Learning rate over the steps of training, at most {max(tops):.2g}; the lowest phase or part, {min(tops):.2g}."
    )
    return draw(name, caption, alt, paint)


def _planned_rates(facts: Facts, rows: Rows, phase: int, offset: float) -> list[_Line]:
    """Compute the rates of one phase; nothing where they are not those that were recorded."""
    trained = [row for row in rows if row["phase"] == phase and row["epoch"] and row.get("lr")]
    length = facts.schedule_epochs(phase)
    if not trained or not length or phase > len(facts.phases):
        return []
    stages = facts.phases[phase - 1]["stages"]
    rates: set[float] = set()
    for stage in stages:
        rates.update(stage["learning_rates"])
    if not rates:
        return []

    # The schedule, step by step.
    steps_per_epoch = trained[-1]["step"]
    xs = []
    factors = []
    for step in range(steps_per_epoch * trained[-1]["epoch"]):
        xs.append(offset + (step + 1) / steps_per_epoch)
        factors.append(_schedule_factor(facts.settings, step, steps_per_epoch, length))

    # The rate that it scales: the lowest one, and the head's where that is another.
    of_head = stages[-1]["learning_rates"][-1:]
    lines = []
    for base in sorted({min(rates), *of_head}):
        is_head = len(rates) > 1 and base in of_head
        ys = [base * factor for factor in factors]
        recorded = trained[-1]["head_lr"] if is_head else trained[-1]["lr"]
        if not np.isclose(base * factors[-1], recorded or 0.0, rtol=1e-3):
            return []
        if is_head:
            lines.append(_Line("head", xs, ys, SERIES[1]))
        elif len(rates) > 1:
            lines.append(_Line("lowest part that trains", xs, ys, SERIES[0]))
        else:
            lines.append(_Line("all that trains", xs, ys, SERIES[0]))
    return lines


def _schedule_factor(settings: Mapping[str, Any], step: int, steps_per_epoch: int, length: int) -> float:
    """Return what a schedule of `length` epochs scales a learning rate by."""
    decay_steps = settings["step_epochs"] * steps_per_epoch
    return lr_factor(settings["schedule"], step, steps_per_epoch * length, settings["warmup"], decay_steps)


def _epochs_before(rows: Rows) -> dict[int, float]:
    """Return for each phase how many epochs came before it."""
    longest: dict[int, int] = {}
    for row in rows:
        longest[row["phase"]] = max(longest.get(row["phase"], 0), row["epoch"])
    offsets = {}
    done = 0.0
    for phase, length in longest.items():
        offsets[phase] = done
        done += length
    return offsets


def _phase_starts(rows: Rows) -> list[tuple[float, str]]:
    """Return where each phase begins, in epochs, and its name."""
    names = {row["phase"]: row.get("phase_name") or str(row["phase"]) for row in rows}
    return [(offset, names[phase]) for phase, offset in _epochs_before(rows).items()]


def _column_line(rows: Rows, label: str, column: str, colour: str, style: str = "-") -> _Line:
    """Return a column of the log as a line; a solved head is where its phase begins."""
    offsets = _epochs_before(rows)
    xs = []
    ys = []
    for row in rows:
        if row.get(column) is not None:
            xs.append(offsets[row["phase"]] + row["epoch"])
            ys.append(row[column])
    return _Line(label, xs, ys, colour, style)


def _chosen_epochs(facts: Facts, fit: str, rows: Rows) -> list[float]:
    """Return the epochs whose weights were kept, where an epoch was selected."""
    if not (facts.settings["best_epoch"] or facts.settings["patience"]):
        return []
    best = facts.resolved.stop_after
    if fit == "final" and best is not None:  # after a fit that selected, it only repeats the length
        return []
    if fit == "final":
        best = facts.metrics.get("best_epochs")
    epochs = []
    for phase, offset in _epochs_before(rows).items():
        if best and phase <= len(best) and best[phase - 1]:
            epochs.append(offset + best[phase - 1])
    return epochs


def _set_up_epochs(axes: "Axes", lines: Sequence[_Line], phases: Sequence[tuple[float, str]]) -> None:
    """Set up the horizontal axis, and mark where each phase begins."""
    first = min(min(line.xs, default=1) for line in lines)
    last = max(max(line.xs, default=1) for line in lines)
    axes.set_xlabel("epoch")
    axes.set_xlim(-0.02 * last if first < 1 else 0, last + max(0.04 * last, 0.05))
    axes.locator_params(axis="x", integer=True)
    if len(phases) < 2:
        return
    names = [name for _, name in phases]
    if sum(map(len, names)) > _MAX_NAMES:
        names = [str(number) for number in range(1, len(names) + 1)]
    for (start, _), name in zip(phases, names, strict=True):
        axes.axvline(start, color=MUTED, linewidth=0.8, alpha=0.7)
        axes.annotate(name, (start, 1), xycoords=("data", "axes fraction"), xytext=(2, 3), textcoords="offset points",
                      fontsize=8.5, color=MUTED)  # fmt: skip
