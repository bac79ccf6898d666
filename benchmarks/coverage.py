"""Do the intervals of `headstart compare` cover what they promise? python -m benchmarks.coverage [--trials 1000]

Many comparisons of four classifiers are simulated, of which the first three are equally good and the fourth is worse.
Seed s is right on image i where m + a[s] + b[i] + e[s, i] > 0, all normal: a is the seed's own strength, b how easy the
image is, e luck. The image part b (standard deviation 1.5, e has 1) is shared by classifiers that are equally good, and
correlates by 0.8 with that of the worse one. In groups of 1 to 10 images 70 % of the variance of b, and half of that of
e, is the group's. The truth is known: the accuracy is the normal distribution function at m / sqrt(1 + 1.5² + var a).

Columns: accuracy, equal and worse are the share of 95 % intervals that hold the accuracy of the first, the difference
of the first two (0) and that of the first and the worse one; `false` is how often one of the two that are equally good
is told apart from the first by its Holm-corrected p value; power, how often the worse one is; plain, the coverage of
the plain percentile bootstrap (S of S seeds, N of N images or groups) for the accuracy, for comparison.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from headstart.stats import compare, intervals, resampling

_NORMAL = NormalDist()
_EASE = 1.5
_SHARED = 0.8
_GROUP_EASE, _GROUP_LUCK = 0.7, 0.5
Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scenario:
    """What is simulated; `spread` is the standard deviation of a seed's strength, as a share of that of b + e."""

    accuracy: float
    num_images: int
    num_seeds: int
    spread: float = 0.0
    grouped: bool = False
    lead: float = 0.05

    def groups(self) -> npt.NDArray[np.int64] | None:
        if not self.grouped:
            return None
        sizes = np.random.default_rng(self.num_images).integers(1, 11, self.num_images)
        return np.repeat(np.arange(self.num_images), sizes)[: self.num_images]

    def trials(self, count: int, seed: int = 0) -> Iterator[dict[str, Right]]:
        """Yield classifiers, first, equal, equal too and worse, each (seeds, images)."""
        rng = np.random.default_rng([seed, self.num_images, self.num_seeds, int(1000 * self.accuracy)])
        groups = self.groups()
        for _ in range(count):
            easy = _noise(rng, 1, self.num_images, groups, _GROUP_EASE)
            other = np.sqrt(_SHARED) * easy
            other += np.sqrt(1 - _SHARED) * _noise(rng, 1, self.num_images, groups, _GROUP_EASE)
            goals = {"first": (self.accuracy, easy), "equal": (self.accuracy, easy), "equal too": (self.accuracy, easy)}
            goals["worse"] = (self.accuracy - self.lead, other)
            yield {name: self._right(rng, goal, ease, groups) for name, (goal, ease) in goals.items()}

    def _right(self, rng, goal, ease, groups) -> Right:
        own = self.spread * np.sqrt(1 + _EASE**2)
        middle = _NORMAL.inv_cdf(goal) * np.sqrt(1 + _EASE**2 + own**2)
        strength = own * rng.standard_normal((self.num_seeds, 1))
        return middle + strength + _EASE * ease + _noise(rng, self.num_seeds, self.num_images, groups, _GROUP_LUCK) > 0

    def __str__(self) -> str:
        parts = f"{self.accuracy:.2f} | {self.num_images} | {self.num_seeds} | {self.spread:.1f}"
        return f"{parts} | {'1 to 10' if self.grouped else '1'}"


def _noise(rng, rows, num_images, groups, share):
    noise = rng.standard_normal((rows, num_images))
    if groups is None:
        return noise
    return np.sqrt(1 - share) * noise + np.sqrt(share) * rng.standard_normal((rows, groups.max() + 1))[:, groups]


@dataclass(frozen=True)
class Outcome:
    """Shares of the trials."""

    accuracy: float
    equal: float
    worse: float
    false: float
    power: float
    plain: float | None = None

    def __str__(self) -> str:
        rates = [self.accuracy, self.equal, self.worse, self.false, self.power, self.plain]
        return " | ".join("" if rate is None else f"{rate:.3f}" for rate in rates)


def measure(scenario: Scenario, num_trials: int, *, plain: bool = False) -> Outcome:
    """Simulate a scenario."""
    groups, rows, covered = scenario.groups(), [], []
    for number, right in enumerate(scenario.trials(num_trials)):
        accuracy = intervals.accuracy_interval(right["first"], groups, seed=number)
        found = compare.compare_to_first(right, groups, seed=number)
        equal, worse = found["equal"], found["worse"]
        rows.append(
            (
                accuracy.low <= scenario.accuracy <= accuracy.high,
                equal.low <= 0 <= equal.high,
                worse.low <= scenario.lead <= worse.high,
                equal.is_significant or found["equal too"].is_significant,
                worse.is_significant,
            )
        )
        covered.append(_plain_covers(right["first"], groups, scenario.accuracy) if plain else False)
    return Outcome(*np.mean(rows, axis=0), plain=float(np.mean(covered)) if plain else None)


def _plain_covers(right: Right, groups: npt.NDArray[np.int64] | None, truth: float, draws: int = 1000) -> bool:
    rng = np.random.default_rng(0)
    index = np.arange(right.shape[1]) if groups is None else groups
    sums = np.stack([np.bincount(index, weights=row) for row in right])
    sizes, (num_seeds, num_units) = np.bincount(index), sums.shape
    units = rng.multinomial(num_units, np.full(num_units, 1 / num_units), draws)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), draws) / num_seeds
    means = ((units @ sums.T) * seeds).sum(axis=1) / (units @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return bool(low <= truth <= high)


def scenarios() -> Iterator[Scenario]:
    """List what the table is about. With one seed, what seeds vary by cannot be seen, so there they do not vary."""
    for accuracy, num_images in product((0.6, 0.9, 0.97), (50, 150, 500)):
        for num_seeds, spread in ((1, 0.0), (3, 0.0), (3, 0.1), (5, 0.1)):
            yield Scenario(accuracy, num_images, num_seeds, spread)
    for accuracy, num_images, (num_seeds, spread) in product((0.6, 0.9, 0.97), (150, 500), ((1, 0.0), (3, 0.1))):
        yield Scenario(accuracy, num_images, num_seeds, spread, grouped=True)
    for accuracy, num_images, num_seeds in product((0.9, 0.97), (150, 500), (2, 3, 5)):
        yield Scenario(accuracy, num_images, num_seeds, 0.3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--part", default="1/1", help="i/n: every n-th scenario from the i-th on")
    parser.add_argument("--plain", action="store_true", help="also the plain bootstrap")
    given = parser.parse_args(arguments)
    part, parts = map(int, given.part.split("/"))
    resampling._BLOCKS = 2  # 2,000 draws an interval are enough to count misses, each trial with a seed of its own
    print("accuracy | images | seeds | spread | group | accuracy | equal | worse | false | power | plain")
    print("---|" * 10 + "---")
    for scenario in list(scenarios())[part - 1 :: parts]:
        print(scenario, measure(scenario, given.trials, plain=given.plain), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
