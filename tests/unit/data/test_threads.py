import itertools
import threading
import time
from contextlib import closing

import pytest

from headstart.data.threads import default_threads, map_ahead


def decoders() -> int:
    return sum(thread.name.startswith("headstart-decode") for thread in threading.enumerate())


def test_results_come_in_order_whichever_is_ready_first() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 3 else 0)
        return number

    for ahead in (0, 2, 100):
        assert list(map_ahead(slow_at_first, range(20), threads=4, ahead=ahead)) == list(range(20))
    assert list(map_ahead(slow_at_first, [], threads=4, ahead=2)) == []
    assert decoders() == 0


def test_no_more_is_taken_than_may_wait() -> None:
    taken = itertools.count()
    with closing(map_ahead(lambda number: number, taken, threads=2, ahead=5)) as results:
        for number in range(3):
            assert next(results) == number
        assert next(taken) == 3 + 5
    assert decoders() == 0


def test_an_error_comes_in_its_place_and_ends_all() -> None:
    results = map_ahead(lambda number: 1 // (2 - number), range(9), threads=2, ahead=9)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert decoders() == 0


def test_one_thread_per_core_up_to_eight() -> None:
    assert 1 <= default_threads() <= 8
