import itertools
import threading
from contextlib import closing

import pytest

from headstart.data.threads import default_threads, map_ahead


def decoders() -> int:
    return sum(thread.name.startswith("headstart-decode") for thread in threading.enumerate())


def test_results_come_in_order_whichever_is_ready_first() -> None:
    third_is_ready = threading.Event()

    def first_waits_for_third(number: int) -> int:
        if number == 0:
            assert third_is_ready.wait(timeout=30)
        if number == 2:
            third_is_ready.set()
        return number

    for ahead in (2, 100):
        third_is_ready.clear()
        assert list(map_ahead(first_waits_for_third, range(20), threads=4, ahead=ahead)) == list(range(20))
    assert list(map_ahead(abs, range(20), threads=4, ahead=0)) == list(range(20))
    assert list(map_ahead(first_waits_for_third, [], threads=4, ahead=2)) == []
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
