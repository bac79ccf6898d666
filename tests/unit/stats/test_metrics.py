import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from sklearn import metrics as sk

from headstart.stats.confusion import confusion_table
from headstart.stats.intervals import accuracy_interval, wilson_interval
from headstart.stats.metrics import LOG_LOSS_CLIP, classification_metrics, expected_calibration_error


def random_case(seed: int, num_images: int = 200, num_classes: int = 5):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.5), num_images)
    targets = rng.integers(num_classes, size=num_images)
    return probabilities, targets, [f"c{i}" for i in range(num_classes)]


# Wilson


def test_wilson_against_published_values():
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        interval = wilson_interval(successes, n)
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
        assert interval.value == successes / n


def test_wilson_at_the_borders():
    assert wilson_interval(0, 7).low == 0.0
    assert wilson_interval(7, 7).high == 1.0
    assert 0 < wilson_interval(7, 7).low < 1
    assert wilson_interval(7, 7).method == "wilson"


def test_a_higher_level_is_wider():
    assert wilson_interval(5, 10, 0.99).low < wilson_interval(5, 10, 0.9).low


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


# All metrics


def test_values_computed_by_hand():
    probabilities = [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875], [0.75, 0.25]]
    result = classification_metrics(probabilities, [0, 0, 1, 1], ["ant", "bee"])
    assert result["confusion"] == {"ant": {"ant": 2}, "bee": {"ant": 1, "bee": 1}}  # a tie goes to the first class
    assert result["num_images"] == 4
    assert result["accuracy"]["value"] == 0.75
    assert result["balanced_accuracy"] == 0.75
    assert result["per_class"]["ant"] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "num_images": 2}
    assert result["per_class"]["bee"] == {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "num_images": 2}
    assert result["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert result["log_loss"] == pytest.approx(-math.log(0.75 * 0.5 * 0.875 * 0.25) / 4)
    # Bins of confidence: 0.5 (right), 0.75 (one right, one wrong), 0.875 (right).
    assert result["ece"] == pytest.approx((0.5 + 2 * 0.25 + 0.125) / 4)


@pytest.mark.parametrize("seed", range(3))
def test_values_agree_with_scikit_learn(seed):
    probabilities, targets, labels = random_case(seed)
    result = classification_metrics(probabilities, targets, labels)
    predicted = probabilities.argmax(1)
    assert result["accuracy"]["value"] == pytest.approx(sk.accuracy_score(targets, predicted))
    assert result["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
    assert result["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert result["log_loss"] == pytest.approx(sk.log_loss(targets, probabilities))
    found = confusion_table(result["confusion"], labels)
    np.testing.assert_array_equal(found, sk.confusion_matrix(targets, predicted))
    columns = sk.precision_recall_fscore_support(targets, predicted)
    for label, *expected in zip(labels, *columns, strict=True):
        assert list(result["per_class"][label].values()) == pytest.approx(expected)


def test_a_class_without_images_is_none_and_averages_agree_with_scikit_learn():
    probabilities, targets, labels = random_case(0)
    targets = targets % 3  # classes 3 and 4 have no image, but are predicted
    result = classification_metrics(probabilities, targets, [*labels])
    predicted = probabilities.argmax(1)
    assert result["per_class"]["c4"]["recall"] is None
    assert result["per_class"]["c4"]["num_images"] == 0
    assert result["per_class"]["c4"]["precision"] == 0.0
    assert result["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    with pytest.warns(UserWarning, match="y_pred"):
        assert result["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, predicted))


def test_a_class_neither_there_nor_predicted_is_all_none():
    result = classification_metrics([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 1], ["a", "b", "never"])
    assert result["per_class"]["never"] == {"precision": None, "recall": None, "f1": None, "num_images": 0}
    assert result["macro_f1"] == result["balanced_accuracy"] == result["accuracy"]["value"] == 1.0
    assert result["log_loss"] == 0.0
    assert math.copysign(1, result["log_loss"]) == 1


def test_a_certain_mistake_costs_the_clip_and_not_infinity():
    result = classification_metrics([[1.0, 0.0]], [1], ["a", "b"])
    assert result["log_loss"] == pytest.approx(-math.log(LOG_LOSS_CLIP))
    assert result["ece"] == 1.0


def test_the_result_is_plain_json():
    result = classification_metrics(*random_case(1))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_ece_of_a_calibrated_model_is_small_and_of_a_boaster_large():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    targets = (rng.uniform(size=20_000) > confidence).astype(int)  # class 0 with probability `confidence`
    honest = np.stack([confidence, 1 - confidence], 1)
    boasting = np.tile([0.999, 0.001], (20_000, 1))
    assert expected_calibration_error(honest, targets) < 0.02
    assert expected_calibration_error(boasting, targets) == pytest.approx(0.25, abs=0.02)


def test_ece_bins_are_closed_on_the_right():
    # 0.6 = 9/15 belongs to the bin (8/15, 9/15], with 0.55 and not with 0.65.
    p = np.array([[0.6, 0.4], [0.55, 0.45], [0.65, 0.35]])
    assert expected_calibration_error(p, np.array([0, 1, 1])) == pytest.approx((abs(1 - 0.6 - 0.55) + 0.65) / 3)


@pytest.mark.parametrize(
    ("probabilities", "targets"),
    [
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.5]], [-1]),
        ([[0.5, 0.5]], [0, 1]),
        ([[0.5, 0.5]], [0.0]),
        ([[0.5, 0.3, 0.2]], [0]),
        ([[0.9, 0.9]], [0]),
        ([[1.5, -0.5]], [0]),
        ([[math.nan, 1.0]], [0]),
        (np.zeros((0, 2)), np.zeros(0, int)),
    ],
)
def test_what_is_no_result_is_refused(probabilities, targets):
    with pytest.raises(ValueError, match=r"expected|targets|row"):
        classification_metrics(probabilities, targets, ["a", "b"])


def test_images_in_groups_count_by_group():
    """Twenty patients with ten pictures each, right or wrong as a whole, tell as much as twenty pictures do."""
    right = np.repeat(np.arange(20) < 16, 10)
    groups = np.repeat(np.arange(20), 10)
    targets = np.tile([0, 1], 100)
    predicted = np.where(right, targets, 1 - targets)
    found = classification_metrics(np.eye(2)[predicted], targets, ["ant", "bee"], groups)
    alone = classification_metrics(np.eye(2)[predicted], targets, ["ant", "bee"])
    one_of_each = wilson_interval(16, 20)
    assert found["num_groups"] == 20
    assert "num_groups" not in alone
    assert found["accuracy"] == asdict(accuracy_interval(right, groups))
    assert found["accuracy"]["method"].startswith("bootstrap over 200 images in 20 groups")
    width = found["accuracy"]["high"] - found["accuracy"]["low"]
    assert width == pytest.approx(one_of_each.high - one_of_each.low, rel=0.15)
    assert width > 2.5 * (alone["accuracy"]["high"] - alone["accuracy"]["low"])
    for row in found["per_class"].values():
        assert row["recall_low"] < 0.65 < 0.9 < row["recall_high"]
    assert "recall_low" not in alone["per_class"]["ant"]


def test_groups_of_one_image_are_no_groups():
    case = random_case(1)
    assert classification_metrics(*case, np.arange(len(case[1]))) == classification_metrics(*case)
