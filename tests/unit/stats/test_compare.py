import re

import numpy as np
import pytest
from benchmarks.coverage import Scenario, measure
from scipy.stats import binomtest

from headstart.stats import compare, resampling
from headstart.stats.compare import Difference, compare_to_first, difference_sentence
from headstart.stats.intervals import accuracy_interval, wilson_interval


def answers(num_seeds, num_images, accuracy, *, seed=0, agree=0.8):
    """Draw seeds that share most mistakes."""
    rng = np.random.default_rng(seed)
    shared = rng.random(num_images) < accuracy
    own = rng.random((num_seeds, num_images)) < accuracy
    return np.where(rng.random((num_seeds, num_images)) < agree, shared, own)


def from_table(both, only_first, only_other, neither):
    first = [1] * (both + only_first) + [0] * (only_other + neither)
    return first, [1] * both + [0] * only_first + [1] * only_other + [0] * neither


def width(interval):
    return interval.high - interval.low


@pytest.fixture
def fewer_draws(monkeypatch):
    """A thousand draws, and no search for how many images would do: what thousands of simulated studies need."""
    monkeypatch.setattr(resampling, "_BLOCKS", 1)
    monkeypatch.setattr(compare, "_images_needed", lambda *given: None)


# Does it cover what it promises? `python -m benchmarks.coverage` has more of it.


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(0.9, 150, 1),
        Scenario(0.6, 50, 5, spread=0.1),
        Scenario(0.9, 150, 3, spread=0.1),
        Scenario(0.97, 500, 5, spread=0.1),
        Scenario(0.9, 500, 3, spread=0.1, grouped=True),
    ],
    ids=str,
)
@pytest.mark.usefixtures("fewer_draws")
def test_intervals_cover_and_equal_models_are_seldom_told_apart(scenario):
    found = measure(scenario, 600)
    assert 0.93 <= found.accuracy <= 0.97
    assert 0.93 <= found.worse <= 0.97
    assert found.equal >= 0.93
    assert found.false <= 0.05


@pytest.mark.usefixtures("fewer_draws")
def test_the_plain_bootstrap_would_not_have_covered():
    found = measure(Scenario(0.9, 150, 3, spread=0.3), 120, plain=True)
    assert found.plain < 0.88 < found.accuracy


# One accuracy


def test_one_seed_without_groups_is_the_interval_of_metrics_json():
    right = answers(1, 153, 0.95)
    interval, wilson = accuracy_interval(right), wilson_interval(int(right.sum()), 153)
    assert (interval.value, interval.low, interval.high) == (wilson.value, wilson.low, wilson.high)
    assert interval.method == "wilson, 153 images; one seed, so what another would change is not in it"
    assert accuracy_interval(right[0]) == accuracy_interval(right, np.arange(153)) == interval


def test_the_method_says_what_was_resampled():
    right, groups = answers(3, 60, 0.9), np.arange(60) // 3
    assert accuracy_interval(right).method == "hierarchical bootstrap over 3 seeds and 60 images"
    assert accuracy_interval(right, groups).method == "hierarchical bootstrap over 3 seeds and 60 images in 20 groups"
    assert "one seed" in accuracy_interval(right[:1], groups).method
    found = compare_to_first({"a": right, "b": right[:2]}, groups)["b"]
    assert (found.num_seeds, found.num_images, found.num_groups) == (2, 60, 20)
    assert found.method == "hierarchical bootstrap over 2 seeds and 60 images in 20 groups, paired by image"


def test_seeds_that_agree_are_worth_no_more_than_one():
    one = answers(1, 150, 0.9)
    together, alone = accuracy_interval(np.repeat(one, 5, axis=0)), accuracy_interval(one)
    assert together.value == pytest.approx(alone.value)
    assert width(together) == pytest.approx(width(alone), rel=0.05)


def test_seeds_that_differ_widen_the_interval():
    right = answers(3, 400, 0.9, agree=0.9)
    spoilt = right.copy()
    spoilt[0, np.flatnonzero(right[0])[:60]] = False
    assert width(accuracy_interval(spoilt)) > 3 * width(accuracy_interval(right))


def test_images_that_come_together_count_once():
    right = answers(3, 100, 0.9, agree=0.98)
    copies, groups = np.repeat(right, 5, axis=1), np.repeat(np.arange(100), 5)
    assert width(accuracy_interval(copies, groups)) == pytest.approx(width(accuracy_interval(right)), rel=0.1)
    assert width(accuracy_interval(copies)) < 0.6 * width(accuracy_interval(right))


@pytest.mark.parametrize("groups", [None, np.arange(60) // 4])
@pytest.mark.parametrize("always", [True, False])
def test_no_mistake_and_no_hit_leave_doubt(groups, always):
    interval = accuracy_interval(np.full((3, 60), always), groups)
    assert interval.value == float(always)
    assert (interval.high, interval.low)[not always] == float(always)
    assert 0.02 < width(interval) < 0.4


def test_order_and_names_do_not_matter():
    right, other, groups = answers(3, 90, 0.9), answers(3, 90, 0.8, seed=1), np.arange(90) // 3
    shuffled = np.random.default_rng(0).permutation(90)
    names = np.array([f"patient {number}" for number in groups])
    a, b = accuracy_interval(right, groups), accuracy_interval(right[::-1][:, shuffled], names[shuffled])
    assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=1e-9)
    a = compare_to_first({"x": right, "y": other}, groups)["y"]
    b = compare_to_first({"x": right[:, shuffled], "y": other[:, shuffled]}, names[shuffled])["y"]
    assert (b.low, b.high, b.p_value) == pytest.approx((a.low, a.high, a.p_value), abs=1e-9)


def test_a_higher_level_is_wider_and_the_seed_decides_the_draws():
    right = answers(3, 60, 0.9)
    assert width(accuracy_interval(right, level=0.99)) > width(accuracy_interval(right))
    assert accuracy_interval(right, seed=3) == accuracy_interval(right, seed=3) != accuracy_interval(right)


def test_one_image_and_one_group_say_next_to_nothing():
    assert accuracy_interval([[1], [0]]).value == 0.5
    assert width(accuracy_interval([1])) > 0.7
    assert (accuracy_interval([1, 1], ["a", "a"]).low, accuracy_interval([1, 1], ["a", "a"]).high) == (0.0, 1.0)
    found = compare_to_first({"a": [1, 1], "b": [0, 0]}, ["x", "x"])["b"]
    assert (found.low, found.high, found.p_value) == (-1, 1, 1)


# Differences


def test_the_same_predictions_cannot_be_told_apart():
    right = answers(3, 153, 0.95)
    found = compare_to_first({"a": right, "b": right})["b"]
    assert (found.difference, found.p_value, found.p_holm, found.images_needed) == (0, 1, 1, None)
    assert -0.1 < found.low < -0.005 < 0.005 < found.high < 0.1


def test_one_seed_is_close_to_the_classic_tests():
    # Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10, for this table: 0.0569 to 0.3404.
    first, other = from_table(36, 12, 2, 0)
    found = compare_to_first({"first": first, "other": other})["other"]
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=0.025)
    for table in [(10, 5, 1, 4), (100, 14, 6, 30), (200, 25, 6, 10), (40, 3, 3, 4)]:
        first, other = from_table(*table)
        exact = binomtest(table[1], table[1] + table[2]).pvalue  # McNemar's test
        found = compare_to_first({"first": first, "other": other})["other"]
        assert found.p_value == pytest.approx(exact, abs=0.12)
        assert found.is_significant == (exact < 0.05)


def test_swapping_the_two_mirrors_the_result():
    a, b = answers(3, 150, 0.9), answers(4, 150, 0.8, seed=1)
    there, back = compare_to_first({"a": a, "b": b})["b"], compare_to_first({"b": b, "a": a})["a"]
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.01)
    assert there.images_needed == back.images_needed


def test_holm_by_hand(monkeypatch):
    p_values = iter([0.04, 0.01, 0.03, 0.5])
    plain = Difference(0.1, 0, 0.2, 0.95, 0, 0, 1, 50, None, None, "")
    monkeypatch.setattr(compare, "_difference", lambda *given: compare.replace(plain, p_value=next(p_values), p_holm=0))
    found = compare_to_first({name: [1, 0] for name in "abcde"})
    # Sorted: 0.01 * 4, 0.03 * 3, 0.04 * 2 (but no less than the one before), 0.5.
    assert [found[name].p_holm for name in "bcde"] == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert [found[name].is_significant for name in "bcde"] == [False, True, False, False]


def test_many_comparisons_ask_for_more():
    first, other = from_table(100, 16, 4, 30)
    alone = compare_to_first({"first": first, "other": other})["other"]
    among = compare_to_first({"first": first, "other": other, **{str(k): first for k in range(9)}})["other"]
    assert among.p_value == alone.p_value
    assert among.p_holm == pytest.approx(min(1, 10 * alone.p_value))
    assert alone.is_significant > among.is_significant
    assert among.images_needed > 1.5 * alone.images_needed > 120  # at the level of the first of ten


@pytest.mark.usefixtures("fewer_draws")
def test_the_best_of_many_on_the_same_images_is_told_apart_as_rarely_as_promised(monkeypatch):
    monkeypatch.setattr(resampling, "_BLOCKS", 2)
    rng, told = np.random.default_rng(0), {True: 0, False: 0}
    for trial in range(200):
        easy = rng.standard_normal(150)
        equal = {str(k): easy + rng.standard_normal(150) > -1 for k in range(6)}
        by_accuracy = dict(sorted(equal.items(), key=lambda item: -item[1].sum()))
        for chosen in told:
            found = compare_to_first(by_accuracy, seed=trial, is_chosen_here=chosen)
            told[chosen] += any(d.is_significant for d in found.values())
    assert told[True] <= 0.05 * 200
    assert told[False] > told[True]  # what the choice would have cost


def test_many_comparisons_do_not_put_significance_out_of_reach():
    rng = np.random.default_rng(0)
    best, others = np.ones(300, bool), {str(k): rng.random(300) < 0.6 for k in range(29)}  # 435 pairs
    found = compare_to_first({"best": best, **others}, is_chosen_here=True)
    assert all(d.is_significant for d in found.values())


def test_so_many_images_as_needed_have_the_power_promised(monkeypatch):
    monkeypatch.setattr(resampling, "_BLOCKS", 1)
    first, other = from_table(125, 12, 6, 10)
    needed = compare_to_first({"first": first, "other": other})["other"].images_needed
    # By hand: (1.960 + 0.842)² (18/153 - (6/153)²) 153/152 / (6/153)², to first order; pseudo-images are not in it.
    assert needed == pytest.approx(7.849 * (18 / 153 - (6 / 153) ** 2) * 153 / 152 / (6 / 153) ** 2, rel=0.05)
    rng, told = np.random.default_rng(0), 0
    for _ in range(300):
        table = rng.multinomial(needed, np.array([125, 12, 6, 10]) / 153)
        first, other = from_table(*table)
        told += compare_to_first({"first": first, "other": other})["other"].is_significant
    assert 0.72 < told / 300 < 0.88


def test_no_number_of_images_makes_up_for_seeds_that_differ():
    even = answers(3, 300, 0.8, agree=1.0)
    uneven = even.copy()
    for seed, count in enumerate((0, 10, 60)):
        uneven[seed, np.flatnonzero(even[0])[:count]] = False
    found = compare_to_first({"even": even, "uneven": uneven})["uneven"]
    assert found.difference > 0.05
    assert (found.is_significant, found.images_needed) == (False, None)
    assert difference_sentence("even", "uneven", found).endswith(
        "images alone would not do, more seeds would be needed."
    )


@pytest.mark.parametrize(
    ("num_images", "num_seeds", "num_groups"), [(8, 1, None), (60, 1, 3), (100, 2, None), (60, 3, 3)]
)
def test_what_cannot_be_told_apart_never_asks_for_as_many_images_as_there_are(
    num_images, num_seeds, num_groups, monkeypatch
):
    monkeypatch.setattr(resampling, "_BLOCKS", 1)
    asked = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups = rng.permutation(np.arange(num_images) % num_groups) if num_groups else np.arange(num_images)
        easy = rng.standard_normal(num_images) + rng.standard_normal(num_images)[groups]
        first, other = (
            easy + rng.standard_normal((num_seeds, num_images)) > bar for bar in (-1.5, -1.5 + rng.uniform(0, 1.5))
        )
        found = compare_to_first({"first": first, "other": other}, groups, seed=seed)["other"]
        if not found.is_significant:
            text = difference_sentence("first", "other", found)
            asked += [int(number.replace(",", "")) for number in re.findall(r"about ([\d,]+) images", text)]
    assert asked
    assert min(asked) > num_images


def test_power_counts_the_degrees_of_freedom_that_seeds_leave():
    # Both vary over seeds by as much: with so many images that only this is left, t has 4 degrees of freedom.
    first, other = (answers(3, 400, accuracy, agree=1.0) for accuracy in (0.9, 0.8))
    for right in (first, other):
        for seed in range(3):
            right[seed, np.flatnonzero(right[seed])[: 8 * seed]] = False
    found = resampling.difference_moments(
        *(resampling.make_sample(right, None) for right in (first, other)), growth=1e6
    )
    assert found.freedom == pytest.approx(4, abs=0.1)
    assert found.kept < 1e-8 < found.seeds


def test_one_comparison_and_none():
    right = answers(3, 40, 0.8)
    assert compare_to_first({"a": right}) == {}
    assert list(compare_to_first({"a": right, "b": right, "c": right})) == ["b", "c"]


class CountingGenerator:
    """Counts the numbers that are drawn."""

    made = ()

    def __init__(self, seed):
        self._generator, self.count = np.random.Generator(np.random.PCG64(seed)), 0
        CountingGenerator.made += (self,)

    def __getattr__(self, name):
        def draw(*arguments):
            drawn = getattr(self._generator, name)(*arguments)
            self.count += drawn.size
            return drawn

        return draw


def test_ten_thousand_images_take_no_time(monkeypatch):
    """Equal images are drawn at once, and how many would do is found by halving."""
    right, other = answers(3, 10_000, 0.8), answers(5, 10_000, 0.79, seed=1)
    generators, moments, find_moments = [], [], compare.difference_moments
    monkeypatch.setattr(
        np.random, "default_rng", lambda seed: generators.append(CountingGenerator(seed)) or generators[-1]
    )
    monkeypatch.setattr(compare, "difference_moments", lambda *given: moments.append(given) or find_moments(*given))
    accuracy_interval(right)
    compare_to_first({"a": right, "b": other}, np.arange(10_000) // 4)
    num_draws, (of_accuracy, of_difference) = 1000 * resampling._BLOCKS, CountingGenerator.made
    assert num_draws < of_accuracy.count < 10 * num_draws
    assert num_draws < of_difference.count < 200 * num_draws
    assert len(moments) < 20


@pytest.mark.parametrize(
    ("correct", "groups", "message"),
    [
        ([[]], None, "one of each"),
        (np.ones((2, 3, 4)), None, "one of each"),
        (np.ones((2, 3)), [0, 1], "a group for each of 3"),
    ],
)
def test_what_has_no_accuracy_is_refused(correct, groups, message):
    with pytest.raises(ValueError, match=message):
        accuracy_interval(correct, groups)


def test_other_images_cannot_be_compared():
    with pytest.raises(ValueError, match=r"got \[4, 5\]"):
        compare_to_first({"a": [1, 1, 1, 1], "b": [1, 1, 1, 1, 1]})


def test_one_image_and_one_group_are_counted_in_plain_words():
    one_group = compare_to_first({"a": [1, 0, 1], "b": [0, 0, 1]}, ["x"] * 3)["b"]
    assert "on 3 images in 1 group (one seed)" in difference_sentence("a", "b", one_group)
    assert accuracy_interval([1, 0, 1], ["x"] * 3).method.startswith("bootstrap over 3 images in 1 group;")
    assert accuracy_interval([1]).method.startswith("wilson, 1 image;")


def test_two_groups_have_an_interval_at_every_level():
    found = accuracy_interval([1, 0, 1, 1], [0, 0, 1, 1], level=0.9999)
    assert 0 <= found.low < 0.01
    assert 0.99 < found.high <= 1


def test_sentences_are_plain():
    far = Difference(0.0421, 0.011, 0.072, 0.95, 0.002, 0.004, 3, 153, None, 120, "")
    assert difference_sentence("head", "full", far) == (
        "head is better than full on 153 images (3 seeds): a difference of +4.2 points "
        "(95% interval +1.1 to +7.2; p = 0.004, Holm)."
    )
    behind = compare.replace(far, difference=-0.04, p_holm=0.0002, num_seeds=1, num_groups=30)
    text = difference_sentence("scratch", "head", behind)
    assert text.startswith("scratch is worse than head on 153 images in 30 groups (one seed): a difference of -4.0")
    assert "p < 0.001, Holm" in text
    close = compare.replace(far, difference=0.007, p_holm=0.47, images_needed=12345)
    text = difference_sentence("head", "full", close)
    assert text.startswith("head and full cannot be told apart on 153 images (3 seeds): a difference of +0.7 points")
    assert text.endswith("; about 13,000 images would be needed.")
    grouped = difference_sentence("head", "full", compare.replace(close, num_groups=30, images_needed=154))
    assert grouped.endswith("; about 160 images in 31 groups would be needed.")
    grouped = difference_sentence("head", "full", compare.replace(close, num_groups=30, images_needed=None))
    assert grouped.endswith("; more images alone would not do, more seeds or groups would be needed.")
    first, other = [1] * 8, [0] * 8  # enough of them for a difference as sure as this, and yet not told apart
    found = compare_to_first({"a": first, "b": other, **{str(k): first for k in range(9)}})["b"]
    assert difference_sentence("a", "b", found).endswith("; more images would be needed.")
    same = compare.replace(far, difference=0.0, p_holm=1.0, images_needed=None)
    assert difference_sentence("a", "b", same).endswith("; p = 1.000, Holm).")
