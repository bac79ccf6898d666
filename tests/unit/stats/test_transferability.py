import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from headstart.stats import transferability
from headstart.stats.transferability import logme


def make(num_images, width, num_classes=3, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    targets = np.arange(num_images) % num_classes
    return spread * rng.standard_normal((num_classes, width))[targets] + rng.standard_normal(
        (num_images, width)
    ), targets


def log_evidence(y, features, alpha, beta):
    covariance = np.eye(len(y)) / beta + features @ features.T / alpha
    return multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)


def by_search(features, targets, num_classes):
    """Maximise the density of the targets themselves, from several starts."""
    total = 0.0
    for label in range(num_classes):
        y = (targets == label).astype(float)
        found = [
            minimize(lambda x, y=y: -log_evidence(y, features, *np.exp(x)), start, method="Nelder-Mead").fun
            for start in ((0.0, 0.0), (5.0, 1.0), (1.0, 5.0))
        ]
        total -= min(found)
    return total / num_classes / len(targets)


@pytest.mark.parametrize(("num_images", "width"), [(60, 8), (24, 24), (20, 50)])
def test_it_is_the_maximum_of_the_evidence(num_images, width):
    features, targets = make(num_images, width, spread=0.4)
    assert logme(features, targets, 3) == pytest.approx(by_search(features, targets, 3), abs=1e-5)


def test_features_that_say_nothing_give_the_evidence_of_noise_alone():
    features = np.random.default_rng(0).standard_normal((4000, 2))
    targets = np.arange(4000) % 2
    # y is 0 half of the time and 1 otherwise; the best noise has the variance mean(y²) = 1/2.
    assert logme(features, targets, 2) == pytest.approx(-0.5 * (np.log(2 * np.pi * 0.5) + 1), abs=2e-3)
    assert logme(np.zeros((40, 3)), np.arange(40) % 2, 2) == pytest.approx(-0.5 * (np.log(np.pi) + 1), abs=1e-9)


def test_better_separated_classes_score_higher():
    scores = [logme(*make(120, 10, spread=spread), 3) for spread in (0.0, 0.5, 1.0, 3.0)]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 0.3


@pytest.mark.parametrize(("num_images", "width"), [(90, 12), (30, 64)])
def test_scale_rotation_order_and_type_do_not_matter(num_images, width):
    features, targets = make(num_images, width)
    expected = logme(features, targets, 3)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((width, width)))[0]
    shuffled = np.random.default_rng(2).permutation(num_images)
    for other in (1e-3 * features, 1e4 * features, features @ turn):
        assert logme(other, targets, 3) == pytest.approx(expected, abs=1e-6)
    assert logme(features[shuffled], targets[shuffled], 3) == pytest.approx(expected, abs=1e-6)
    assert logme(features.astype(np.float32), targets, 3) == pytest.approx(expected, abs=1e-5)


def test_features_that_repeat_each_other_do_not_break_it():
    features, targets = make(90, 6)
    assert logme(np.hstack([features] * 4), targets, 3) == pytest.approx(logme(features, targets, 3), abs=1e-6)


def test_many_rows_are_read_in_blocks(monkeypatch):
    features, targets = make(300, 10)
    whole = logme(features, targets, 3)
    monkeypatch.setattr(transferability, "_ROWS", 7)
    assert logme(features, targets, 3) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("features", "targets", "num_classes"),
    [
        (np.ones(4), [0, 1, 0, 1], 2),
        (np.ones((4, 2)), [0, 1], 2),
        (np.ones((4, 2)), [0, 1, 0, 2], 2),
        (np.ones((4, 2)), [0, 0, 0, 0], 1),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], 2),
    ],
)
def test_what_does_not_fit_is_refused(features, targets, num_classes):
    with pytest.raises(ValueError, match="features"):
        logme(features, targets, num_classes)
