import numpy as np

from headstart.files import dump_json
from headstart.stats.confusion import confusion_table, count_pairs, read_confusion
from headstart.stats.metrics import classification_metrics


def test_a_thousand_classes_make_a_small_file():
    labels = [f"class {number}" for number in range(1000)]
    targets = np.arange(2000) % 1000
    probabilities = np.full((2000, 1000), 0.4 / 999)
    probabilities[np.arange(2000), (targets + np.arange(2000) % 7) % 1000] = 0.6
    figures = classification_metrics(probabilities, targets, labels)
    assert sum(map(len, figures["confusion"].values())) <= 2000  # one pair per image at most, not a million
    assert len(dump_json(figures)) < 500_000  # the matrix alone was 9 MB


def test_only_pairs_that_occur_are_held():
    found = count_pairs(np.array([0, 0, 2, 2, 2]), np.array([0, 2, 2, 2, 0]), ["a", "never", "c"])
    assert found == {"a": {"a": 1, "c": 1}, "c": {"a": 1, "c": 2}}
    expected = [[1, 0, 1], [0, 0, 0], [1, 0, 2]]
    assert confusion_table(found, ["a", "never", "c"]).tolist() == expected


def test_the_matrix_of_an_old_run_is_read_as_pairs():
    new = classification_metrics(np.eye(3)[[0, 2, 2, 0]], [0, 0, 2, 2], ["a", "never", "c"])
    old = {**new, "confusion": [[1, 0, 1], [0, 0, 0], [1, 0, 1]]}
    assert read_confusion(old) == read_confusion(new) == new["confusion"]
