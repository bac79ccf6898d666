from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from headstart.errors import TrainingError
from headstart.training import solve
from headstart.training.solve import solve_head

LABELS = [*"abcdefghij"]


@dataclass(frozen=True)
class Views:
    """Features (V, N, F) in memory."""

    values: np.ndarray

    @property
    def num_views(self):
        return self.values.shape[0]

    @property
    def num_images(self):
        return self.values.shape[1]

    @property
    def width(self):
        return self.values.shape[2]

    @property
    def keys(self):
        return [f"/d/{image}.jpg" for image in range(self.num_images)]

    def view(self, view, images):
        return self.values[view, images]


def make(num_images, num_classes, *, views=2, width=12, spread=1.0, seed=0):
    """Draw overlapping classes with features of very different means and scales."""
    rng = np.random.default_rng(seed)
    targets = np.arange(num_images) % num_classes
    centres = spread * rng.standard_normal((num_classes, width))
    images = centres[targets] + rng.standard_normal((num_images, width))
    values = images + 0.5 * rng.standard_normal((views, num_images, width))
    return ((values + np.linspace(-5, 5, width)) * np.logspace(-2, 2, width)).astype(np.float32), targets


def rows_of(values, targets):
    """Return what the solver should see: all rows standardised, and their targets; in float64."""
    rows = values.reshape(-1, values.shape[2]).astype(np.float64)
    return (rows - rows.mean(axis=0)) / rows.std(axis=0), np.tile(targets, len(values))


def probabilities_of(head, values):
    logits = values.reshape(-1, values.shape[2]).astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias
    logits -= logits.max(axis=1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("width", [12, 300])
def test_the_head_is_the_optimum_that_scikit_learn_finds(num_classes, width):
    values, targets = make(90, num_classes, width=width, spread=1.2 / np.sqrt(width))
    head = solve_head(Views(values), targets, LABELS[:num_classes])
    rows, row_targets = rows_of(values, targets)
    # scikit-learn minimises C * sum of losses + |W|²/2. Two classes it solves with w = W[1] - W[0], |W|² = |w|²/2.
    inverse = (2 if num_classes == 2 else 1) / (head.strength * len(rows))
    peer = LogisticRegression(C=inverse, tol=1e-10, max_iter=10_000).fit(rows, row_targets)
    assert np.abs(probabilities_of(head, values) - peer.predict_proba(rows)).max() < 1e-4


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_gradient_vanishes_and_the_figures_are_those_of_the_raw_features(num_classes):
    values, targets = make(80, num_classes, spread=0.5)
    head = solve_head(Views(values), targets, LABELS[:num_classes])
    rows, row_targets = rows_of(values, targets)
    probabilities = probabilities_of(head, values)
    residuals = (probabilities - np.eye(num_classes)[row_targets]) / len(rows)
    weight = head.weight * values.reshape(-1, values.shape[2]).astype(np.float64).std(axis=0)
    gradient = residuals.T @ rows + head.strength * weight
    assert np.linalg.norm(gradient) < 2e-4 * head.strength * np.linalg.norm(weight) + 5e-6
    assert np.abs(residuals.sum(axis=0)).max() < 3e-5
    log_loss = -np.log(probabilities[np.arange(len(rows)), row_targets]).mean()
    assert head.train_loss == pytest.approx(log_loss, rel=1e-4)
    assert head.train_accuracy == (probabilities.argmax(axis=1) == row_targets).mean()


def test_scales_and_offsets_of_features_do_not_matter():
    values, targets = make(60, 3)
    rows, _ = rows_of(values, targets)
    plain = solve_head(Views(rows.reshape(values.shape).astype(np.float32)), targets, LABELS[:3])
    moved = solve_head(Views(values), targets, LABELS[:3])
    assert moved.strength == plain.strength
    std = values.reshape(-1, values.shape[2]).astype(np.float64).std(axis=0)
    assert np.allclose(moved.weight * std, plain.weight, atol=1e-4)
    assert np.allclose(probabilities_of(moved, values), probabilities_of(plain, rows[None]), atol=1e-4)


def test_two_classes_have_opposite_rows():
    values, targets = make(40, 2)
    head = solve_head(Views(values), targets, LABELS[:2])
    assert np.allclose(head.weight[0], -head.weight[1], rtol=1e-6, atol=0)


def test_the_strength_is_the_strongest_that_held_out_images_cannot_tell_from_the_best():
    values, targets = make(120, 3, spread=0.4)
    head = solve_head(Views(values), targets, LABELS[:3])
    limit = min(head.losses.values()) + head.standard_error
    assert head.losses[head.strength] <= limit
    stronger = [loss for strength, loss in head.losses.items() if strength > head.strength]
    assert stronger
    assert min(stronger) > limit
    assert min(head.losses) < min(head.losses, key=head.losses.get) <= head.strength


def test_the_standard_error_counts_images_and_groups_not_their_rows():
    values, targets = make(60, 2, spread=0.4)
    once = solve_head(Views(values[:1]), targets, LABELS[:2])
    views = solve_head(Views(np.repeat(values[:1], 4, axis=0)), targets, LABELS[:2])
    assert once.standard_error > 0
    assert views.standard_error == pytest.approx(once.standard_error, rel=0.02)


def test_views_of_an_image_are_held_out_together():
    # The classes are drawn by lot, so nothing can be learnt but the images by heart: leaking views would reward that.
    rng = np.random.default_rng(0)
    images = rng.standard_normal((60, 200))
    values = (images + 0.1 * rng.standard_normal((4, 60, 200))).astype(np.float32)
    head = solve_head(Views(values), np.arange(60) % 2, LABELS[:2])
    assert head.strength >= 10
    assert head.losses[head.strength] > 0.6


def test_images_of_a_group_are_held_out_together():
    rng = np.random.default_rng(0)
    group_of = np.repeat(np.arange(40), 4)
    values = (rng.standard_normal((40, 200))[group_of] + 0.1 * rng.standard_normal((1, 160, 200))).astype(np.float32)
    targets = rng.permutation(np.arange(40) % 2)[group_of]
    alone = solve_head(Views(values), targets, LABELS[:2])
    grouped = solve_head(Views(values), targets, LABELS[:2], groups=[f"group {number}" for number in group_of])
    assert alone.strength < 1
    assert min(alone.losses.values()) < 0.3
    assert grouped.strength >= 10
    assert min(grouped.losses.values()) > 0.6


@pytest.mark.parametrize("num_groups", [None, 3, 7, 30])
@pytest.mark.parametrize("counts", [(1, 1), (2, 2), (1, 9), (2, 30), (1, 1, 20), (3, 4, 5), (20, 20), (40, 3, 1, 2)])
def test_folds_keep_groups_together_and_every_class_in_training(counts, num_groups):
    targets = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(1)
    groups = None if num_groups is None else [str(n) for n in rng.integers(0, num_groups, len(targets))]
    folds = solve._folds(targets, groups, seed=0)
    for fold in range(folds.max() + 1):
        assert set(targets[folds != fold]) == set(targets)
    if groups is not None:
        assert all(len({f for f, g in zip(folds, groups, strict=True) if g == group}) == 1 for group in groups)
    held_out = set(targets[folds >= 0])
    assert len(held_out) != 1
    if num_groups is None and sum(count > 1 for count in counts) > 1:
        assert held_out == {label for label, count in enumerate(counts) if count > 1}


def test_folds_are_stratified_and_follow_the_seed():
    targets = np.repeat([0, 1, 2], [50, 20, 13])
    folds = solve._folds(targets, None, seed=0)
    for label in range(3):
        sizes = np.bincount(folds[targets == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert (folds == solve._folds(targets, None, seed=0)).all()
    assert (folds != solve._folds(targets, None, seed=1)).any()


@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 2), (1, 12), (3, 3, 1), (1, 1, 1)])
def test_few_images_are_enough(counts):
    targets = np.repeat(np.arange(len(counts)), counts)
    values = np.random.default_rng(0).standard_normal((3, len(targets), 20)) + 3 * targets[:, None]
    head = solve_head(Views(values.astype(np.float32)), targets, LABELS[: len(counts)])
    assert np.isfinite(head.weight).all()
    assert np.isfinite(head.bias).all()
    assert head.train_accuracy > 0.9
    if sum(count > 1 for count in counts) < 2:
        assert (head.losses, head.strength) == ({}, 0.1)


def test_blocks_read_again_give_what_features_in_memory_give(monkeypatch):
    values, targets = make(50, 3, views=3)
    whole = solve_head(Views(values), targets, LABELS[:3])
    monkeypatch.setattr(solve, "_BLOCK_BYTES", 3000)  # 11 rows: blocks cross from one view into the next
    held = solve_head(Views(values), targets, LABELS[:3])
    monkeypatch.setattr(solve, "_MEMORY_BYTES", 0)
    streamed = solve_head(Views(values), targets, LABELS[:3])
    assert (streamed.weight == held.weight).all()
    assert (streamed.bias == held.bias).all()
    assert streamed.losses == held.losses
    assert streamed.strength == whole.strength
    assert np.allclose(probabilities_of(streamed, values), probabilities_of(whole, values), atol=1e-4)


def test_streaming_holds_no_more_than_a_block(monkeypatch):
    monkeypatch.setattr(solve, "_BLOCK_BYTES", 3000)
    monkeypatch.setattr(solve, "_MEMORY_BYTES", 0)
    values, targets = make(50, 2, views=2)
    most = 0

    class Watched(Views):
        def view(self, view, images):
            nonlocal most
            most = max(most, len(images))
            return super().view(view, images)

    solve_head(Watched(values), targets, LABELS[:2])
    assert most < 25


def test_equal_inputs_give_equal_bits():
    values, targets = make(70, 3, width=64)
    first, second = (solve_head(Views(values), targets, LABELS[:3], seed=4) for _ in range(2))
    assert first.weight.tobytes() == second.weight.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()
    assert first.losses == second.losses


def test_the_features_are_not_written_to():
    values, targets = make(30, 2)
    before = values.copy()
    solve_head(Views(values), targets, LABELS[:2])
    assert (values == before).all()


def test_constant_features_get_no_weight():
    values, targets = make(60, 2)
    without = solve_head(Views(values), targets, LABELS[:2])
    constant = np.stack([np.zeros(values.shape[:2]), np.full(values.shape[:2], 1e4)], axis=2).astype(np.float32)
    constant[0, 0, 1] += 0.001  # the rounding of float32
    head = solve_head(Views(np.concatenate([values, constant], axis=2)), targets, LABELS[:2])
    assert (head.weight[:, -2:] == 0).all()
    assert np.allclose(head.weight[:, :-2], without.weight, atol=1e-4)


def test_features_that_say_nothing_leave_the_shares_of_the_classes():
    targets = np.repeat([0, 1], [10, 30])
    head = solve_head(Views(np.ones((2, 40, 5), dtype=np.float32)), targets, LABELS[:2])
    assert (head.weight == 0).all()
    assert np.allclose(probabilities_of(head, np.ones((1, 1, 5))), [[0.25, 0.75]], atol=1e-4)


def test_classes_apart_end_the_walk_before_the_weakest_strength():
    values, targets = make(60, 2, spread=20.0)
    head = solve_head(Views(values), targets, LABELS[:2])
    assert head.train_accuracy == 1
    assert 1e-6 < min(head.losses) < head.strength < 1


def test_noise_extends_the_walk_to_strong_strengths():
    values = np.random.default_rng(0).standard_normal((1, 80, 50)).astype(np.float32)
    head = solve_head(Views(values), np.arange(80) % 2, LABELS[:2])
    assert 10 < head.strength <= 1000


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("image", [0, 7])
def test_features_that_are_not_finite_are_refused(wrong, image):
    values, targets = make(20, 2)
    values[1, image, 3] = wrong
    with pytest.raises(TrainingError, match=f"the features of /d/{image}.jpg are not finite") as error:
        solve_head(Views(values), targets, LABELS[:2])
    assert "\n" not in str(error.value)


def test_a_class_without_images_is_refused():
    values, targets = make(20, 2)
    with pytest.raises(TrainingError, match="class 'c' has no image"):
        solve_head(Views(values), targets, LABELS[:3])


def test_a_small_data_set_takes_few_evaluations(monkeypatch):
    """Of all folds at once; 0.2 s on an idle core."""
    values, targets = make(250, 2, views=4, width=1280, spread=0.1)
    evaluations, objective = [], solve._Problem.objective
    monkeypatch.setattr(solve._Problem, "objective", lambda *given: evaluations.append(1) or objective(*given))
    solve_head(Views(values), targets, LABELS[:2])
    assert 10 < len(evaluations) < 150


def test_a_search_that_ends_before_the_optimum_says_so(monkeypatch):
    """It was called solved to its optimum also where it had run out of evaluations."""
    values, targets = make(200, 3)
    whole = solve_head(Views(values), targets, LABELS[:3])
    assert whole.is_optimal
    assert whole.distance < 1e-3
    monkeypatch.setattr(solve, "_MAX_EVALUATIONS", 2)
    cut = solve_head(Views(values), targets, LABELS[:3])
    assert not cut.is_optimal
    gap = np.linalg.norm(cut.weight - whole.weight) / np.linalg.norm(whole.weight)
    assert gap > 2e-3
