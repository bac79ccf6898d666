"""OpenVINO: the fastest way to run a fixed network on a CPU. Importing this module loads no torch."""

import importlib.util
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import numpy.typing as npt

from headstart.errors import EngineError
from headstart.machine import has_foreign_allocator, signal_stack_kept
from headstart.preprocessing import Pixels

Row = npt.NDArray[np.float32]


@final
class OpenVINOEngine:
    """A compiled network: `uint8` pixels in, `float32` out; any number of threads may use it at once.

    Images go through the network one by one, in as many threads as OpenVINO has streams. Each of these threads has an
    inference request of its own, so that no result can reach another caller. An image's result depends neither on the
    other images nor on the number of streams (checked by tests/contract/test_engines.py), so rows computed in any order
    are the same bits.

    Attributes:
        name: `openvino`.
        precision: `bf16` or `32`.
    """

    name = "openvino"

    def __init__(self, model: Any, precision: str) -> None:
        """Compile a network.

        Args:
            model: An `openvino.Model`, such as `conversion.convert` returns.
            precision: `bf16` or `32`.

        Raises:
            EngineError: OpenVINO cannot run it.
        """
        self.precision = precision
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        with as_engine_error():
            import openvino as ov

            # Linux: each plugin for CPUs gives this thread a stack for signal handlers of its own, and takes it back
            # when it goes. Where the older of two goes first, the younger one brings a stack back that is freed, and
            # the next Ctrl-C ends the process with a segmentation fault.
            with signal_stack_kept():
                self._compiled = ov.Core().compile_model(model, "CPU", options)
            self._row_shape = tuple(self._compiled.output(0).shape)[1:]
            self._num_streams: int = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._process = os.getpid()
        self._requests = threading.local()
        self._workers = ThreadPoolExecutor(self._num_streams, thread_name_prefix="headstart-openvino")

    def run(self, batches: Iterable[Pixels]) -> Iterator[npt.NDArray[np.float32]]:
        """Map batches `uint8` (N, H, W, 3), each of any N, to `float32` (N, ...), in order and ahead of their use.

        Raises:
            EngineError: The network fails, or this process is a fork of the one in which the engine was made.
        """
        if os.getpid() != self._process:  # it would wait for threads that are not here, for ever
            raise EngineError(
                "OpenVINO was opened before this process was forked, and its threads are not here; load the model in "
                "each process, or start processes by 'spawn'"
            )
        pending: deque[list[Future[Row]]] = deque()
        num_pending = 0
        try:
            for pixels in batches:
                pending.append([self._workers.submit(self._compute_row, image) for image in pixels])
                num_pending += len(pixels)
                # The workers need something to do while the caller works on a result.
                while num_pending - len(pending[0]) >= 2 * self._num_streams:
                    num_pending -= len(pending[0])
                    yield self._joined(pending.popleft())
            while pending:
                yield self._joined(pending.popleft())
        finally:
            for rows in pending:
                for row in rows:
                    row.cancel()

    def _compute_row(self, image: npt.NDArray[np.uint8]) -> Row:
        """Compute the result of one image; called in a worker."""
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compiled.create_infer_request()
        request.infer({0: np.ascontiguousarray(image[None])}, share_inputs=True)
        row: Row = request.get_output_tensor(0).data[0].copy()
        return row

    def _joined(self, rows: list[Future[Row]]) -> npt.NDArray[np.float32]:
        """Wait for the results of a batch, and return them as one array."""
        joined = np.empty((len(rows), *self._row_shape), dtype=np.float32)
        with as_engine_error():
            for position, row in enumerate(rows):
                joined[position] = row.result()
        return joined


def why_unusable() -> str:
    """Say why OpenVINO cannot be used in this process, or return ''."""
    if has_foreign_allocator():
        return "another allocator is loaded with LD_PRELOAD, with which OpenVINO ends the whole process"
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed"
    return ""


@contextmanager
def as_engine_error() -> Iterator[None]:
    """Within the block, whatever is raised becomes an `EngineError` of one line."""
    try:
        yield
    except Exception as error:  # converters raise all kinds
        raise EngineError(f"OpenVINO cannot run it: {' '.join(str(error).split())[:200]}") from error
