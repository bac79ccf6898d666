import pytest
from benchmarks.timing import speedup


def runs(*seconds):
    return [{"wall_s": each} for each in seconds]


def test_sides_that_ran_equally_often_are_compared_pair_by_pair():
    found = speedup(runs(100, 90, 120), runs(10, 10, 20))
    assert found.times == 9
    assert found.text == "9.0 (6.0 to 10.0, n = 3) times"


@pytest.mark.parametrize(("first", "second"), [(runs(800), runs(25, 50, 60, 75)), (runs(80, 800, 900), runs(100))])
def test_without_pairs_the_medians_are_compared_and_no_spread_is_claimed(first, second):
    found = speedup(first, second)
    assert found.times == pytest.approx(800 / 55 if len(first) == 1 else 8)
    assert found.text == f"{found.times:.1f} times (medians of {len(first)} and {len(second)} runs)"
