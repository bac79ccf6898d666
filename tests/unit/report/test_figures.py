import json

import numpy as np
import pytest

from headstart.report import curves
from headstart.report.canvas import _COLOURS, draw, shortened
from headstart.report.curves import training_figures
from headstart.report.judged import reliability_diagram
from headstart.report.reading import read_run


def test_the_computed_schedule_is_what_training_recorded(real_run):
    facts = read_run(real_run)
    rows = facts.fits()["final"]
    lines = curves._schedules(facts, rows, 1, 0.0) + curves._schedules(facts, rows, 2, 2.0)
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
    assert curves._schedules(read_run(path), read_run(path).fits()["final"], 1, 0.0)
    plan = json.loads((path / "plan.json").read_text())
    plan["phases"][0]["stages"][1]["learning_rates"] = [0.02]
    (path / "plan.json").write_text(json.dumps(plan))
    facts = read_run(path)
    assert curves._schedules(facts, facts.fits()["final"], 1, 0.0) == []
    captions = [figure.caption for _, group in training_figures(facts, "run1") for figure in group]
    assert "Learning rate as recorded at the last step of each epoch." in captions


def test_phases_follow_one_another(make_run):
    path = make_run(phases=(("head", 0), ("all", 2), ("more", 3)))
    rows = read_run(path).fits()["final"]
    assert curves._starts(rows) == [(0.0, "head"), (0.0, "all"), (2.0, "more")]
    assert curves._line(rows, "", "train_loss", "").xs == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_reliability_says_accuracy_and_confidence_of_each_bin(make_run):
    facts = read_run(make_run(num_images=300))
    figure = reliability_diagram(facts, "r")
    found = facts.predictions
    alt = str(figure.svg).partition('aria-label="')[2].partition('"')[0]
    bins = np.ceil(found.confidence * 15)
    for number in np.unique(bins):
        members = bins == number
        assert f"{found.confidence[members].mean():.2f}: {found.is_correct[members].mean():.2f}" in alt


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
