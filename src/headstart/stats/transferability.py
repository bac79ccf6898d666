"""How well the features of a pretrained network suit a task, before anything is trained on them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats = NDArray[np.float64]

_ROWS = 4096  # in 64 bits at once
# The ratio of the two precisions is searched over 24 powers of ten about the largest eigenvalue, then ever closer.
_DECADES = 12.0
_POINTS = 65
_ROUNDS = 5


def logme(features: ArrayLike, targets: ArrayLike, num_classes: int) -> float:
    """Compute LogME, the logarithm of maximum evidence per image (You et al. 2021, arXiv:2102.11005).

    For each class, with y the 0/1 targets (N,) and F the features (N, D), the evidence of the Bayesian linear model

        y ~ Normal(F w, 1 / beta),  w ~ Normal(0, 1 / alpha)

    is maximised over alpha and beta; LogME is the mean of its logarithm over the classes, divided by N. Higher is
    better; values are comparable between features of the same images only. With t = alpha / beta, s the eigenvalues of
    F F', z² the squared coordinates of y along their eigenvectors, and

        q(t) = |y|² - sum z² s / (t + s),   beta = N / q,

    what is left to maximise, over t alone, is (N ln(N / q) - N - N ln 2 pi + sum ln(t / (t + s))) / 2. The paper
    iterates a fixed point instead, whose limit is the same where it converges.

    Args:
        features: (N, D), of any scale; not centred, as in the paper.
        targets: (N,), indices of the true classes.
        num_classes: C, at least 2.

    Raises:
        ValueError: The shapes do not fit, a feature is not finite, or a target is no class.
    """
    f = np.asarray(features)
    labels = np.asarray(targets)
    if f.ndim != 2 or labels.shape != f.shape[:1] or not f.size or num_classes < 2:
        raise ValueError(f"expected features (N, D), targets (N,) and 2 classes; got {f.shape} and {labels.shape}")
    if not np.isfinite(f).all() or not np.isin(labels, np.arange(num_classes)).all():
        raise ValueError(f"features must be finite, and targets integers in 0..{num_classes - 1}")
    y = (labels[:, None] == np.arange(num_classes)).astype(np.float64)
    eigenvalues, squares = _spectrum(f, y)
    if not len(eigenvalues):  # features that are all 0 explain nothing
        eigenvalues = np.ones(1)
        squares = np.zeros((1, num_classes))
    rest = np.maximum((y**2).sum(axis=0) - squares.sum(axis=0), 0.0)

    # A row of ln(t) for each class, ever closer about its best one.
    middle = np.full(num_classes, np.log(eigenvalues.max()))
    reach = _DECADES * np.log(10)
    for _ in range(_ROUNDS):
        grid = middle[:, None] + np.linspace(-reach, reach, _POINTS)
        columns = [_evidence(np.exp(column), eigenvalues, squares, rest, len(f)) for column in grid.T]
        evidence = np.stack(columns, axis=1)
        best = evidence.argmax(axis=1)
        middle = np.take_along_axis(grid, best[:, None], axis=1)[:, 0]
        reach = reach * 4 / _POINTS
    return float(evidence.max(axis=1).mean() / len(f))


def _evidence(t: _Floats, eigenvalues: _Floats, squares: _Floats, rest: _Floats, num_images: int) -> _Floats:
    """Return the log evidence of each class (C,), at its own t (C,)."""
    shrunk = t / (t + eigenvalues[:, None])
    unexplained = rest + (squares * shrunk).sum(axis=0) + np.finfo(np.float64).tiny
    fit = np.log(num_images / unexplained) - 1 - np.log(2 * np.pi)
    return np.asarray((num_images * fit + np.log(shrunk).sum(axis=0)) / 2)


def _spectrum(features: NDArray[np.generic], y: _Floats) -> tuple[_Floats, _Floats]:
    """Return the eigenvalues (K,) of F F' that are not 0, and the squared coordinates (K, C) of y along them."""
    num_images, width = features.shape
    if num_images >= width:
        gram = np.zeros((width, width))
        projected = np.zeros((width, y.shape[1]))
        for rows, targets in _blocks(features, y):
            gram += rows.T @ rows
            projected += rows.T @ targets
        eigenvalues, vectors = np.linalg.eigh(gram)
    else:
        rows = features.astype(np.float64)
        projected = y
        eigenvalues, vectors = np.linalg.eigh(rows @ rows.T)
    kept = eigenvalues > eigenvalues.max() * max(features.shape) * np.finfo(np.float64).eps
    squares = (vectors[:, kept].T @ projected) ** 2
    if num_images >= width:  # projected is F' y, whose coordinates are sqrt(s) times those of y
        squares /= eigenvalues[kept, None]
    return eigenvalues[kept], squares


def _blocks(features: NDArray[np.generic], y: _Floats) -> Iterator[tuple[_Floats, _Floats]]:
    """Yield rows of both in 64 bits, so many at a time that memory stays small."""
    for start in range(0, len(features), _ROWS):
        yield features[start : start + _ROWS].astype(np.float64), y[start : start + _ROWS]
