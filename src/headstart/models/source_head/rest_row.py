"""The row of a class that stands for all the rest: `other`, or `not_x` beside `x`."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve
from scipy.special import logsumexp
from torch import Tensor, nn

Floats = npt.NDArray[np.float64]

_STRENGTHS = tuple(10 ** (step / 2) for step in range(-6, 7))
_USUAL_STRENGTH = 1.0  # the best of hot dog and ants/bees with EfficientNet-Lite0
_BLOCK_ROWS = 1024


class FeatureRows(Protocol):
    """Gives the training features, by view.

    Attributes:
        num_images: N.
        num_views: Views of each image.
        width: F.
    """

    num_images: int
    num_views: int
    width: int

    @property
    def groups(self) -> Sequence[str]:
        """Images of one group belong together, (N,)."""

    def view(self, view: int, images: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return one view of some images, `float32` (n, F)."""


def fit_rest_row(
    features: FeatureRows, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> tuple[Floats, float]:
    """Fit the linear logit that comes closest to the sum of some source classes' probabilities.

    Where the source's classes fall into those matched, M, and all others, its softmax gives a matched class x and the
    rest together the logits

        z_x(f)   and   g(f) = ln sum_{j not in M} exp z_j(f),     since p(x | f) = exp z_x / (sum_M exp z + exp g).

    A head has z_x already: its row is the source's. Of g, which bends, it can have the best line through the training
    images: the row (w, b) that minimises

        mean (w.f + b - g(f))^2 + strength * sum_k var(f_k) w_k^2

    over all views of all of them, which is ridge regression on standardised features (with fewer images than features
    there is a line through all of them that is worth little beyond). For each strength
    w = (C + strength diag C)^-1 cov(f, g) and b = mean(g) - w.mean(f), C being the covariance of f. The strength is the
    one with the lowest error on a fifth of the groups that was left out; the row is then fitted to all. No class
    labels are used.

    Args:
        features: N images in groups, V views, width F; a group is left out as a whole.
        weight: (R, F), the source's rows of the classes that make up the rest.
        bias: (R,).

    Returns:
        w (F,) and b, for raw features.
    """
    held = np.unique(list(features.groups), return_inverse=True)[1] % 5 == 4
    fitted, tested = _moments(features, held, weight, bias)
    strength = _USUAL_STRENGTH
    if held.any():
        errors = {each: _squared_error(tested, *_ridge(fitted, each)) for each in _STRENGTHS}
        strength = min(errors, key=errors.__getitem__)
    return _ridge(fitted + tested, strength)


def write_rest_row(head: nn.Linear | nn.Conv2d, row: int, weight: Tensor, bias: Tensor) -> None:
    """Write the row of the class that stands for the rest into a head, in place.

    Args:
        head: The new head.
        row: Which of its outputs.
        weight: (F,), from `fit_rest_row`.
        bias: ().
    """
    with torch.no_grad():
        head.weight[row] = weight.to(head.weight)
        if head.bias is not None:
            head.bias[row] = bias.to(head.bias)


def _moments(
    features: FeatureRows, held: npt.NDArray[np.bool_], weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Return sums of products of (f, 1, g), (F + 2, F + 2), over the rows of the images not held, and of those held."""
    sums = np.zeros((2, features.width + 2, features.width + 2))
    for view in range(features.num_views):
        for start in range(0, features.num_images, _BLOCK_ROWS):
            images = np.arange(start, min(start + _BLOCK_ROWS, features.num_images))
            rows = features.view(view, images)
            rest = logsumexp(rows @ weight.T + bias, axis=1)
            table = np.column_stack([rows, np.ones(len(rows)), rest]).astype(np.float64)
            # Each product is of two copies: of one array with itself it would be rounded in another way.
            for total, chosen in zip(sums, (~held[images], held[images]), strict=True):
                total += table[chosen].T @ table[chosen]
    return sums[0], sums[1]


def _ridge(moments: Floats, strength: float) -> tuple[Floats, float]:
    """Return the row (F,) and its bias."""
    mean = moments[-2] / moments[-2, -2]
    covariance = moments / moments[-2, -2] - np.outer(mean, mean)
    variance = np.diag(covariance)[:-2]
    is_constant = variance <= 1e-9 * mean[:-2] ** 2  # no more than rounding
    scale = np.where(is_constant, 0, 1 / np.sqrt(np.where(is_constant, 1, variance)))
    system = covariance[:-2, :-2] * np.outer(scale, scale) + strength * np.eye(len(scale))
    weight = scale * solve(system, scale * covariance[:-2, -1], assume_a="pos")
    return weight, float(mean[-1] - weight @ mean[:-2])


def _squared_error(moments: Floats, weight: Floats, bias: float) -> float:
    """Return the sum of a row's squared errors over the rows that the moments are of."""
    residual = np.concatenate([weight, [bias, -1.0]])
    return float(residual @ moments @ residual)
