import numpy as np
import pytest
from scipy.special import logsumexp

from headstart.models.source_head.rest_row import fit_rest_row
from tests.helpers.features import FeatureBlocks


@pytest.fixture
def blocks():
    rng = np.random.default_rng(0)
    rows = rng.gamma(1.0, size=(2, 150, 12)) @ rng.normal(size=(12, 12))
    rows[..., 5] = 3.0  # a feature that never changes
    return FeatureBlocks(rows)


def rest(num_classes, spread=0.5):
    rng = np.random.default_rng(1)
    return rng.normal(size=(num_classes, 12), scale=spread).astype(np.float32), np.arange(num_classes, dtype=np.float32)


def test_one_other_class_is_its_own_row(blocks):
    weight, bias = rest(1)
    w, b = fit_rest_row(blocks, weight, bias)
    found, expected = blocks.rows @ w + b, blocks.rows @ weight[0] + bias[0]
    assert np.allclose(found, expected, atol=0.15)
    assert np.std(found - expected) < 0.05 < 1 < np.std(expected)


def test_the_same_class_k_times_adds_the_logarithm_of_k(blocks):
    weight, bias = rest(1)
    w, b = fit_rest_row(blocks, np.repeat(weight, 7, axis=0), np.repeat(bias, 7))
    expected = blocks.rows @ weight[0] + bias[0] + np.log(7)
    assert np.allclose(blocks.rows @ w + b, expected, atol=0.15)


def test_it_is_the_ridge_regression_whose_strength_does_best_on_images_left_out(blocks):
    weight, bias = rest(20)
    found, found_bias = fit_rest_row(blocks, weight, bias)
    table = blocks.rows.reshape(-1, 12).astype(np.float64)
    target = logsumexp(table @ weight.T + bias, axis=1)
    order = np.argsort(np.argsort(np.array(blocks.groups)))  # of the groups' names
    held = np.tile(order % 5 == 4, 2)

    def fit(chosen, strength):
        mean, std = table[chosen].mean(axis=0), table[chosen].std(axis=0)
        scaled = (table[chosen] - mean) / np.where(std < 1e-6, np.inf, std)
        system = np.vstack([scaled, np.sqrt(strength * len(scaled)) * np.eye(12)])
        w = np.linalg.lstsq(system, np.append(target[chosen] - target[chosen].mean(), np.zeros(12)), rcond=None)[0]
        w = w / np.where(std < 1e-6, np.inf, std)
        return w, target[chosen].mean() - mean @ w

    def error(chosen, w, b):
        return np.sqrt(np.mean((table[chosen] @ w + b - target[chosen]) ** 2))

    strengths = [10 ** (n / 2) for n in range(-6, 7)]
    errors = [error(held, *fit(~held, strength)) for strength in strengths]
    w, b = fit(held | ~held, strengths[int(np.argmin(errors))])
    assert np.allclose(found, w, atol=1e-5)
    assert found_bias == pytest.approx(b, abs=1e-4)
    assert min(errors) < 0.7 * target.std()  # it is worth something


def test_of_one_group_nothing_can_be_left_out(blocks):
    weight, bias = rest(20)
    blocks.groups = ["same"] * blocks.num_images
    w, b = fit_rest_row(blocks, weight, bias)
    target = logsumexp(blocks.rows @ weight.T + bias, axis=-1)
    assert np.std(blocks.rows @ w + b - target) < np.std(target)
