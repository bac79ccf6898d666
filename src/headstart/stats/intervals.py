"""Intervals of an accuracy: over images, over groups of images, and over seeds."""

from dataclasses import replace
from math import exp
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.stats.resampling import Sample, accuracy_logits, make_sample
from headstart.types import Interval


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Compute the score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    With p = successes / n and z the normal quantile, the ends are
    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        successes: Number of successes.
        n: Number of trials, at least 1.
        level: Coverage, between 0 and 1.

    Raises:
        ValueError: `n` is 0, or `successes` does not lie in 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1; got successes={successes}, n={n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    shrink = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / shrink
    # At the borders the ends are 0 and 1 exactly; rounding must not leave 1 - 1e-16.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, level, "wilson")


def accuracy_interval(
    correct: ArrayLike, groups: ArrayLike | None = None, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the interval of an accuracy over seeds and images; see `stats.compare` for what it is an interval of.

    With one seed and no groups it is the Wilson interval. Otherwise images are drawn by the Bayesian bootstrap together
    with half a right and half a wrong pseudo-image, which makes it Jeffreys' interval where each image counts for
    itself (Brown et al. 2001, doi:10.1214/ss/1009213286) and keeps it from collapsing near 1. The logits of the draws
    are widened by Student's t for G units; what seeds vary by beyond their luck with these images is added with S - 1
    degrees of freedom (Behrens and Fisher). A pseudo-image is as heavy as sqrt(c m) images: c is how many mistakes
    come together, sum(e²) / sum(e) over the units' mistakes e, and m how many images.

    Args:
        correct: (S, N) or (N,), whether each seed was right on each image.
        groups: (N,), what each image belongs to, or None.
        level: Coverage.
        seed: Seed of the draws.

    Raises:
        ValueError: The shapes do not fit, or there is no image.
    """
    sample = make_sample(correct, groups)
    value = float(sample.rates.mean())
    method = method_of(sample, sample.num_seeds)
    is_grouped = sample.num_groups is not None
    if sample.num_groups == 1:
        return Interval(value, 0.0, 1.0, level, f"{method}: no interval from one group")
    if not is_grouped and (sample.num_images == 1 or sample.num_seeds == 1):
        wilson = wilson_interval(round(value * sample.num_images), sample.num_images, level)
        return replace(wilson, value=value, method=f"wilson, {method.partition(' over ')[2]}")
    logits = accuracy_logits(sample, np.random.default_rng(seed))
    low, high = ends(logits, level)
    return Interval(value, min(_rate_of(low), value), max(_rate_of(high), value), level, method)


def _rate_of(logit: float) -> float:
    """Return the rate that has a logit; one below -700, of two groups for instance, would be too much for `exp`."""
    return 1 / (1 + exp(-max(logit, -700.0)))


def images_in_groups(num_images: int, num_groups: int | None = None) -> str:
    """Return `153 images`, or `153 images in 20 groups` where they come in groups."""
    text = "1 image" if num_images == 1 else f"{num_images} images"
    if num_groups is None:
        return text
    groups = "1 group" if num_groups == 1 else f"{num_groups} groups"
    return f"{text} in {groups}"


def method_of(sample: Sample, num_seeds: int) -> str:
    """Say what an interval was computed over."""
    over = images_in_groups(sample.num_images, sample.num_groups)
    if num_seeds == 1:
        return f"bootstrap over {over}; one seed, so what another would change is not in it"
    return f"hierarchical bootstrap over {num_seeds} seeds and {over}"


def ends(draws: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the quantiles that a central interval of draws ends at."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
