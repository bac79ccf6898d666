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


class _Line(NamedTuple):
    """A line of a plot; `xs` in epochs."""

    label: str
    xs: list[float]
    ys: list[float]
    colour: str
    style: str = "-"


def training_figures(facts: Facts, ident: str) -> list[tuple[str, list[Figure]]]:
    """Draw loss, accuracy and learning rate of each fit, named `ident` and on; return them with the fit's title."""
    fits = facts.fits()
    titles = {"selection": "First fit, to select or score", "final": "Final fit"}
    groups = []
    for fit, rows in fits.items():
        names = [f"{ident}-{what}{'' if fit == 'final' else f'-{fit}'}" for what in ("loss", "accuracy", "lr")]
        split = next((row["val_split"] for row in rows if row.get("val_split")), "held-out")
        drawn = []
        for name, what in zip(names, ("loss", "accuracy"), strict=False):
            lines = [_line(rows, "train", f"train_{what}", SERIES[0]), _line(rows, split, f"val_{what}", SERIES[1])]
            caption = f"{what.capitalize()} after each epoch."
            drawn.append(_curves(name, caption, what, lines, _starts(rows), _chosen(facts, fit, rows)))
        drawn.append(_learning_rates(facts, rows, names[-1]))
        groups.append((titles.get(fit, fit) if len(fits) > 1 else "", [each for each in drawn if each is not None]))
    return groups


def overlaid_curves(facts: Sequence[Facts], names: Sequence[str]) -> list[Figure]:
    """Draw the final fits of several runs over one another."""
    drawn = []
    for key, what in (("val", "held-out"), ("train", "training")):
        for quantity in ("loss", "accuracy"):
            lines = []
            for number, (each, name) in enumerate(zip(facts, names, strict=True)):
                colour, style = SERIES[number % len(SERIES)], ("-", "--", ":")[number // len(SERIES) % 3]
                rows = each.fits().get("final", [])
                lines.append(_line(rows, shortened(name, 28), f"{key}_{quantity}", colour, style))
            caption = f"{what.capitalize()} {quantity} of each run."
            drawn.append(_curves(f"{what}-{quantity}", caption, f"{what} {quantity}", lines))
    return [each for each in drawn if each is not None]


def _curves(
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
        _over_epochs(axes, lines, phases)
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
    return draw(name, caption, f"{ylabel} over {max(line.xs[-1] for line in lines):g} epochs: {ends}.", paint)


def _learning_rates(facts: Facts, rows: Rows, name: str) -> Figure | None:
    """Draw the rate of every step of a fit, computed from the plan, and what was recorded after each epoch."""
    recorded = [_line(rows, "", "head_lr", SERIES[1]), _line(rows, "", "lr", SERIES[0])]
    if not recorded[1].xs:
        return None
    planned = [line for phase, offset in _offsets(rows).items() for line in _schedules(facts, rows, phase, offset)]
    tops = [max(line.ys) for line in planned or recorded if line.ys]

    def paint(axes: "Axes") -> None:
        _over_epochs(axes, recorded, _starts(rows))
        axes.set_ylabel("learning rate")
        if max(tops) > 5 * min(tops):  # on a linear scale the lower rates would all be 0
            axes.set_yscale("log")
            axes.set_ylim(min(tops) / 300, max(tops) * 2)
            axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}".replace("e-0", "e-"))
            axes.minorticks_off()
        style = "-" if any(len(line.xs) > 1 for line in planned) else "o"  # of one step there is no line to be seen
        for line in {line.label: line for line in reversed(planned)}.values():
            axes.plot([], [], style, color=line.colour, label=line.label)
        for line in planned:
            axes.plot(line.xs, line.ys, color=line.colour)
        for line in recorded[recorded[0].ys == recorded[1].ys :]:
            axes.plot(line.xs, line.ys, "o", color=line.colour, markeredgecolor=PAPER)
        legend(axes)

    what = "of every step, as planned; dots: as recorded at" if planned else "as recorded at"
    alt = (
        f"Learning rate over the steps of training, at most {max(tops):.2g}; the lowest phase or part, {min(tops):.2g}."
    )
    return draw(name, f"Learning rate {what} the last step of each epoch.", alt, paint)


def _schedules(facts: Facts, rows: Rows, phase: int, offset: float) -> list[_Line]:
    """Compute the rates of one phase; nothing where they are not those that were recorded."""
    trained = [row for row in rows if row["phase"] == phase and row["epoch"] and row.get("lr")]
    length, settings = facts.schedule_epochs(phase), facts.settings
    if not trained or not length or phase > len(facts.phases):
        return []
    stages, last, lines = facts.phases[phase - 1]["stages"], trained[-1], []
    rates = {rate for stage in stages for rate in stage["learning_rates"]}
    head = stages[-1]["learning_rates"][-1:]
    for base in sorted({min(rates), *head}) if rates else []:
        is_head, num_steps = len(rates) > 1 and base in head, last["step"] * length
        decay, done = settings["step_epochs"] * last["step"], range(last["step"] * last["epoch"])
        ys = [base * lr_factor(settings["schedule"], i, num_steps, settings["warmup"], decay) for i in done]
        if not np.isclose(ys[-1], last["head_lr" if is_head else "lr"] or 0.0, rtol=1e-3):
            return []
        label = "head" if is_head else "lowest part that trains" if len(rates) > 1 else "all that trains"
        lines.append(_Line(label, [offset + (i + 1) / last["step"] for i in done], ys, SERIES[int(is_head)]))
    return lines


def _offsets(rows: Rows) -> dict[int, float]:
    """Return for each phase how many epochs came before it."""
    longest: dict[int, int] = {}
    for row in rows:
        longest[row["phase"]] = max(longest.get(row["phase"], 0), row["epoch"])
    return dict(zip(longest, np.cumsum([0.0, *longest.values()]).tolist(), strict=False))


def _starts(rows: Rows) -> list[tuple[float, str]]:
    names = {row["phase"]: row.get("phase_name") or str(row["phase"]) for row in rows}
    return [(offset, names[phase]) for phase, offset in _offsets(rows).items()]


def _line(rows: Rows, label: str, column: str, colour: str, style: str = "-") -> _Line:
    """Take a column; a solved head is where its phase begins."""
    offsets = _offsets(rows)
    known = [row for row in rows if row.get(column) is not None]
    xs = [offsets[row["phase"]] + row["epoch"] for row in known]
    return _Line(label, xs, [row[column] for row in known], colour, style)


def _chosen(facts: Facts, fit: str, rows: Rows) -> list[float]:
    """Return the epochs whose weights were kept, where an epoch was selected."""
    if not (facts.settings["best_epoch"] or facts.settings["patience"]):
        return []
    best = facts.resolved.stop_after
    if fit == "final":  # after a fit that selected, it only repeats the length
        best = facts.metrics.get("best_epochs") if best is None else None
    known = {phase: best[phase - 1] for phase in _offsets(rows) if best and phase <= len(best)}
    return [at + known[phase] for phase, at in _offsets(rows).items() if known.get(phase)]


def _over_epochs(axes: "Axes", lines: Sequence[_Line], phases: Sequence[tuple[float, str]]) -> None:
    """Set up the horizontal axis, and mark where each phase begins."""
    first, last = min(min(line.xs, default=1) for line in lines), max(max(line.xs, default=1) for line in lines)
    axes.set_xlabel("epoch")
    axes.set_xlim(-0.02 * last if first < 1 else 0, last + max(0.04 * last, 0.05))
    axes.locator_params(axis="x", integer=True)
    names = [name for _, name in phases]
    if sum(map(len, names)) > _MAX_NAMES:
        names = [str(number) for number in range(1, len(names) + 1)]
    for (start, _), name in zip(phases if len(phases) > 1 else (), names, strict=False):
        axes.axvline(start, color=MUTED, linewidth=0.8, alpha=0.7)
        axes.annotate(name, (start, 1), xycoords=("data", "axes fraction"), xytext=(2, 3), textcoords="offset points",
                      fontsize=8.5, color=MUTED)  # fmt: skip
