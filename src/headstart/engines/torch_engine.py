"""PyTorch as an inference engine: anywhere that PyTorch runs, and the reference for the others."""

import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from headstart.engines.engine import NUM_SAMPLES, EngineKind
from headstart.engines.exact import exact_arithmetic
from headstart.preprocessing import Pixels, normalize
from headstart.types import InputSpec


@final
class TorchEngine:
    """A network in eval mode and inference mode.

    Kernels are chosen by the number of images and round differently, so an image's result depends neither on the other
    images of its batch nor on their number only where all passes have one size (`batch`).

    Attributes:
        name: `torch`, or `torch-compiled`.
        precision: `bf16` or `32`.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: InputSpec,
        precision: str,
        device: torch.device,
        *,
        fold: bool = True,
        is_compiled: bool = False,
        batch: int | None = None,
    ) -> None:
        """Prepare a network.

        Args:
            module: Maps normalised images (N, 3, H, W) to one tensor; in eval mode, on the device.
            spec: How images become its input; only the normalisation is used.
            precision: `bf16` or `32`.
            device: Where to run.
            fold: Fold BatchNorm into the convolution before it, on a copy. Otherwise the module itself runs, as it is
                whenever a batch comes.
            is_compiled: Compile it, with captured kernels; then one thread at a time runs it.
            batch: Images per pass through the network, the last one being filled up; None: batches as they come.
        """
        self.name = "torch-compiled" if is_compiled else "torch"
        self.precision = precision
        self._device = device
        self._batch = batch
        self._spec = spec
        self._module: Callable[[Tensor], Tensor] = module
        # Captured kernels write into memory of their own, which one thread at a time may use.
        self._alone: AbstractContextManager[Any] = threading.Lock() if is_compiled else nullcontext()
        if fold:
            self._module = fold_batch_norms(module).to(memory_format=torch.channels_last)
        if is_compiled:
            self._module = torch.compile(self._module, mode="reduce-overhead")

    def run(self, batches: Iterable[Pixels]) -> Iterator[npt.NDArray[np.float32]]:
        """Map batches `uint8` (N, H, W, 3), each of any N, to `float32` (N, ...), in order."""
        if self._batch is None:
            return (self._run_pass(pixels) for pixels in batches)
        sizes: deque[int] = deque()
        return _in_sizes(map(self._run_pass, _passes(batches, self._batch, sizes)), sizes)

    def _run_pass(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Run the network on so many images at once."""
        # A permuted NHWC buffer is what channels-last means, so nothing is copied.
        views = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(self._device)
        images = normalize(views, self._spec)
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with self._alone, torch.inference_mode(), exact_arithmetic(), autocast:
            output = self._module(images)
            return output.float().cpu().contiguous().numpy()


def _passes(batches: Iterable[Pixels], size: int, sizes: deque[int]) -> Iterator[Pixels]:
    """Join and part batches into passes of one size, noting the sizes of the batches; the last pass is filled up."""
    waiting: list[Pixels] = []
    num_waiting = 0
    for pixels in batches:
        sizes.append(len(pixels))
        waiting.append(pixels)
        num_waiting += len(pixels)
        while num_waiting >= size:
            joined = np.concatenate(waiting)
            yield joined[:size]
            waiting = [joined[size:]]
            num_waiting -= size
    if num_waiting:
        joined = np.concatenate(waiting)
        filling = np.repeat(joined[-1:], size - num_waiting, axis=0)
        yield np.concatenate([joined, filling])


def _in_sizes(passes: Iterator[npt.NDArray[np.float32]], sizes: deque[int]) -> Iterator[npt.NDArray[np.float32]]:
    """Part results into the sizes of the batches that they belong to."""
    waiting: npt.NDArray[np.float32] | None = None
    for rows in passes:
        waiting = rows if waiting is None else np.concatenate([waiting, rows])
        while sizes and len(waiting) >= sizes[0]:
            size = sizes.popleft()
            yield waiting[:size]
            waiting = waiting[size:]
    if waiting is not None:
        for _ in sizes:  # batches of nothing that came last
            yield waiting[:0]


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Return a copy with each BatchNorm that directly follows a convolution multiplied into its weights.

    "Follows" means registered next in the same module, which is how the common networks are written; where that is not
    the order of execution the results differ, and the engine is refused by its comparison with the original.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name_before, before), (name, child) in itertools.pairwise(children):
            if isinstance(before, nn.Conv2d) and isinstance(child, _BatchNorm):
                setattr(parent, name_before, fuse_conv_bn_eval(before, child))
                # timm's BatchNorm carries the activation that follows it.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
    return module.eval().requires_grad_(False)


def _all_precisions(device: torch.device) -> tuple[str, ...]:
    return ("bf16", "32")


def _usual_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that are fast on a device: bf16 on GPUs that have it in hardware."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return ("bf16", "32")
    return ("32",)


def _on_cuda(precisions: Callable[[torch.device], tuple[str, ...]]) -> Callable[[torch.device], tuple[str, ...]]:
    return lambda device: precisions(device) if device.type == "cuda" else ()


def _prepare(module: nn.Module, spec: InputSpec, device: torch.device, may_vary: bool) -> Callable[[str], TorchEngine]:
    def make(precision: str) -> TorchEngine:
        # In bf16 other kernels round so much otherwise that it shows.
        batch = None if may_vary and precision == "32" else NUM_SAMPLES
        return TorchEngine(module, spec, precision, device, batch=batch)

    return make


def _prepare_compiled(
    module: nn.Module, spec: InputSpec, device: torch.device, may_vary: bool
) -> Callable[[str], TorchEngine]:
    # Passes of one size, as each size is compiled anew.
    return lambda precision: TorchEngine(module, spec, precision, device, is_compiled=True, batch=NUM_SAMPLES)


TORCH = EngineKind("every device", precisions=_all_precisions, usual=_usual_precisions, prepare=_prepare)
TORCH_COMPILED = EngineKind(
    "a CUDA GPU",
    precisions=_on_cuda(_all_precisions),
    usual=_on_cuda(_usual_precisions),
    prepare=_prepare_compiled,
    # Compiling EfficientNet-Lite0 takes about 10 s for each precision on an H200 (docs/research-log.md). What it saves
    # is mostly the time to launch kernels: at best a few milliseconds for each pass of 16 images.
    least_images=50_000,
)
