"""How sure an accuracy and a difference are when both the seeds and the images are samples.

What is estimated: the accuracy to expect of a classifier trained with a new seed on a new image of the population that
these images are from; where images come in groups (bursts, patients), on a new group, weighted by its images. With one
seed it is the accuracy of that one trained classifier, because nothing is known about the others.

Images, or groups, are resampled by the Bayesian bootstrap (Rubin 1981, doi:10.1214/aos/1176345338). Seeds are few, so
what they add is drawn from its estimate instead: resampling S seeds would lose 1/S of their variance, and resampling
seeds and images at once counts their interaction twice (Owen 2007, arXiv:0712.1111). docs/decisions/ says which simpler
ways did not cover what they promised; `python -m benchmarks.coverage` prints how often these do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, exp, floor, log10, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.stats.metrics import wilson_interval
from headstart.types import Interval

_Floats = NDArray[np.float64]

_BLOCKS, _BLOCK = 10, 1000  # draws; in blocks, so that memory stays small with many groups
_TEST_POWER = 0.8
_ACCURACY_POWER, _DIFFERENCE_POWER = 0.5, 0.75  # of c in the weight of a pseudo-image; chosen by simulation


@dataclass(frozen=True)
class Difference:
    """How far the first classifier is ahead of another one, on the same images.

    Attributes:
        difference: Accuracy of the first minus that of the other, each the mean over its seeds.
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
        level: Coverage of the interval, and 1 - the level of significance.
        p_value: Two-sided, of the two being equally good.
        p_holm: The same after Holm's correction for all that were compared with the first.
        num_seeds: Of the one that has fewer.
        num_images: That all classified.
        num_groups: That they are in; None: each image counts for itself.
        images_needed: About how many images would show a true difference of this size at this level in 80 % of cases,
            with as many seeds; None where there is no difference, or where seeds differ too much for any number to do.
        method: How interval and p value were computed.
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


@dataclass(frozen=True)
class _Sample:
    """What S seeds got right in G units (images, or groups of them).

    Attributes:
        right: (S, G), images of each unit.
        sizes: (G,), images of each unit.
    """

    right: _Floats
    sizes: _Floats

    @property
    def mean(self) -> _Floats:
        """Images of each unit that were right, (G,), mean over the seeds."""
        return np.asarray(self.right.mean(axis=0))

    @property
    def rates(self) -> _Floats:
        """Accuracy of each seed, (S,)."""
        return np.asarray(self.right.sum(axis=1) / self.sizes.sum())

    def seed_variance(self) -> tuple[float, float, int]:
        """Return the variance of the mean rate over seeds, what of it is their luck with these images, and S - 1.

        With x[s, g] = right, less the means of seed s and unit g, the luck is sum x² G / (S (S-1) (G-1) N²): the mean
        square of the interaction in a two-way layout.
        """
        (num_seeds, num_units), rates = self.right.shape, self.rates
        if num_seeds == 1:
            return 0.0, 0.0, 0
        own = self.right - self.mean - self.sizes * (rates - rates.mean())[:, None]
        scale = num_units / (num_units - 1) / (num_seeds - 1) / num_seeds / self.sizes.sum() ** 2
        return float(rates.var(ddof=1) / num_seeds), float((own**2).sum() * scale), num_seeds - 1


def accuracy_interval(
    correct: ArrayLike, groups: ArrayLike | None = None, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the interval of an accuracy over seeds and images; see the module for what it is an interval of.

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
        seed: Of the draws.

    Raises:
        ValueError: The shapes do not fit, or there is no image.
    """
    sample = _sample(correct, groups)
    (num_seeds, num_units), num_images = sample.right.shape, int(sample.sizes.sum())
    value = float(sample.rates.mean())
    method = _method(num_seeds, num_images, None if num_units == num_images else num_units)
    if num_units == 1 and num_images > 1:
        return Interval(value, 0.0, 1.0, level, f"{method}: no interval from one group")
    if num_units == 1 or (num_seeds == 1 and num_units == num_images):
        wilson = wilson_interval(round(value * num_images), num_images, level)
        return replace(wilson, value=value, method=f"wilson, {method.partition(' over ')[2]}")
    logits = _accuracy_draws(sample, np.random.default_rng(seed))
    low, high = (1 / (1 + exp(-logit)) for logit in _ends(logits, level))
    return Interval(value, min(low, value), max(high, value), level, method)


def compare_to_first(
    correct: Mapping[str, ArrayLike], groups: ArrayLike | None = None, *, level: float = 0.95, seed: int = 0
) -> dict[str, Difference]:
    """Compare the first of several classifiers with each other one, on the same images.

    Seeds of different classifiers are taken as independent, also where they have the same number: pairing them would
    halve the degrees of freedom, and a seed means something else in each (other parameters, other random numbers).
    Images are paired: what is resampled is d, the difference of the mean rates in each unit.

    The draws are those of the Bayesian bootstrap with two pseudo-images, one that only the first got right and one that
    only the other did (Bonett and Price 2012, doi:10.3102/1076998611411915), each as heavy as c^(3/4) m^(1/4) images;
    see `accuracy_interval`, with |d| for the mistakes. What seeds vary by is added, and all is widened by Student's t
    with Satterthwaite's degrees of freedom (1946, doi:10.2307/3002019) for the variance components

        V = var(d) / G + sum over both of (var(seeds) - luck) / S.

    The p value is twice the share of draws on the other side of 0. Classifiers that are right on the same images have
    p = 1. Holm's correction (1979, Scandinavian Journal of Statistics 6:65-70) is over all that are compared.

    Args:
        correct: Name -> (S, N) or (N,), whether each seed was right on each image; S may differ.
        groups: (N,), what each image belongs to, or None.
        level: Coverage of the intervals.
        seed: Of the draws.

    Returns:
        Name -> the first against that one; all names but the first.

    Raises:
        ValueError: The shapes do not fit, or there is no image.
    """
    samples = {name: _sample(rows, groups) for name, rows in correct.items()}
    first, *others = samples.values()
    if any(other.sizes.sum() != first.sizes.sum() for other in others):
        raise ValueError(f"expected the same images for all; got {[int(s.sizes.sum()) for s in samples.values()]}")
    found = [_difference(first, other, level, seed) for other in others]
    corrected = _holm([difference.p_value for difference in found])
    pairs = zip(list(samples)[1:], found, corrected, strict=True)
    return {name: replace(difference, p_holm=p_holm) for name, difference, p_holm in pairs}


def difference_sentence(first: str, other: str, d: Difference) -> str:
    """Say the outcome in plain words, such as `head and full cannot be told apart on 153 images (3 seeds): ...`."""
    images = f"{d.num_images} image{'s' if d.num_images != 1 else ''}"
    groups = f" in {d.num_groups} groups" if d.num_groups else ""
    seeds = "one seed" if d.num_seeds == 1 else f"{d.num_seeds} seeds"
    p_text = "p < 0.001" if d.p_holm < 0.001 else f"p = {d.p_holm:.3f}"
    figures = (
        f"on {images}{groups} ({seeds}): a difference of {100 * d.difference:+.1f} points "
        f"({d.level:.0%} interval {100 * d.low:+.1f} to {100 * d.high:+.1f}; {p_text}, Holm)"
    )
    if d.is_significant:
        return f"{first} is {'better' if d.difference > 0 else 'worse'} than {other} {figures}."
    if d.images_needed is not None:
        advice = f"; about {_about(d.images_needed):,} images would be needed"
    else:
        advice = "; more images alone would not do, the seeds differ too much" if d.difference else ""
    return f"{first} and {other} cannot be told apart {figures}{advice}."


def _sample(correct: ArrayLike, groups: ArrayLike | None) -> _Sample:
    rows = np.atleast_2d(np.asarray(correct, dtype=bool)).astype(np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"expected (seeds, images) with one of each at least; got shape {np.shape(correct)}")
    index = np.arange(rows.shape[1])
    if groups is not None:
        names = np.asarray(groups)
        if names.shape != rows.shape[1:]:
            raise ValueError(f"expected a group for each of {rows.shape[1]} images; got shape {names.shape}")
        index = np.unique(names, return_inverse=True)[1]
    right = np.stack([np.bincount(index, weights=row) for row in rows]).astype(np.float64)
    return _Sample(right, np.bincount(index).astype(np.float64))


def _method(num_seeds: int, num_images: int, num_groups: int | None) -> str:
    over = f"{num_images} images" + (f" in {num_groups} groups" if num_groups else "")
    if num_seeds == 1:
        return f"bootstrap over {over}; one seed, so what another would change is not in it"
    return f"hierarchical bootstrap over {num_seeds} seeds and {over}"


def _ends(draws: _Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pseudo_size(mass: _Floats, sizes: _Floats, power: float) -> float:
    """Return how many images a pseudo-image stands for: between those that err together and those of a whole unit."""
    whole = float((sizes**2).sum() / sizes.sum())
    together = float((mass**2).sum() / mass.sum()) if mass.any() else whole
    return float(together**power * whole ** (1 - power))


def _resample(rng: np.random.Generator, rows: _Floats, pseudo: _Floats, weight: float) -> _Floats:
    """Return sums over randomly weighted rows (G, 2) and pseudo-rows (2, 2), one per draw, (B, 2).

    Weights are Exp(1), those of pseudo-rows Gamma(weight). n equal rows are drawn at once: theirs add up to Gamma(n).
    """
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    shapes, values = np.append(counts, (weight, weight)), np.vstack((distinct, pseudo))
    return np.concatenate([rng.standard_gamma(shapes, (_BLOCK, len(shapes))) @ values for _ in range(_BLOCKS)])


def _widening(rng: np.random.Generator, freedom: float, num_draws: int) -> _Floats:
    """Return factors that turn normal draws into Student's t."""
    return np.asarray(np.sqrt(freedom / rng.chisquare(freedom, num_draws)))


def _accuracy_draws(sample: _Sample, rng: np.random.Generator) -> _Floats:
    """Draw the logit of the expected accuracy, (B,)."""
    sizes, mean, num_images = sample.sizes, sample.mean, sample.sizes.sum()
    pseudo = _pseudo_size(min(mean, sizes - mean, key=np.sum), sizes, _ACCURACY_POWER)
    sums = _resample(rng, np.stack((mean, sizes - mean), axis=1), pseudo * np.eye(2), 0.5)
    logits = np.log(sums[:, 0] / sums[:, 1])
    centre = np.median(logits)
    draws = centre + (logits - centre) * _widening(rng, len(sizes) - 1, len(logits))
    _, luck, freedom = sample.seed_variance()
    if freedom:
        # Near 1 seeds vary evenly in logits, not in rates; half a pseudo-image keeps those finite.
        right, half = sample.right.sum(axis=1), min(pseudo, 1.0) / 2
        spread = np.log((right + half) / (num_images - right + half)).var(ddof=1) / (freedom + 1)
        value = (mean.sum() + pseudo / 2) / (num_images + pseudo)
        spread -= luck / (value * (1 - value)) ** 2
        draws += sqrt(max(spread, 0.0)) * rng.standard_t(freedom, len(draws))
    return np.asarray(draws)


def _difference(first: _Sample, other: _Sample, level: float, seed: int) -> Difference:
    num_images, num_units = int(first.sizes.sum()), len(first.sizes)
    num_seeds = min(len(first.right), len(other.right))
    num_groups = None if num_units == num_images else num_units
    value = float(first.rates.mean() - other.rates.mean())
    method = _method(num_seeds, num_images, num_groups) + ", paired by image"
    if num_units == 1:
        return Difference(value, -1, 1, level, 1, 1, num_seeds, num_images, num_groups, None, method)
    mass = first.mean - other.mean
    draws = _difference_draws(first, other, mass, np.random.default_rng(seed))
    low, high = _ends(draws, level)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p_value = min(1.0, float(2 * (tail + 1) / (len(draws) + 1))) if mass.any() else 1.0
    low, high = max(-1.0, min(low, value)), min(1.0, max(high, value))
    needed = _images_needed(first, other, mass, level) if abs(value) > 1e-12 else None
    return Difference(value, low, high, level, p_value, p_value, num_seeds, num_images, num_groups, needed, method)


def _difference_draws(first: _Sample, other: _Sample, mass: _Floats, rng: np.random.Generator) -> _Floats:
    """Draw the expected difference, (B,), from that of each unit (G,)."""
    sizes, num_units = first.sizes, len(first.sizes)
    pseudo = _pseudo_size(np.abs(mass), sizes, _DIFFERENCE_POWER)
    total = sizes.sum() + 2 * pseudo
    centre = mass.sum() / total
    sums = _resample(rng, np.stack((mass, sizes), axis=1), pseudo * np.array([[1, 1], [-1, 1]]), 1.0)
    images = ((mass - sizes * centre) ** 2).sum() * num_units / (num_units - 1) + 2 * pseudo**2
    images = float(images / total**2)
    kept, seeds, noise = _components(images, first, other)
    freedom = (kept + seeds) ** 2 / (images**2 / (num_units - 1) + noise)
    least = min(max(len(sample.right) - 1, 1) if noise else num_units - 1 for sample in (first, other))
    draws = (sums[:, 0] / sums[:, 1] - centre) * sqrt(kept / images)
    draws += sqrt(seeds) * rng.standard_normal(len(draws))
    return np.asarray(centre + draws * _widening(rng, max(freedom, least), len(draws)))


def _components(images: float, first: _Sample, other: _Sample) -> tuple[float, float, float]:
    """Split the variance of a difference: what images leave, what seeds add, and sum(component² / freedom) of seeds.

    Where seeds vary less than their luck with these images explains, the images' part is too large by that; half of it
    stays in any case, because few seeds agree by chance too.
    """
    seeds = surplus = noise = 0.0
    for sample in (first, other):
        spread, luck, freedom = sample.seed_variance()
        seeds, surplus = seeds + max(spread - luck, 0.0), surplus + max(luck - spread, 0.0)
        if freedom:
            noise += spread**2 / freedom + luck**2 / freedom / (len(sample.sizes) - 1)
    return max(images - surplus, images / 2), seeds, noise


def _images_needed(first: _Sample, other: _Sample, mass: _Floats, level: float) -> int | None:
    """Return N (z + z')² V_images / (D² - (z + z')² V_seeds), z and z' the normal quantiles of level and power.

    Without seeds that is the paired comparison of proportions (Connor 1987, doi:10.2307/2531961), to first order.
    """
    sizes, num_images, num_units = first.sizes, first.sizes.sum(), len(first.sizes)
    value = mass.sum() / num_images
    images = ((mass - sizes * value) ** 2).sum() * num_units / (num_units - 1) / num_images**2
    kept, seeds, _ = _components(images, first, other)
    factor = (NormalDist().inv_cdf((1 + level) / 2) + NormalDist().inv_cdf(_TEST_POWER)) ** 2
    left = value**2 - factor * seeds
    return max(1, ceil(num_images * factor * kept / left)) if left > 0 else None


def _holm(p_values: list[float]) -> list[float]:
    corrected, least = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


def _about(count: int) -> int:
    """Round to two significant digits."""
    return round(count, 1 - floor(log10(count)))
