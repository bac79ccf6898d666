"""Draws of an accuracy, and of a difference of two, from seeds and images that are both samples.

Images, or groups of them, are resampled by the Bayesian bootstrap (Rubin 1981, doi:10.1214/aos/1176345338): weights are
exponential instead of whole numbers. Seeds are few, so what they add is drawn from its estimate instead: resampling S
seeds would lose 1/S of their variance, and resampling seeds and images at once counts their interaction twice (Owen
2007, arXiv:0712.1111).
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats = NDArray[np.float64]

_BLOCK = 1000  # draws at a time, so that memory stays small with many groups
_BLOCKS = 10
# The powers of c in the weight of a pseudo-image; chosen by simulation, see benchmarks/coverage.py.
_ACCURACY_POWER = 0.5
_DIFFERENCE_POWER = 0.75


@dataclass(frozen=True)
class Sample:
    """What S seeds got right in G units (images, or groups of them).

    Attributes:
        right: (S, G), how many images of each unit each seed got right.
        sizes: (G,), how many images each unit has.
    """

    right: _Floats
    sizes: _Floats

    @property
    def num_seeds(self) -> int:
        """S, how many seeds there are."""
        return len(self.right)

    @property
    def num_units(self) -> int:
        """G, how many units there are."""
        return len(self.sizes)

    @property
    def num_images(self) -> int:
        """N, how many images the units have together."""
        return int(self.sizes.sum())

    @property
    def num_groups(self) -> int | None:
        """G where units are groups of images, None where each image is a unit."""
        if self.num_units == self.num_images:
            return None
        return self.num_units

    @cached_property
    def mean(self) -> _Floats:
        """How many images of each unit were right, mean over the seeds, (G,)."""
        return np.asarray(self.right.mean(axis=0))

    @property
    def rates(self) -> _Floats:
        """Accuracy of each seed, (S,)."""
        return np.asarray(self.right.sum(axis=1) / self.num_images)

    @cached_property
    def seed_variance(self) -> tuple[float, float, int]:
        """The variance of the mean rate over seeds, what of it is their luck with these images, and S - 1.

        With x[s, g] = right, less the means of seed s and unit g, the luck is sum x² G / (S (S-1) (G-1) N²): the mean
        square of the interaction in a two-way layout.
        """
        if self.num_seeds == 1:
            return 0.0, 0.0, 0
        rates = self.rates
        variance = rates.var(ddof=1) / self.num_seeds
        interaction = self.right - self.mean - self.sizes * (rates - rates.mean())[:, None]
        freedom = self.num_seeds - 1
        scale = self.num_units / (self.num_units - 1) / freedom / self.num_seeds / self.num_images**2
        return float(variance), float((interaction**2).sum() * scale), freedom


def make_sample(correct: ArrayLike, groups: ArrayLike | None) -> Sample:
    """Count what each seed got right.

    Args:
        correct: (S, N) or (N,), whether each seed was right on each image.
        groups: (N,), what each image belongs to, or None.

    Raises:
        ValueError: The shapes do not fit, or there is no image.
    """
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
    return Sample(right, np.bincount(index).astype(np.float64))


def accuracy_logits(sample: Sample, rng: np.random.Generator) -> _Floats:
    """Draw the logit of the expected accuracy, (B,); see `intervals.accuracy_interval`."""
    hits = sample.mean
    mistakes = sample.sizes - hits
    pseudo = _pseudo_size(min(hits, mistakes, key=np.sum), sample.sizes, _ACCURACY_POWER)

    # The images.
    sums = _resample(rng, np.stack((hits, mistakes), axis=1), pseudo * np.eye(2), 0.5)
    logits = np.log(sums[:, 0] / sums[:, 1])
    centre = np.median(logits)
    draws = centre + (logits - centre) * _widening(rng, sample.num_units - 1, len(logits))

    # The seeds. Near 1 they vary evenly in logits, not in rates; half a pseudo-image keeps those finite.
    _, luck, freedom = sample.seed_variance
    if freedom:
        right = sample.right.sum(axis=1)
        half = min(pseudo, 1.0) / 2
        spread = np.log((right + half) / (sample.num_images - right + half)).var(ddof=1) / sample.num_seeds
        value = (hits.sum() + pseudo / 2) / (sample.num_images + pseudo)
        spread -= luck / (value * (1 - value)) ** 2
        draws += sqrt(max(spread, 0.0)) * rng.standard_t(freedom, len(draws))
    return np.asarray(draws)


class Moments(NamedTuple):
    """What is known about a difference before it is drawn.

    Attributes:
        centre: Difference of the two accuracies, the pseudo-images included.
        images: Variance over units, with the seeds at hand.
        kept: Variance over units without the seeds' luck with these images.
        seeds: Variance that seeds add.
        freedom: Satterthwaite's degrees of freedom of kept + seeds.
    """

    centre: float
    images: float
    kept: float
    seeds: float
    freedom: float


def difference_draws(first: Sample, other: Sample, rng: np.random.Generator, family: int = 1) -> _Floats:
    """Draw the expected difference, (B,); see `compare.compare_to_first`.

    Each of a `family` of more than 100 comparisons gets more draws: the least p value that B draws can give, 2 / (B+1),
    has to stay well below 0.05 when it is multiplied by the family.
    """
    centre, images, kept, seeds, freedom = difference_moments(first, other)
    lead, pseudo = _lead(first, other)
    rows = np.stack((lead, first.sizes), axis=1)
    sums = _resample(rng, rows, pseudo * np.array([[1, 1], [-1, 1]]), 1.0, max(_BLOCKS, ceil(family / 10)))
    draws = (sums[:, 0] / sums[:, 1] - centre) * sqrt(kept / images)
    draws += sqrt(seeds) * rng.standard_normal(len(draws))
    return np.asarray(centre + draws * _widening(rng, freedom, len(draws)))


def difference_moments(first: Sample, other: Sample, growth: float = 1.0) -> Moments:
    """Return centre, variances and degrees of freedom of a difference.

    Where seeds vary less than their luck with these images explains, the images' part is too large by that; half of it
    stays in any case, because few seeds agree by chance too.

    Args:
        first: What one classifier got right; the difference is positive where it is better.
        other: What the other one got right, on the same images.
        growth: How many times the units there would be. More units shrink the images' part and the seeds' luck, not
            what seeds vary by beyond it.
    """
    lead, pseudo = _lead(first, other)
    num_units = first.num_units * growth
    total = first.num_images * growth + 2 * pseudo

    # The images.
    centre = float(lead.sum() * growth / total)
    spread = ((lead - first.sizes * centre) ** 2).sum() * growth * num_units / (num_units - 1)
    images = float((spread + 2 * pseudo**2) / total**2)

    # The seeds of both.
    seeds = 0.0
    surplus = 0.0
    noise = 0.0
    for sample in (first, other):
        varied, luck, num_free = sample.seed_variance
        beyond = varied - luck
        luck /= growth
        seeds += max(beyond, 0.0)
        surplus += max(-beyond, 0.0) / growth
        if num_free:
            noise += max(beyond + luck, varied / growth) ** 2 / num_free + luck**2 / num_free / (num_units - 1)
    kept = max(images - surplus, images / 2)

    # Never fewer degrees of freedom than the part that has the fewest.
    freedom = (kept + seeds) ** 2 / (images**2 / (num_units - 1) + noise)
    fewest_seeds = min(first.num_seeds, other.num_seeds)
    least = max(fewest_seeds - 1, 1) if noise else num_units - 1
    return Moments(centre, images, kept, seeds, max(freedom, least))


def _lead(first: Sample, other: Sample) -> tuple[_Floats, float]:
    """Return how many more images of each unit the first has right, (G,), and the weight of a pseudo-image."""
    lead = first.mean - other.mean
    return lead, _pseudo_size(np.abs(lead), first.sizes, _DIFFERENCE_POWER)


def _pseudo_size(counts: _Floats, sizes: _Floats, power: float) -> float:
    """Return how many images a pseudo-image stands for: between those that err together and those of a whole unit.

    Args:
        counts: (G,), how many images of each unit were wrong, or were right for one classifier only.
        sizes: (G,), how many images each unit has.
        power: Weight of those that err together, 0 to 1.
    """
    whole = float((sizes**2).sum() / sizes.sum())
    together = whole
    if counts.any():
        together = float((counts**2).sum() / counts.sum())
    return float(together**power * whole ** (1 - power))


def _resample(
    rng: np.random.Generator, rows: _Floats, pseudo: _Floats, weight: float, num_blocks: int = _BLOCKS
) -> _Floats:
    """Return sums over randomly weighted rows (G, 2) and pseudo-rows (2, 2), one per draw, (B, 2).

    Weights are Exp(1), those of pseudo-rows Gamma(weight). n equal rows are drawn at once: theirs add up to Gamma(n).
    """
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    shapes = np.append(counts, (weight, weight))
    values = np.vstack((distinct, pseudo))
    blocks = []
    for _ in range(num_blocks):
        weights = rng.standard_gamma(shapes, (_BLOCK, len(shapes)))
        blocks.append(weights @ values)
    return np.concatenate(blocks)


def _widening(rng: np.random.Generator, freedom: float, num_draws: int) -> _Floats:
    """Return factors that turn normal draws into Student's t."""
    return np.asarray(np.sqrt(freedom / rng.chisquare(freedom, num_draws)))
