"""How sure an accuracy and a difference are when both the seeds and the images are samples.

What is estimated: the accuracy to expect of a classifier trained with a new seed on a new image of the population that
these images are from; where images come in groups (bursts, patients), on a new group, weighted by its images. With one
seed it is the accuracy of that one trained classifier, because nothing is known about the others.

`python -m benchmarks.coverage` prints how often these intervals cover what they promise.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor, log10

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from headstart.stats.intervals import ends, images_in_groups, method_of
from headstart.stats.resampling import Sample, difference_draws, difference_moments, make_sample

_POWER = 0.8
_GROWTHS = tuple(1.005**power for power in range(4200))  # up to a billion times the images


@dataclass(frozen=True)
class Difference:
    """How far the first classifier is ahead of another one, on the same images.

    Attributes:
        difference: Accuracy of the first minus accuracy of the other, each the mean over its seeds.
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
        level: Coverage of the interval, and 1 - the level of significance.
        p_value: Two-sided p-value of the hypothesis that the two are equally good.
        p_holm: The p-value after Holm's correction for all classifiers that were compared with the first.
        num_seeds: Number of seeds of the classifier that has fewer.
        num_images: Number of images, which all of them classified.
        num_groups: Number of groups that the images are in; None: each image counts for itself.
        images_needed: About how many images, more than there are and in groups of the same sizes, would show a true
            difference of this size in 80 % of cases, with as many seeds and comparisons; None where there is no
            difference, these images would do, or seeds differ too much for any number to do.
        method: Words for how interval and p value were computed.
    """

    difference: float
    low: float
    high: float
    level: float
    p_value: float
    p_holm: float
    num_seeds: int
    num_images: int
    num_groups: int | None
    images_needed: int | None
    method: str

    @property
    def is_significant(self) -> bool:
        """Whether the two are told apart at this level. The corrected test decides, not the interval."""
        return self.p_holm < 1 - self.level


def compare_to_first(
    correct: Mapping[str, ArrayLike],
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    is_chosen_here: bool = False,
) -> dict[str, Difference]:
    """Compare the first of several classifiers with each other one, on the same images.

    Seeds of different classifiers are taken as independent, also where they have the same number: pairing them would
    halve the degrees of freedom, and a seed means something else in each (other parameters, other random numbers).
    Images are paired: what is resampled is d, the difference of the mean rates in each unit.

    The draws are those of the Bayesian bootstrap with two pseudo-images, one that only the first got right and one that
    only the other did (Bonett and Price 2012, doi:10.3102/1076998611411915), each as heavy as c^(3/4) m^(1/4) images;
    see `intervals.accuracy_interval`, with |d| for the mistakes. What seeds vary by is added, and all is widened by
    Student's t with Satterthwaite's degrees of freedom (1946, doi:10.2307/3002019) for the variance components

        V = var(d) / G + sum over both of (var(seeds) - luck) / S.

    The p value is twice the share of draws on the other side of 0. Classifiers that are right on the same images have
    p = 1. Holm's correction (1979, Scandinavian Journal of Statistics 6:65-70) is over all that are compared; where the
    first is the best on these same images, over all pairs that it could have come from.

    Args:
        correct: Name -> (S, N) or (N,), whether each seed was right on each image; S may differ.
        groups: (N,), what each image belongs to, or None.
        level: Coverage of the intervals.
        seed: Seed of the draws.
        is_chosen_here: Whether the first comes first because of these images.

    Returns:
        Name -> the difference between the first and that one; all names but the first.

    Raises:
        ValueError: The shapes do not fit, or there is no image.
    """
    samples = {name: make_sample(rows, groups) for name, rows in correct.items()}
    sizes = [sample.num_images for sample in samples.values()]
    if len(set(sizes)) != 1:
        raise ValueError(f"expected one classifier or more, all on the same images; got {sizes} images")
    first, *others = samples.values()
    family = len(others)
    if is_chosen_here:
        family = len(others) * (len(others) + 1) // 2
    found = [_difference(first, other, level, seed, family) for other in others]
    corrected = _holm([difference.p_value for difference in found], family)
    names = list(samples)[1:]
    return {name: replace(d, p_holm=p) for name, d, p in zip(names, found, corrected, strict=True)}


def difference_sentence(first: str, other: str, d: Difference) -> str:
    """Say the outcome in plain words, such as `head and full cannot be told apart on 153 images (3 seeds): ...`."""
    images = images_in_groups(d.num_images, d.num_groups)
    seeds = "one seed" if d.num_seeds == 1 else f"{d.num_seeds} seeds"
    p_text = "p < 0.001" if d.p_holm < 0.001 else f"p = {d.p_holm:.3f}"
    figures = (
        f"on {images} ({seeds}): a difference of {100 * d.difference:+.1f} points "
        f"({d.level:.0%} interval {100 * d.low:+.1f} to {100 * d.high:+.1f}; {p_text}, Holm)"
    )
    if d.is_significant:
        verdict = "better" if d.difference > 0 else "worse"
        return f"{first} is {verdict} than {other} {figures}."
    return f"{first} and {other} cannot be told apart {figures}{_advice(d)}."


def _advice(d: Difference) -> str:
    """Say what would tell two classifiers apart, as the end of a sentence, or ''."""
    if not d.difference:
        return ""
    if d.images_needed is None and d.num_seeds == 1:
        units = "groups" if d.num_groups else "images"
        return f"; more {units} would be needed"
    if d.images_needed is None:
        more = "seeds or groups" if d.num_groups else "seeds"
        return f"; more images alone would not do, more {more} would be needed"
    needed = f"{_two_digits(d.images_needed):,} images"
    if d.num_groups:
        needed += f" in {_two_digits(d.images_needed * d.num_groups / d.num_images):,} groups"
    return f"; about {needed} would be needed"


def _difference(first: Sample, other: Sample, level: float, seed: int, family: int) -> Difference:
    """Compare two classifiers; one group says nothing of how much groups differ, so all is possible then."""
    num_seeds = min(first.num_seeds, other.num_seeds)
    value = float(first.rates.mean() - other.rates.mean())
    low = -1.0
    high = 1.0
    p_value = 1.0
    images_needed = None
    if first.num_units > 1:
        draws = difference_draws(first, other, np.random.default_rng(seed), family)
        low, high = ends(draws, level)
        if (first.mean != other.mean).any():
            tail = min((draws <= 0).sum(), (draws >= 0).sum())
            p_value = min(1.0, float(2 * (tail + 1) / (len(draws) + 1)))
        # Bonferroni's level: what the least of the p values has to reach.
        images_needed = _images_needed(first, other, 1 - (1 - level) / family)
    return Difference(
        difference=value,
        low=max(-1.0, min(low, value)),
        high=min(1.0, max(high, value)),
        level=level,
        p_value=p_value,
        p_holm=p_value,
        num_seeds=num_seeds,
        num_images=first.num_images,
        num_groups=first.num_groups,
        images_needed=images_needed,
        method=f"{method_of(first, num_seeds)}, paired by image",
    )


def _images_needed(first: Sample, other: Sample, level: float) -> int | None:
    """Return the least N' > N with (t + t')² V(N') <= D(N')², t and t' Student's quantiles of level and power.

    V, D and the degrees of freedom are those that the p value would be computed with. Without seeds that is the paired
    comparison of proportions (Connor 1987, doi:10.2307/2531961), to first order.
    """

    def are_enough(growth: float) -> bool:
        centre, _, kept, seeds, freedom = difference_moments(first, other, growth)
        reach = stdtrit(freedom, (1 + level) / 2) + stdtrit(freedom, _POWER)
        return bool(reach**2 * (kept + seeds) <= centre**2)

    least = bisect_left(_GROWTHS, True, key=are_enough)
    if least in (0, len(_GROWTHS)):
        return None
    return ceil(first.num_images * _GROWTHS[least])


def _holm(p_values: list[float], family: int) -> list[float]:
    """Correct p values, in their order, for a family of so many comparisons."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * (family - np.arange(len(p_values)))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.minimum(steps, 1.0))
    return corrected.tolist()


def _two_digits(count: float) -> int:
    """Round a count up to two significant digits."""
    unit = 10.0 ** max(0, floor(log10(count)) - 1)
    return int(ceil(count / unit) * unit)
