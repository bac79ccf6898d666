"""The linear head on frozen features, solved to its optimum, with the strength of its penalty cross-validated."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headstart.data.sources import shown
from headstart.errors import TrainingError
from headstart.features.batches import Features

# Strengths are 10^(n/2). From the start the walk goes down while the loss falls, and up where the start was best.
_START = 1
_WEAKEST = -12
_STRONGEST = 6
_NUM_FOLDS = 5
_TIE = 1e-3  # nats; a loss that falls by no more has come to rest: on data that a plane can part it falls for ever
_WITHOUT_FOLDS = 0.1  # the best of ants/bees, hot dog and CIFAR-10 (100 images a class) with EfficientNet-Lite0

# |gradient| <= relative * strength * |W| + absolute. The curvature is at least the strength, so W is then about that
# relative distance from the optimum, or closer. A hundredth moves a held-out loss by less than 1 %.
_TOLERANCE_FOLDS = 1e-2
_TOLERANCE_FINAL = 3e-5
_TOLERANCE_ABSOLUTE = 1e-6
_MAX_EVALUATIONS = 500
_PAIRS_BYTES = 2**28  # with very many classes, L-BFGS remembers fewer steps
_MEMORY_BYTES = 2**28  # of features that are held; more than that are read again for every evaluation
_BLOCK_BYTES = 2**24  # reading again needs it a few times over; blocks a sixteenth of it take twice the time


@dataclass(frozen=True)
class SolvedHead:
    """A linear head for raw features: logits = features @ weight.T + bias.

    Attributes:
        weight: (C, F).
        bias: (C,).
        strength: Chosen strength of the penalty.
        losses: Strength -> mean log loss of held-out rows, in nats; empty where there was too little to hold out.
        accuracies: Strength -> accuracy of held-out rows.
        standard_error: Standard error of the lowest loss, in nats; None where there was too little to hold out.
        train_loss: Mean log loss of all rows, without the penalty.
        train_accuracy: Accuracy on all rows.
        distance: About how far W is from the optimum, relative to |W|: |gradient| / (strength * |W|), or less.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    strength: float
    losses: dict[float, float]
    accuracies: dict[float, float]
    standard_error: float | None
    train_loss: float
    train_accuracy: float
    distance: float

    @property
    def is_optimal(self) -> bool:
        """Whether the search ended at the optimum: so close that held-out losses differ by less than 1 %."""
        return self.distance <= _TOLERANCE_FOLDS


def solve_head(
    features: Features,
    targets: npt.NDArray[np.int64],
    labels: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> SolvedHead:
    """Solve L2-regularised multinomial logistic regression on all views of all images.

    With x = (features - mean) / std over all rows, it minimises mean(-ln softmax(W x + b)[target]) + strength/2 |W|²;
    b is free. With two classes that is the binary problem in w = W[1] - W[0] with strength/4 |w|². The strength is the
    strongest whose log loss on held-out images, all views together, is within one standard error of the lowest
    (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3): images cannot tell it from the best, and
    it is less sure of itself (docs/decisions/0015). The path starts strong, each solution is the next one's start
    (Friedman et al. 2010, doi:10.18637/jss.v033.i01). At the end weight = W / std and bias = b - W (mean / std), which
    gives the same logits from raw features.

    Args:
        features: N images, V views, width F.
        targets: (N,), indices of the true classes.
        labels: (C,), the names of the classes.
        groups: (N,), what each image belongs to; a group is held out as a whole. None: every image by itself.
        seed: Seed of the folds.

    Raises:
        TrainingError: A feature is not finite, or a class has no image.
    """
    counts = np.bincount(targets, minlength=len(labels))
    if not counts.all():
        empty = labels[int(counts.argmin())]
        raise TrainingError(f"class {empty!r} has no image in train; add images of it, or remove the class")

    # One problem per fold, and the last one on all rows.
    folds = np.tile(_folds(targets, groups, seed), features.num_views)
    trains = folds != np.arange(folds.max() + 2)[:, None]
    rows = _Rows(features, len(trains) * len(labels))
    row_targets = np.tile(targets, features.num_views)
    start = torch.zeros(len(trains), len(labels), features.width + 1)
    start[..., -1] = torch.from_numpy(np.log(counts) - np.log(counts).mean())
    strength = _WITHOUT_FOLDS
    parameters = start
    validated = _Validated({}, {}, None)
    if len(trains) > 1:
        units = np.tile(_group_numbers(groups, len(targets)), features.num_views)
        strength, parameters, validated = _cross_validate(_Problem(rows, row_targets, trains), units, start)

    problem = _Problem(rows, row_targets, trains[-1:])
    parameters = _minimise(problem, parameters, strength, _TOLERANCE_FINAL)
    distance = _distance_to_optimum(problem, parameters, strength)
    train_losses, train_hits = problem.score(parameters, problem.trains)

    head = parameters[0].double().numpy()
    head -= head.mean(axis=0)  # 0 at the optimum, and of no effect: only rounding shows there
    weight = head[:, :-1] * rows.scale
    bias = (head[:, -1] - weight @ rows.mean).astype(np.float32)
    return SolvedHead(
        weight.astype(np.float32),
        bias,
        strength,
        validated.losses,
        validated.accuracies,
        validated.standard_error,
        float(train_losses.mean()),
        float(train_hits.mean()),
        distance,
    )


def _distance_to_optimum(problem: "_Problem", parameters: Tensor, strength: float) -> float:
    """Return about how far W is from the optimum, relative to |W|; the search may have ended at another limit."""
    gradient = problem.objective(parameters, strength)[1]
    excess = max(float(gradient.norm()) - _TOLERANCE_ABSOLUTE, 0.0)
    scale = strength * float(parameters[..., :-1].norm())
    if not scale:
        return 0.0 if not excess else float("inf")
    return excess / scale


def _group_numbers(groups: Sequence[str] | None, num_images: int) -> npt.NDArray[np.int64]:
    """Return a number for the group of each image, (N,); every image is one where there are no groups."""
    if groups is None:
        return np.arange(num_images)
    numbers: npt.NDArray[np.int64] = np.unique(list(groups), return_inverse=True)[1]
    return numbers


def _folds(targets: npt.NDArray[np.int64], groups: Sequence[str] | None, seed: int) -> npt.NDArray[np.int64]:
    """Return the fold of each image, (N,): stratified, groups kept together; -1 for what is never held out.

    Groups, ordered by the class of their first image and at random within it, are dealt out like cards. Where that puts
    a class into a single fold, its groups stay in training, which would lack the class otherwise. Where then fewer than
    two classes can be held out, nothing is.
    """
    group_of = _group_numbers(groups, len(targets))
    _, first = np.unique(group_of, return_index=True)
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), targets[first]))
    dealt = np.empty(len(first), dtype=np.int64)
    dealt[order] = np.arange(len(first)) % min(_NUM_FOLDS, len(first))
    folds: npt.NDArray[np.int64] = dealt[group_of]
    for label in np.unique(targets):
        if len(np.unique(folds[targets == label])) == 1:
            folds[np.isin(group_of, group_of[targets == label])] = -1
    if len(np.unique(targets[folds >= 0])) < 2:
        return np.full_like(folds, -1)
    return folds


class _Rows:
    """All N * V rows, view after view, standardised, as blocks (R, F + 1) with a last column of ones for the bias.

    Mean and std are of all rows, in the folds too: they know nothing of the classes.
    """

    def __init__(self, features: Features, num_logits: int) -> None:
        self._features = features
        self.num_rows = features.num_images * features.num_views
        size = max(1, _BLOCK_BYTES // (4 * (features.width + 3 * num_logits)))
        self._spans = [(start, min(start + size, self.num_rows)) for start in range(0, self.num_rows, size)]
        self._held: list[npt.NDArray[np.float32]] = []
        shift = features.view(0, np.zeros(1, dtype=np.int64))[0]  # squares of large values would hide a small spread
        total = np.zeros(features.width)
        squares = np.zeros(features.width)
        for span in self._spans:
            block = self._read(*span)
            with np.errstate(over="ignore", invalid="ignore"):
                shifted = block[:, :-1] - shift
                total += shifted.sum(axis=0, dtype=np.float64)
                squares += np.square(shifted, out=shifted).sum(axis=0, dtype=np.float64)
            if not np.isfinite(squares).all():
                image = (span[0] + int(np.isfinite(block).all(axis=1).argmin())) % features.num_images
                path = shown(features.keys[image])
                raise TrainingError(f"the features of {path} are not finite; use --precision 32, or check the weights")
            if self.num_rows * features.width * 4 <= _MEMORY_BYTES:
                self._held.append(block)
        self.mean = (shift + total / self.num_rows).astype(np.float32)
        std = np.sqrt(np.maximum(squares / self.num_rows - (total / self.num_rows) ** 2, 0))
        is_constant = std <= 1e-6 * np.abs(self.mean)  # no more than the rounding of float32
        self.scale = np.where(is_constant, 0, 1 / np.where(is_constant, 1, std)).astype(np.float32)
        for block in self._held:
            self._standardise(block)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for number, span in enumerate(self._spans):
            block = self._held[number] if self._held else self._standardise(self._read(*span))
            yield slice(*span), torch.from_numpy(block)

    def _read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        block = np.ones((stop - start, self._features.width + 1), dtype=np.float32)
        for view in range(self._features.num_views):
            offset = view * self._features.num_images
            first = max(start, offset)
            end = min(stop, offset + self._features.num_images)
            if first < end:
                images = np.arange(first, end) - offset
                block[first - start : end - start, :-1] = self._features.view(view, images)
        return block

    def _standardise(self, block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        block[:, :-1] -= self.mean
        block[:, :-1] *= self.scale
        return block


class _Problem:
    """K problems on the same rows, side by side, each with rows of its own to train on.

    One product of a block serves all of them, and costs hardly more than for one. Parameters are (K, C, F + 1), the
    bias last. Products are in float32, sums of losses in float64.
    """

    def __init__(self, rows: _Rows, targets: npt.NDArray[np.int64], trains: npt.NDArray[np.bool_]) -> None:
        """Take the targets (N * V,), and whether a problem trains on a row (K, N * V)."""
        self._rows = rows
        self._targets = torch.from_numpy(targets)
        self.trains = torch.from_numpy(trains)
        self._shares = 1 / self.trains.sum(dim=1, keepdim=True)

    def _log_probabilities(self, parameters: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield which rows, their block (R, F + 1), ln p (K, C, R) and the index (K, 1, R) of the true class in it."""
        for span, block in self._rows:
            logits = (parameters.flatten(0, 1) @ block.T).view(*parameters.shape[:2], -1)
            yield span, block, logits.log_softmax(dim=1), self._targets[span].expand(len(parameters), 1, -1)

    def objective(self, parameters: Tensor, strength: float) -> tuple[float, Tensor]:
        """Return the sum of the K objectives, and its gradient (K, C, F + 1)."""
        gradient = parameters * strength
        gradient[..., -1] = 0
        value = float((gradient.double() * parameters).sum()) / 2
        for span, block, logs, index in self._log_probabilities(parameters):
            shares = self.trains[:, span] * self._shares
            value -= float((logs.gather(1, index)[:, 0].double() * shares).sum())
            residuals = logs.exp_().scatter_add_(1, index, torch.tensor(-1.0).expand(index.shape)).mul_(shares[:, None])
            gradient.flatten(0, 1).addmm_(residuals.flatten(0, 1), block)
        return value, gradient

    def score(self, parameters: Tensor, counted: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the log loss and whether the answer is right, of each row that counts in a problem (K, N * V)."""
        losses = np.zeros(counted.shape[1])
        hits = np.zeros(counted.shape[1], dtype=bool)
        for span, _, logs, index in self._log_probabilities(parameters):
            counts = counted[:, span]
            losses[span] = -(logs.gather(1, index)[:, 0].double() * counts).sum(dim=0).numpy()
            hits[span] = ((logs.argmax(dim=1) == index[:, 0]) & counts).any(dim=0).numpy()
        is_scored = counted.any(dim=0).numpy()
        return losses[is_scored], hits[is_scored]


@dataclass(frozen=True)
class _Validated:
    """What held-out rows say; the attributes are those of `SolvedHead`."""

    losses: dict[float, float]
    accuracies: dict[float, float]
    standard_error: float | None


def _cross_validate(problem: _Problem, units: npt.NDArray[np.int64], start: Tensor) -> tuple[float, Tensor, _Validated]:
    """Return the chosen strength, the solution (1, C, F + 1) of all rows at it, and what held-out rows say.

    Args:
        problem: The folds, and last the problem on all rows.
        units: (N * V,), what was drawn by itself: rows of one image, or of one group, err together.
        start: (K, C, F + 1).
    """
    held_out = ~problem.trains
    held_out_units = units[held_out.any(dim=0).numpy()]
    losses: dict[int, float] = {}
    accuracies: dict[int, float] = {}
    errors: dict[int, float] = {}
    solutions: dict[int, Tensor] = {}

    def try_step(step: int, path: deque[Tensor]) -> None:
        guess = path[-1]
        if len(path) > 1:
            guess = 2 * path[-1] - path[0]  # W is about linear in ln(strength)
        path.append(_minimise(problem, guess, _strength(step), _TOLERANCE_FOLDS))
        row_losses, row_hits = problem.score(path[-1], held_out)
        losses[step] = float(row_losses.mean())
        accuracies[step] = float(row_hits.mean())
        errors[step] = _standard_error(row_losses, held_out_units)
        solutions[step] = path[-1][-1:]

    def standard_error() -> float:
        return errors[min(losses, key=losses.__getitem__)]

    def strongest_within(margin: float) -> int:
        limit = min(losses.values()) + margin
        return max(step for step, loss in losses.items() if loss <= limit)

    first = deque([start], maxlen=1)
    try_step(_START, first)
    weaker = deque(first, maxlen=2)
    for step in range(_START - 1, _WEAKEST - 1, -1):
        try_step(step, weaker)
        if step <= strongest_within(_TIE) - 2:
            break
    stronger = deque(first, maxlen=2)
    for step in range(_START + 1, _STRONGEST + 1):
        if strongest_within(standard_error()) < step - 1:
            break
        try_step(step, stronger)

    chosen = strongest_within(max(standard_error(), _TIE))
    losses_by_strength = {_strength(step): loss for step, loss in losses.items()}
    accuracies_by_strength = {_strength(step): accuracy for step, accuracy in accuracies.items()}
    validated = _Validated(losses_by_strength, accuracies_by_strength, standard_error())
    return _strength(chosen), solutions[chosen], validated


def _strength(step: int) -> float:
    """Return the strength at a step of the walk."""
    return float(10 ** (step / 2))


def _standard_error(losses: npt.NDArray[np.float64], units: npt.NDArray[np.int64]) -> float:
    """Return the standard error of the mean of rows (R,), where rows of one unit (R,) err together.

    It is the root of the sum over units of the square of their summed deviations, divided by R: s / sqrt(R) where every
    row is a unit (Liang and Zeger 1986, doi:10.1093/biomet/73.1.13).
    """
    deviations = np.bincount(units, losses - losses.mean())
    return float(np.sqrt(np.square(deviations).sum()) / len(losses))


def _minimise(problem: _Problem, parameters: Tensor, strength: float, tolerance: float) -> Tensor:
    """Minimise all K objectives by L-BFGS on their sum (Nocedal and Wright 2006, algorithms 7.4 and 7.5).

    The sum falls apart into K, so its minimum is theirs; the tolerance holds for each. A step is halved until the value
    has fallen enough, but for what rounding hides. The search ends where the tolerance is met, where no step makes the
    value fall any more, or after so many evaluations; `_distance_to_optimum` tells how far it came.
    """
    num_pairs = min(10, max(3, _PAIRS_BYTES // (8 * parameters.numel())))
    pairs = deque[tuple[Tensor, Tensor, float]](maxlen=num_pairs)
    value, gradient = problem.objective(parameters, strength)
    direction = -gradient / max(1.0, float(gradient.norm()))
    step = 1.0
    for _ in range(_MAX_EVALUATIONS):
        bound = tolerance * strength * parameters[..., :-1].flatten(1).norm(dim=1) + _TOLERANCE_ABSOLUTE
        if step < 1e-4 or bool((gradient.flatten(1).norm(dim=1) <= bound).all()):
            break
        trial = parameters + step * direction
        trial_value, trial_gradient = problem.objective(trial, strength)
        if trial_value > value + 1e-4 * step * _inner_product(gradient, direction) + 1e-7 * abs(value):
            step /= 2
            continue
        change = trial - parameters
        bend = trial_gradient - gradient
        product = _inner_product(change, bend)
        if product > 0:
            pairs.append((change, bend, product))
        parameters = trial
        value = trial_value
        gradient = trial_gradient
        direction = _search_direction(gradient, pairs)
        step = 1.0
    return parameters


def _search_direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Return minus the inverse Hessian, as (change, change of gradient, their product) tell it, times the gradient."""
    direction = -gradient
    factors = []
    for change, bend, product in reversed(pairs):
        factors.append(_inner_product(change, direction) / product)
        direction.sub_(bend, alpha=factors[-1])
    if pairs:
        _, bend, product = pairs[-1]
        direction *= product / _inner_product(bend, bend)
    for change, bend, product in pairs:
        direction.add_(change, alpha=factors.pop() - _inner_product(bend, direction) / product)
    return direction


def _inner_product(a: Tensor, b: Tensor) -> float:
    """Return the sum of products of two tensors' values."""
    return float(torch.vdot(a.flatten(), b.flatten()))
