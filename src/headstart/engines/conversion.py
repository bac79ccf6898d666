"""From a PyTorch network to OpenVINO's representation of it."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from headstart.engines.engine import EngineKind
from headstart.engines.openvino_engine import OpenVINOEngine, as_engine_error, why_unusable
from headstart.errors import EngineError
from headstart.machine import has_bf16
from headstart.preprocessing import byte_statistics
from headstart.types import InputSpec

# What is changed while a network is converted belongs to the whole process: one conversion at a time.
_converting = threading.Lock()


def convert(module: nn.Module, spec: InputSpec) -> Any:
    """Convert a network to OpenVINO's representation, with its preprocessing, for one image at a time.

    Args:
        module: Maps normalised images (N, 3, H, W) to a tensor, or a tuple of them; in eval mode.
        spec: Size and normalisation, which become part of the graph.

    Raises:
        EngineError: OpenVINO is not installed, or cannot convert it.
    """
    with as_engine_error():
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
    reason = why_unusable()
    if reason:
        raise EngineError(reason)
    model = convert(module, spec)  # once for all precisions
    return lambda precision: OpenVINOEngine(model, precision)


OPENVINO = EngineKind("a CPU", precisions=_precisions, usual=_precisions, prepare=_prepare)
