import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from headstart import tables
from headstart.data.manifest import Manifest
from headstart.stats.metrics import classification_metrics
from headstart.tables import print_metrics, print_plan
from headstart.training.plan_table import PhaseTable


def metrics(num_classes: int = 3, **more: object) -> dict[str, object]:
    labels = ["[b]ant[/b]", *(f"class {number}" for number in range(1, num_classes))]
    probabilities = np.eye(num_classes)[[0, 1, 0]]
    found = classification_metrics(probabilities, [0, 1, 1], labels)
    return {"split": "test", "selected_on_reported": False, **found, **more}


def test_the_accuracy_stands_beside_its_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics(metrics(), brief=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "accuracy 0.667 (95% interval 0.208 to 0.939) on 3 test images"
    assert lines[1] == (
        "always saying 'class 1', the largest class, would get 0.667; balanced accuracy 0.750; "
        "lowest recall 0.500, of 'class 1' (2 images)"
    )
    better = "on these images the model is not clearly better than always saying 'class 1', which would get 0.667"
    assert lines[2] == f"note: {better}"
    assert lines[3] == "note: there is no image of 1 of the 3 classes that the model knows: 'class 2'"
    print_metrics(metrics(selected_on_reported=True), brief=True)
    marked = capsys.readouterr().out.splitlines()[0]
    assert marked.endswith("images; optimistic, because these images also selected the model")


def test_control_characters_of_classes_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["a\x1b[2J", "b\nc"]
    found = classification_metrics(np.eye(2), [0, 1], labels)
    print_metrics({"split": "test", "selected_on_reported": False, **found})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    rows = [line.split()[:2] for line in shown.splitlines() if line]
    assert ["a\\u001b[2J", "1"] in rows
    assert ["b\\nc", "1"] in rows


@pytest.mark.parametrize(
    ("length", "words"),
    [
        ({"epochs": 1}, "1 epoch, trains"),
        ({"epochs": 5}, "5 epochs, trains"),
        ({"epochs": 5, "solver": "lbfgs"}, "solved to its optimum, trains"),
    ],
)
def test_a_plan_says_how_long_a_phase_is(
    length: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    phase = PhaseTable(name="head", batch_norm="fixed", boundary="after stem", parameters=10, trainable=2, **length)
    print_plan("head", [phase], Manifest("pets", ("cat", "dog"), ()))
    assert f"phase 1 of 1: head, {words} 2 / 10 (20.00 %)" in capsys.readouterr().out


def test_the_other_figures_are_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics(metrics())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[4][:3] == ["macro", "f1", "0.667,"]
    assert ["class", "images", "precision", "recall", "f1"] in lines
    assert ["[b]ant[/b]", "1", "0.500", "1.000", "0.667"] in lines
    assert ["class", "2", "0", "-", "-", "-"] in lines
    assert ["class", "1", "1", "1", "0"] in lines  # the row of the confusion matrix


def test_a_confusion_matrix_that_fits_no_terminal_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    for num_classes in (12, 13):
        print_metrics(metrics(num_classes))
        assert ("confusion" in capsys.readouterr().out) == (num_classes == 12)


@pytest.mark.parametrize("width", [140, 80, 40, 20])
def test_no_number_is_split_or_cut_however_narrow_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    table = tables._make_table("", "images", "precision", "parameters")
    table.add_row("1. a rather long name of a row", "1,234", "0.987", "11,177,538")
    table.add_row("2. another", "", "0.123", "3,373,570")
    tables._print_table(console, table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.findall(r"[\d,.]+\d", printed) == ["1,234", "0.987", "11,177,538", "0.123", "3,373,570"]
    assert "…" not in printed
    if width >= 80:
        assert all(len(line) <= width for line in printed.splitlines())
    else:
        assert "  parameters: 3,373,570\n" in printed
