import json
from dataclasses import replace

import numpy as np
import pytest

from headstart.report import curves
from headstart.report.canvas import _COLOURS, draw, legend, shortened
from headstart.report.curves import training_figures
from headstart.report.judged import confusion_matrix, reliability_diagram
from headstart.report.reading import read_run
from tests.helpers.reports import history


def test_the_computed_schedule_is_what_training_recorded(real_run):
    facts = read_run(real_run)
    rows = facts.fits()["final"]
    lines = curves._planned_rates(facts, rows, 1, 0.0) + curves._planned_rates(facts, rows, 2, 2.0)
    assert [line.label for line in lines] == ["all that trains", "lowest part that trains", "head"]
    recorded = {(row["phase"], row["epoch"]): row for row in rows}
    steps = rows[0]["step"]
    for line, phase, column, epochs in zip(lines, (1, 2, 2), ("lr", "lr", "head_lr"), (2, 3, 3), strict=True):
        assert len(line.ys) == epochs * steps
        expected = [recorded[phase, epoch][column] for epoch in range(1, epochs + 1)]
        np.testing.assert_allclose(line.ys[steps - 1 :: steps], expected, rtol=1e-9)
    assert lines[1].xs[-1] == 5.0


def test_a_schedule_that_was_not_the_recorded_one_is_not_drawn(make_run):
    path = make_run()
    assert curves._planned_rates(read_run(path), read_run(path).fits()["final"], 1, 0.0)
    plan = json.loads((path / "plan.json").read_text())
    plan["phases"][0]["stages"][1]["learning_rates"] = [0.02]
    (path / "plan.json").write_text(json.dumps(plan))
    facts = read_run(path)
    assert curves._planned_rates(facts, facts.fits()["final"], 1, 0.0) == []
    captions = [figure.caption for _, group in training_figures(facts, "run1") for figure in group]
    assert "Learning rate as recorded at the last step of each epoch." in captions


def test_phases_follow_one_another(make_run):
    path = make_run(phases=(("head", 0), ("all", 2), ("more", 3)))
    rows = read_run(path).fits()["final"]
    assert curves._phase_starts(rows) == [(0.0, "head"), (0.0, "all"), (2.0, "more")]
    assert curves._column_line(rows, "", "train_loss", "").xs == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("phases", "num_figures"),
    [
        ((("head", 1),), 3),
        ((("head", 0),), 2),  # there is no learning rate where nothing was stepped
        (tuple((f"a long name of phase {number}", 40) for number in range(9)), 3),
    ],
)
def test_any_number_of_epochs(make_run, phases, num_figures):
    [(title, figures)] = training_figures(read_run(make_run(phases=phases)), "run1")
    assert title == ""
    assert [figure.name for figure in figures] == ["run1-loss", "run1-accuracy", "run1-lr"][:num_figures]
    assert f"over {sum(epochs for _, epochs in phases)} epochs" in figures[0].svg


@pytest.mark.parametrize(("num_steps", "is_point"), [(1, True), (2, False)])
def test_the_legend_shows_a_single_step_as_a_point(make_run, monkeypatch, num_steps, is_point):
    rows = [{**row, "step": num_steps, "lr": 0.01, "head_lr": 0.01} for row in history(("head", 1))]
    kept = []
    monkeypatch.setattr(curves, "legend", lambda axes: kept.extend(axes.get_legend_handles_labels()[0]))
    training_figures(read_run(make_run(rows=rows, schedule="constant", warmup=0.0)), "run1")
    [handle] = [each for each in kept if each.get_label() == "all that trains"]
    assert (handle.get_marker() == "o") == is_point
    assert (handle.get_linestyle() == "None") == is_point


@pytest.mark.parametrize(("length", "columns"), [(5, 3), (24, 2), (60, 1)])
def test_the_legend_has_as_many_columns_as_fit(length, columns):
    kept = []

    def paint(axes):
        for number in range(8):
            axes.plot([0, 1], label=f"{number} " + "n" * (length - 2))
        legend(axes)
        kept.append(axes.figure)

    draw("wide", "", "", paint)
    (names,) = kept[0].legends
    assert names._ncols == columns
    assert columns == 1 or names.get_window_extent().x1 <= kept[0].bbox.width


def test_no_epoch_at_all(make_run):
    assert training_figures(read_run(make_run(rows=[])), "run1") == []


def test_without_monitoring_there_is_one_line(make_run):
    rows = [{**row, "val_split": None, "val_loss": None, "val_accuracy": None} for row in history(("head", 2))]
    [(_, figures)] = training_figures(read_run(make_run(rows=rows)), "run1")
    assert "train from" in figures[0].svg
    assert "held-out" not in figures[0].svg


def test_both_fits_are_shown_and_the_chosen_epoch_is_marked(make_run):
    rows = [*history(("head", 4), fit="selection"), *history(("head", 4))[:2]]
    path = make_run(rows=rows, best_epoch=True, phase_epochs=[4], stop_after=(2,))
    (first, selecting), (second, final) = training_figures(read_run(path), "run1")
    assert (first, second) == ("First fit, to select or score", "Final fit")
    assert ["chosen" in figure.svg for figure in selecting] == [True, True, False]
    assert not any("chosen" in figure.svg for figure in final)
    # The second stopped within the schedule of four epochs, and what was computed still agrees.
    assert "as planned" in final[2].caption


@pytest.mark.parametrize("num_classes", [2, 25, 26])
def test_a_confusion_matrix_that_can_be_read(make_run, num_classes):
    facts = read_run(make_run(labels=[f"class {number}" for number in range(num_classes)], num_images=2 * num_classes))
    figure = confusion_matrix(facts, "m")
    assert (figure is not None) == (num_classes <= 25)
    if figure is not None:
        right = sum(row.get(label, 0) for label, row in facts.confusion.items())
        assert f"{right} of {2 * num_classes} images" in figure.svg


def test_reliability_says_accuracy_and_confidence_of_each_bin(make_run):
    facts = read_run(make_run(num_images=300))
    figure = reliability_diagram(facts, "r")
    found = facts.predictions
    alt = str(figure.svg).partition('aria-label="')[2].partition('"')[0]
    bins = np.ceil(found.confidence * 15)
    for number in np.unique(bins):
        members = bins == number
        assert f"{found.confidence[members].mean():.2f}: {found.is_correct[members].mean():.2f}" in alt


def test_reliability_has_intervals_over_groups(make_run):
    facts = read_run(make_run(num_images=40))
    assert facts.predictions.groups.tolist() == list(range(40))  # each image counts for itself
    grouped = replace(facts, predictions=replace(facts.predictions, groups=np.arange(40) // 20))
    assert reliability_diagram(facts, "r").png != reliability_diagram(grouped, "r").png


def test_the_svg_takes_the_pages_colours_and_stands_alone():
    figure = draw("name", "caption", 'a "quoted" <alt>', lambda axes: axes.plot([0, 1], [0, 1], color=_COLOURS["c0"]))
    assert "var(--c0)" in figure.svg
    assert "var(--ink)" in figure.svg
    assert not any(colour in figure.svg for colour in _COLOURS.values())
    assert 'aria-label="a &#34;quoted&#34; &lt;alt&gt;"' in figure.svg
    assert "<metadata" not in figure.svg
    assert "<style" not in figure.svg
    assert figure.png.startswith(b"\x89PNG")
    again = draw("name", "caption", "alt", lambda axes: axes.plot([0, 1], [0, 1], color=_COLOURS["c0"]))
    assert figure.svg.partition("viewBox")[2] == again.svg.partition("viewBox")[2]


@pytest.mark.parametrize("text", ["", "short", "x" * 100, "two\nlines"])
def test_shortened(text):
    assert len(shortened(text, 20)) <= 20
    assert "\n" not in shortened(text, 20)
    assert shortened(text, 200) == " ".join(text.split())
