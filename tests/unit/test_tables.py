import numpy as np
import pytest

from headstart.stats.metrics import classification_metrics
from headstart.tables import print_metrics


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
