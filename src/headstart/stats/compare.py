"""Tell two classifiers apart, on the same images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from headstart.errors import DataError
from headstart.stats.metrics import wilson_interval


@dataclass(frozen=True)
class PairedComparison:
    """What the same images say about classifiers A and B.

    Attributes:
        num_images: How many images both classified.
        accuracy_a: Share that A got right.
        accuracy_b: Share that B got right.
        only_a: Images that A got right and B wrong.
        only_b: Images that B got right and A wrong.
        difference: `accuracy_a - accuracy_b`.
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
        level: Coverage of the interval, and 1 - the level of significance.
        p_value: Two-sided, of the exact McNemar test.
        method: How the p value and the interval were computed.
    """

    num_images: int
    accuracy_a: float
    accuracy_b: float
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    level: float
    p_value: float
    method: str = "exact McNemar test; Newcombe interval"

    @property
    def is_significant(self) -> bool:
        """Whether the test tells the two apart at this level. The test decides, not the interval."""
        return self.p_value < 1 - self.level


def compare_paired(correct_a: ArrayLike, correct_b: ArrayLike, *, level: float = 0.95) -> PairedComparison:
    """Compare two classifiers by what each got right on the same images.

    The p value is that of the exact McNemar test (McNemar 1947, doi:10.1007/BF02295996): of the images that one alone
    got right, the number that A got right is Binomial(m, 1/2) when the two are equally good. The interval of the
    difference is the score-based one for paired proportions (Newcombe 1998, Statistics in Medicine 17:2635-2650,
    method 10): it does not collapse to a point where the two agree on every image.

    Args:
        correct_a: `(N,)`, true where A was right.
        correct_b: `(N,)`, true where B was right, in the same order of images.
        level: Coverage of the interval.

    Raises:
        ValueError: The two are not of one length, or there is no image.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"expected two sequences of one length, at least 1; got shapes {a.shape} and {b.shape}")
    from scipy.stats import binomtest  # takes a second to import, and most runs compare nothing

    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    num_discordant = only_a + only_b
    p_value = float(binomtest(only_a, num_discordant, 0.5).pvalue) if num_discordant else 1.0
    low, high = _newcombe(both, only_a, only_b, neither, level)
    n = len(a)
    difference = (only_a - only_b) / n
    return PairedComparison(
        n, (both + only_a) / n, (both + only_b) / n, only_a, only_b, difference, low, high, level, p_value
    )


def compare_by_image(
    correct_a: Mapping[str, bool], correct_b: Mapping[str, bool], *, level: float = 0.95
) -> PairedComparison:
    """Compare two classifiers by image, whatever the order; see `compare_paired`.

    Args:
        correct_a: Image path -> whether A was right.
        correct_b: Image path -> whether B was right.
        level: Coverage of the interval.

    Raises:
        DataError: The two were not evaluated on the same images.
    """
    if unshared := sorted(correct_a.keys() ^ correct_b.keys()):
        raise DataError(
            f"a paired comparison needs the same images; {len(unshared)} were evaluated by one of the two only, "
            f"such as {unshared[0]}; evaluate both on the same data"
        )
    paths = sorted(correct_a)
    return compare_paired([correct_a[path] for path in paths], [correct_b[path] for path in paths], level=level)


def sentence(comparison: PairedComparison, name_a: str, name_b: str) -> str:
    """Say the outcome in plain words, for instance `head is better than scratch on 80 images: ...`."""
    c = comparison
    figures = (
        f"{c.accuracy_a:.3f} against {c.accuracy_b:.3f}, a difference of {100 * c.difference:+.1f} points "
        f"({c.level:.0%} interval {100 * c.low:+.1f} to {100 * c.high:+.1f}; exact McNemar {_p_text(c.p_value)})"
    )
    images = f"{c.num_images} image{'s' if c.num_images != 1 else ''}"
    if not c.is_significant:
        return f"{name_a} and {name_b} cannot be told apart on {images}: {figures}."
    return f"{name_a} is {'better' if c.difference > 0 else 'worse'} than {name_b} on {images}: {figures}."


def _p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _newcombe(both: int, only_a: int, only_b: int, neither: int, level: float) -> tuple[float, float]:
    n = both + only_a + only_b + neither
    a = wilson_interval(both + only_a, n, level)
    b = wilson_interval(both + only_b, n, level)
    phi = _phi(both, only_a, only_b, neither)
    difference = (only_a - only_b) / n
    below = _combine(a.value - a.low, b.high - b.value, phi)
    above = _combine(a.high - a.value, b.value - b.low, phi)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _combine(first: float, second: float, phi: float) -> float:
    # The square is never negative on paper; rounding may make it so where phi is 1.
    return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Correlation of the two, with Newcombe's continuity correction where it is positive."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    n = both + only_a + only_b + neither
    product: float = both * neither - only_a * only_b
    if product > 0:
        product = max(0.0, product - n / 2)
    return product / math.sqrt(margins)
