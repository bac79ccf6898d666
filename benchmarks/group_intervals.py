"""Which interval of one classifier's accuracy holds where images come in groups? python -m benchmarks.group_intervals

Groups (patients, bursts) are drawn, an accuracy with its 95 % interval is computed from them, and it is counted how
often the interval holds the true accuracy, and how wide it is. An image is right where `m + g + e > 0`, both normal and
together of variance 1: g is its group's, e its own. `alike` is the share of g: at 1 a group is right or wrong as a
whole, at 0 it makes no difference. Sizes are 10 each, or `uneven`: from 1 to 60, where the largest tenth of the groups
has nearly half of the images.

Methods: `images`, Wilson's interval over images, as if there were no groups; `percentile`, quantiles of means of groups
that were drawn with replacement; `effect`, Wilson's interval for the number of images divided by the design effect, the
normal quantile replaced by Student's t for the number of groups; `ours`, `stats.intervals.accuracy_interval`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from headstart.stats import resampling
from headstart.stats.intervals import accuracy_interval, wilson_interval

_NORMAL = NormalDist()
_UNEVEN = (60, 30, 10, 10, 5, 5, 5, 2, 2, 1)
_LEVEL = 0.95
Ends = tuple[float, float]
Method = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.int64], int], Ends]


@dataclass(frozen=True)
class Scenario:
    """What is drawn."""

    num_groups: int
    is_uneven: bool
    accuracy: float
    alike: float

    def groups(self) -> npt.NDArray[np.int64]:
        """Return the group of each image."""
        sizes = np.full(self.num_groups, 10)
        if self.is_uneven:
            sizes = np.resize(_UNEVEN, self.num_groups)
        return np.repeat(np.arange(self.num_groups), sizes)

    def trials(self, count: int) -> Iterator[npt.NDArray[np.bool_]]:
        """Yield which images are right, `(N,)`."""
        groups = self.groups()
        middle = _NORMAL.inv_cdf(self.accuracy)
        rng = np.random.default_rng(0)
        for _ in range(count):
            of_groups = np.sqrt(self.alike) * rng.standard_normal(self.num_groups)
            of_images = np.sqrt(1 - self.alike) * rng.standard_normal(len(groups))
            yield middle + of_groups[groups] + of_images > 0

    def __str__(self) -> str:
        return f"{self.num_groups} | {'uneven' if self.is_uneven else '10'} | {self.accuracy:.2f} | {self.alike:.1f}"


def over_images(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64], seed: int) -> Ends:
    """Compute Wilson's interval over images."""
    found = wilson_interval(int(right.sum()), len(right), _LEVEL)
    return found.low, found.high


def percentile(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64], seed: int) -> Ends:
    """Draw groups with replacement."""
    sizes = np.bincount(groups)
    hits = np.bincount(groups, weights=right)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), 2000)
    low, high = np.quantile((draws @ hits) / (draws @ sizes), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def design_effect(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64], seed: int) -> Ends:
    """Compute Wilson's interval for fewer images, with Student's quantile."""
    sizes = np.bincount(groups)
    hits = np.bincount(groups, weights=right)
    num_groups = len(sizes)
    num_images = len(right)
    value = right.mean()
    effect = 1.0
    if 0 < value < 1:
        # The variance of a ratio to first order, by that of a mean of independent images.
        spread = ((hits - value * sizes) ** 2).sum() * num_groups / (num_groups - 1)
        effect = max(1.0, spread / (num_images * value * (1 - value)))
    n = num_images / effect
    t = stdtrit(num_groups - 1, (1 + _LEVEL) / 2)
    centre = (value + t * t / (2 * n)) / (1 + t * t / n)
    half = t * np.sqrt(value * (1 - value) / n + t * t / (4 * n * n)) / (1 + t * t / n)
    return float(centre - half), float(centre + half)


def ours(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64], seed: int) -> Ends:
    """Compute what `metrics.json` has."""
    found = accuracy_interval(right, groups, level=_LEVEL, seed=seed)
    return found.low, found.high


METHODS: dict[str, Method] = {
    "images": over_images,
    "percentile": percentile,
    "effect": design_effect,
    "ours": ours,
}


def measure(scenario: Scenario, method: Method, num_trials: int) -> tuple[float, float]:
    """Return the share of intervals that hold the truth, and their mean width."""
    groups = scenario.groups()
    held = []
    widths = []
    for number, right in enumerate(scenario.trials(num_trials)):
        low, high = method(right, groups, number)
        held.append(low <= scenario.accuracy <= high)
        widths.append(high - low)
    return float(np.mean(held)), float(np.mean(widths))


def scenarios() -> Iterator[Scenario]:
    """List what the table is about."""
    for num_groups, is_uneven in product((5, 10, 20, 50), (False, True)):
        for accuracy, alike in product((0.6, 0.9), (0.0, 0.3, 1.0)):
            yield Scenario(num_groups, is_uneven, accuracy, alike)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    given = parser.parse_args(arguments)
    resampling._BLOCKS = 2  # 2,000 draws an interval are enough to count misses, each trial with a seed of its own
    print("groups | size | accuracy | alike | " + " | ".join(f"{name}, width" for name in METHODS))
    print("---|" * (3 + len(METHODS)) + "---")
    for scenario in scenarios():
        cells = []
        for method in METHODS.values():
            held, width = measure(scenario, method, given.trials)
            cells.append(f"{held:.3f}, {width:.2f}")
        print(scenario, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
