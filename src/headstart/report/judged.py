"""How good a model is, in figures: confusion matrix, reliability diagram, and accuracies beside one another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.report.canvas import LINE, MUTED, PAPER, SERIES, Figure, draw, legend, shortened
from headstart.report.reading import Facts
from headstart.stats.confusion import confusion_table
from headstart.stats.intervals import accuracy_interval
from headstart.stats.metrics import ECE_BINS, confidence_bins
from headstart.types import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_CLASSES = 25  # beyond that the numbers of a matrix could no longer be read
_SHADE = 0.5  # opacity of a cell that holds its whole row: the number on it stays legible, light and dark


def confusion_matrix(facts: Facts, name: str) -> Figure | None:
    """Draw the confusion matrix, each row shaded by its shares, unless there are too many classes."""
    num = len(facts.labels)
    if num > _MAX_CLASSES:
        return None
    from matplotlib.patches import Rectangle

    counts = confusion_table(facts.confusion, facts.labels)
    shown = [shortened(label, 18) for label in facts.labels]
    ticks = np.arange(num) + 0.5
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_short = num <= 4 and max(map(len, shown)) <= 10
    turned: dict[str, Any] = {"rotation": 60, "ha": "left"}
    if is_short:
        turned = {"rotation": 0, "ha": "center"}

    def paint(axes: "Axes") -> None:
        for (row, column), count in np.ndenumerate(counts):
            colour = SERIES[0] if row == column else SERIES[1]
            alpha = _SHADE * shares[row, column]
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, alpha=alpha, edgecolor="none"))
            if count:
                axes.text(column + 0.5, row + 0.5, f"{count}", ha="center", va="center")
        axes.set(xlim=(0, num), ylim=(num, 0), xlabel="predicted class", ylabel="true class", aspect="equal")
        axes.set_xticks(ticks, shown, rotation_mode="anchor", **turned)
        axes.set_yticks(ticks, shown)
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for edge in range(num + 1):
            axes.plot([0, num], [edge, edge], color=LINE, linewidth=0.6, clip_on=False)
            axes.plot([edge, edge], [0, num], color=LINE, linewidth=0.6, clip_on=False)

    alt = f"Confusion matrix of {num} classes: {np.trace(counts)} of {counts.sum()} images are on the diagonal."
    caption = "Rows: true class, shaded by its shares. Columns: predicted class."
    side = max(3.0, 1.9 + 0.36 * num)
    return draw(name, caption, alt, paint, size=(side, side), is_cut=True)


def reliability_diagram(facts: Facts, name: str) -> Figure | None:
    """Draw accuracy over confidence with 95 % intervals, above how often each confidence occurs.

    The bins are those of the expected calibration error; None where the predictions are gone.
    """
    found = facts.predictions
    if found is None or not found.paths:
        return None
    confidence = found.confidence
    which = confidence_bins(confidence)
    means = []
    bins = []
    for number in np.unique(which):
        is_member = which == number
        means.append(float(confidence[is_member].mean()))
        groups = None if found.groups is None else found.groups[is_member]
        bins.append(accuracy_interval(found.is_correct[is_member], groups))

    def paint(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1, label="confidence = accuracy")
        values = []
        errors = []
        for each in bins:
            values.append(each.value)
            errors.append((max(0.0, each.value - each.low), max(0.0, each.high - each.value)))
        axes.errorbar(means, values, np.transpose(errors), fmt="o", color=SERIES[0],
                      linewidth=1.2, label="images, with 95 % intervals")  # fmt: skip
        axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), ylabel="accuracy")
        axes.tick_params(labelbottom=False)
        below = axes.inset_axes((0, -0.32, 1, 0.26), sharex=axes)
        below.hist(confidence, bins=np.linspace(0, 1, ECE_BINS + 1).tolist(), color=SERIES[0], alpha=0.55)
        below.set(xlabel="confidence: probability of the predicted class", ylabel="images")
        legend(axes)

    caption = f"Accuracy within {ECE_BINS} bins of confidence. Below the diagonal the model is overconfident."
    pairs = "; ".join(f"{mean:.2f}: {each.value:.2f}" for mean, each in zip(means, bins, strict=True))
    alt = f"Reliability diagram. Mean confidence and accuracy of each bin: {pairs}."
    return draw(name, caption, alt, paint, size=(5.0, 4.2))


def accuracies(facts: Sequence[Facts], names: Sequence[str]) -> Figure:
    """Draw the accuracies of several runs with their intervals; hollow where a figure is optimistic."""
    labels = []
    intervals = []
    for each, name in zip(facts, names, strict=True):
        labels.append(f"{name} †" if each.caveats else name)
        intervals.append(Interval(**each.metrics["accuracy"]))

    def paint(axes: "Axes") -> None:
        for y, (each, accuracy) in enumerate(zip(facts, intervals, strict=True)):
            error = [[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]
            colour = SERIES[y % len(SERIES)]
            inside = PAPER if each.caveats else colour
            axes.errorbar(accuracy.value, y, xerr=error, fmt="o", color=colour, linewidth=1.4, markerfacecolor=inside)
        axes.set_yticks(range(len(labels)), [shortened(label, 32) for label in labels])
        axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel="accuracy")
        axes.grid(False, axis="y")

    said = []
    for label, accuracy in zip(labels, intervals, strict=True):
        said.append(f"{label} {accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})")
    alt = f"Accuracy of each run with its interval: {'; '.join(said)}."
    return draw("accuracies", "Accuracy with its interval.", alt, paint, size=(6.2, 0.9 + 0.3 * len(labels)))
