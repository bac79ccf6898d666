"""Work that threads do ahead of its use."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from headstart.machine import num_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def default_threads() -> int:
    """Return how many threads decode where nothing is asked for: one per core, 8 at most."""
    return min(8, num_cores())


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int, ahead: int
) -> Generator[_Result]:
    """Yield `function(item)` for each item, in order, computed by threads ahead of its use.

    Close it, or use `contextlib.closing`, where its user may stop early: then no thread outlives it.

    Args:
        function: Called from any of the threads; what it raises is raised in the result's place, and ends all.
        items: Arguments of the calls; they are taken as they are needed.
        threads: Number of threads.
        ahead: Number of results that may wait to be taken: the bound on memory.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="headstart-decode")
    pending: deque[Future[_Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
