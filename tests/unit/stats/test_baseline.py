import numpy as np
import pytest

from headstart.stats.baseline import Baseline, baseline, baseline_note, baseline_of, figure_notes, worst_class
from headstart.stats.metrics import classification_metrics


def figures(targets, predicted, labels=("cat", "dog")):
    return classification_metrics(np.eye(len(labels))[predicted], np.array(targets), list(labels))


MAJORITY = figures([0] * 95 + [1] * 5, [0] * 100)


def test_a_model_that_always_says_the_majority_is_no_success():
    assert MAJORITY["accuracy"]["value"] == 0.95
    assert str(baseline(MAJORITY)) == "always saying 'cat', the largest class, would get 0.950"
    assert str(worst_class(MAJORITY)) == "lowest recall 0.000, of 'dog' (5 images)"
    assert baseline_note(MAJORITY).startswith("the model says 'cat' for every picture")


@pytest.mark.parametrize(
    ("targets", "predicted", "note"),
    [
        ([0] * 95 + [1] * 5, [0] * 95 + [1] * 5, ""),
        ([0] * 95 + [1] * 5, [0] * 94 + [1] * 6, "not clearly better than always saying 'cat', which would get 0.950"),
        ([0] * 95 + [1] * 5, [0] * 50 + [1] * 50, "is worse than always saying 'cat', which would get 0.950"),
        ([0] * 50 + [1] * 50, [0] * 48 + [1] * 52, ""),
        ([0] * 4 + [1] * 4, [0] * 2 + [1] * 6, "not clearly better than always saying 'cat', which would get 0.500"),
        ([0, 1], [0, 1], "not clearly better"),
    ],
)
def test_a_note_says_where_nothing_shows_that_a_model_has_learnt(targets, predicted, note):
    found = baseline_note(figures(targets, predicted))
    assert note in found
    assert bool(found) == bool(note)


@pytest.mark.parametrize("predicted", [[0], [0] * 40, [0] * 39 + [1], [1] * 40])
def test_images_of_one_class_say_nothing_of_the_others(predicted):
    found = figures([0] * len(predicted), predicted)
    assert baseline_note(found) == (
        "every image is of 'cat', so the accuracy is the share of them that is found; how often the model takes other "
        "pictures for 'cat' is not measured"
    )


def test_the_worst_class_is_the_larger_of_equals_and_never_one_without_images():
    found = figures(
        [0, 1, 1, 1, 2],
        [1, 0, 0, 0, 2],
        (
            "a",
            "b",
            "c",
        ),
    )
    assert worst_class(found).label == "b"
    absent = figures([0, 0, 1], [0, 1, 1], ("a", "b", "never"))
    assert worst_class(absent).label == "a"


def test_classes_without_an_image_are_said_beside_the_figure():
    labels = ("a", "b", *(f"never {number}" for number in range(6)))
    note = "there is no image of 6 of the 8 classes that the model knows: 'never 0', 'never 1', 'never 2', 'never 3', "
    assert figure_notes(figures([0] * 50 + [1] * 50, [0] * 50 + [1] * 50, labels)) == [f"{note}'never 4' and 1 more"]
    assert figure_notes(figures([0] * 50 + [1] * 50, [0] * 50 + [1] * 50)) == []


def test_no_class_is_called_the_largest_where_all_have_equally_many():
    assert str(baseline(figures([0, 1], [0, 1]))) == "always saying 'cat' would get 0.500"


def test_even_counts_are_those_of_the_classes_that_have_images():
    assert baseline_of({"a": 2, "b": 2, "never": 0}) == Baseline("a", 0.5, is_even=True)
    assert baseline_of({"a": 1, "b": 3}) == Baseline("b", 0.75, is_even=False)
