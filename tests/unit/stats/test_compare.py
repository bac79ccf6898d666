import numpy as np
import pytest
from scipy.stats import binom

from headstart.errors import DataError
from headstart.stats.compare import PairedComparison, compare_by_image, compare_paired, sentence


def from_table(both: int, only_a: int, only_b: int, neither: int, level: float = 0.95) -> PairedComparison:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return compare_paired(a, b, level=level)


def test_p_value_by_hand():
    # Of 6 discordant images A wins 5: 2 * P(X >= 5) with X ~ Binomial(6, 1/2) = 2 * 7 / 64.
    result = from_table(10, 5, 1, 4)
    assert result.p_value == pytest.approx(14 / 64)
    assert (result.only_a, result.only_b, result.num_images) == (5, 1, 20)
    assert (result.accuracy_a, result.accuracy_b, result.difference) == (0.75, 0.55, 0.2)
    assert not result.is_significant


def test_interval_against_the_published_example():
    # Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10, for the table 36, 12, 2, 0.
    result = from_table(36, 12, 2, 0)
    assert (round(result.low, 4), round(result.high, 4)) == (0.0569, 0.3404)


def test_swapping_the_two_mirrors_the_result():
    there, back = from_table(60, 12, 3, 25), from_table(60, 3, 12, 25)
    assert there.p_value == back.p_value
    assert (there.difference, there.low, there.high) == pytest.approx((-back.difference, -back.high, -back.low))


def test_two_that_always_agree():
    result = from_table(140, 0, 0, 13)
    assert (result.p_value, result.difference) == (1.0, 0.0)
    assert result.low < 0 < result.high  # agreeing on 153 images is not the same as being the same
    assert result.low > -0.03


@pytest.mark.parametrize("table", [(1, 0, 0, 0), (0, 0, 0, 1), (0, 5, 0, 0), (0, 0, 5, 0), (1000, 0, 0, 1)])
def test_the_corners_give_ordered_figures(table):
    result = from_table(*table)
    assert -1 <= result.low <= result.difference <= result.high <= 1
    assert 0 <= result.p_value <= 1


def test_clearly_better():
    result = from_table(70, 25, 2, 3)
    assert result.is_significant
    assert result.low > 0


@pytest.mark.parametrize(("n", "accuracy"), [(80, 0.9), (153, 0.95), (500, 0.6)])
def test_identical_models_are_told_apart_in_at_most_one_of_twenty_trials(n, accuracy):
    """Two classifiers that share most mistakes and differ by luck only."""
    rng = np.random.default_rng(n)
    trials = 1000
    shared = rng.uniform(size=(trials, n)) < 0.6
    common, a, b = (rng.uniform(size=(trials, n)) < accuracy for _ in range(3))
    results = [
        compare_paired(np.where(s, c, x), np.where(s, c, y)) for s, c, x, y in zip(shared, common, a, b, strict=True)
    ]
    significant = sum(result.is_significant for result in results)
    assert significant <= binom.ppf(0.999, trials, 0.05)
    covered = np.mean([result.low <= 0 <= result.high for result in results])
    assert covered > 0.93


def test_images_are_matched_by_path():
    a = {"x.png": True, "y.png": True, "z.png": False}
    b = {"z.png": False, "y.png": False, "x.png": True}
    assert compare_by_image(a, b) == compare_paired([1, 1, 0], [1, 0, 0])


def test_other_images_cannot_be_compared():
    with pytest.raises(DataError, match=r"2 were evaluated by one of the two only, such as x\.png"):
        compare_by_image({"x.png": True, "y.png": True}, {"y.png": True, "z.png": True})


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False]), ([[True]], [[True]])])
def test_what_is_not_paired_is_refused(a, b):
    with pytest.raises(ValueError, match="one length"):
        compare_paired(a, b)


def test_sentences_are_plain():
    assert sentence(from_table(70, 25, 2, 3), "head", "scratch").startswith(
        "head is better than scratch on 100 images: 0.950 against 0.720, a difference of +23.0 points (95% interval +"
    )
    assert sentence(from_table(70, 2, 25, 3), "scratch", "head").startswith("scratch is worse than head on 100 images")
    text = sentence(from_table(10, 5, 1, 4), "head", "full")
    assert text.startswith("head and full cannot be told apart on 20 images")
    assert "exact McNemar p = 0.219" in text
    assert "p < 0.001" in sentence(from_table(70, 25, 2, 3), "a", "b")
    assert "on 1 image:" in sentence(from_table(1, 0, 0, 0), "a", "b")
