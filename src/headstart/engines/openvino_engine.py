"""OpenVINO: the fastest way to run a fixed network on a CPU."""

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headstart.engines.engine import EngineKind
from headstart.errors import EngineError
from headstart.machine import has_bf16, has_foreign_allocator, signal_stack_kept
from headstart.preprocessing import Pixels, byte_statistics
from headstart.types import InputSpec

Row = npt.NDArray[np.float32]

# What is changed while a network is converted belongs to the whole process: one conversion at a time.
_converting = threading.Lock()


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
            model: What `convert` returns.
            precision: `bf16` or `32`.

        Raises:
            EngineError: OpenVINO cannot run it.
        """
        self.precision = precision
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        with _as_engine_error():
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
        with _as_engine_error():
            for position, row in enumerate(rows):
                joined[position] = row.result()
        return joined


def convert(module: nn.Module, spec: InputSpec) -> Any:
    """Convert a network to OpenVINO's representation, with its preprocessing, for one image at a time.

    Args:
        module: Maps normalised images (N, 3, H, W) to one tensor; in eval mode.
        spec: Size and normalisation, which become part of the graph.

    Raises:
        EngineError: OpenVINO is not installed, or cannot convert it.
    """
    with _as_engine_error():
        import openvino as ov
        from openvino.preprocess import PrePostProcessor

        model = _converted(module, spec)
        model.reshape([1, 3, *spec.size])
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.input().model().set_layout(ov.Layout("NCHW"))
        scaled = steps.input().preprocess().convert_element_type(ov.Type.f32)
        mean, std = byte_statistics(spec)
        scaled.mean(mean).scale(std)
        return steps.build()


@contextmanager
def _as_engine_error() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # converters raise all kinds
        raise EngineError(f"OpenVINO cannot run it: {' '.join(str(error).split())[:200]}") from error


def _converted(module: nn.Module, spec: InputSpec) -> Any:
    """Convert a network as it is, without its preprocessing; leaves the network as it was.

    A trace is converted in an eighth to a third of the time that the supported way takes, to a graph that computes the
    same bits (docs/decisions/0014-one-engine-for-a-classifier.md). But PyTorch's traces are deprecated and OpenVINO's
    decoder of them is its own affair, so where that way is closed, the supported one is taken.
    """
    example = torch.zeros(1, 3, *spec.size, device=next((p.device for p in module.parameters()), None))
    with _converting, _convertible(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # traces are deprecated, and constant shapes are what is wanted
        try:
            return _from_trace(module, example)
        except Exception:  # of any type: what the two libraries no longer have, or cannot follow
            return _from_export(module, example)


@contextmanager
def _convertible(module: nn.Module) -> Iterator[None]:
    """Within the block, no parameter wants a gradient, and attention takes no short cut."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        for parameter in trainable:  # a trace cannot hold what wants a gradient as a constant
            parameter.requires_grad_(False)
        # The fast path of attention is one fused operation that no converter knows.
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for parameter in trainable:
            parameter.requires_grad_(True)


def _from_trace(module: nn.Module, example: torch.Tensor) -> Any:
    """Convert a traced function, which carries the weights as constants."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    traced = torch.jit.trace(  # type: ignore[no-untyped-call]
        lambda images: module(images), example, check_trace=False, strict=False
    )
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)  # must outlive the conversion
    return frontend.convert(frontend.load(decoder))


def _from_export(module: nn.Module, example: torch.Tensor) -> Any:
    """Convert an exported program: the way that both libraries support."""
    import openvino as ov

    return ov.convert_model(torch.export.export(module, (example,)))


def _precisions(device: torch.device) -> tuple[str, ...]:
    if device.type != "cpu":
        return ()
    return ("bf16", "32") if has_bf16() else ("32",)


def _prepare(
    module: nn.Module, spec: InputSpec, device: torch.device, may_vary: bool
) -> Callable[[str], OpenVINOEngine]:
    if has_foreign_allocator():
        raise EngineError("another allocator is loaded with LD_PRELOAD, with which OpenVINO ends the whole process")
    model = convert(module, spec)  # once for all precisions
    return lambda precision: OpenVINOEngine(model, precision)


OPENVINO = EngineKind("a CPU", precisions=_precisions, usual=_precisions, prepare=_prepare)
