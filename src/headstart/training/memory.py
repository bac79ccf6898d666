"""How much memory a training step takes, and how its batches are made to fit.

Nearly all of it is activations that the backward pass needs. Their bytes are counted, not guessed: a throw-away copy of
the module runs forward on two images, and every tensor that autograd saves is looked at.
"""

import copy
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from headstart.machine import total_memory_bytes
from headstart.training.recompute import blocks, uses_batch_statistics
from headstart.training.step import autocast
from headstart.types import StepChoice

_NUM_IMAGES = 2  # the fewest that BatchNorm takes
_GB = 10**9
# Python with PyTorch, a network, an engine, decoded pictures and a pass over held-out images.
_PROCESS_BYTES = 3 * _GB // 2
# A pass over more images at once than these bytes hold makes a CPU no faster (docs/decisions/0017): a fifth of what a
# laptop of 16 GB has, and enough for a batch of 32 in the default network.
_PIECE_BYTES = 3 * _GB
# What is held for each byte in use: PyTorch on a GPU and the C library keep some freed blocks that fit nothing later.
# Where blocks are computed again, older C libraries keep far more of them (docs/decisions/0017).
_HELD = 1.2
_HELD_BY_OLD_C_LIBRARY = 2.5
_FILLS_HOLES = ("glibc", (2, 39))  # from this version on memory for a tensor goes where an equal one was freed


@dataclass(frozen=True)
class StepMemory:
    """What the activations of a training step take, in bytes per image.

    Attributes:
        whole: Bytes where all activations are kept.
        recomputed: Bytes where blocks keep their inputs only; see `training.recompute`.
        needs_whole_batch: Whether the images of a batch depend on one another, through BatchNorm.
    """

    whole: int
    recomputed: int
    needs_whole_batch: bool

    def bytes_of(self, choice: StepChoice, batch_size: int, device: torch.device) -> int:
        """Return what the activations of a batch take on a device where steps run in some way."""
        if choice.recomputes:
            held = _HELD if device.type == "cuda" or _c_library_fills_holes() else _HELD_BY_OLD_C_LIBRARY
            return int(held * self.recomputed * batch_size)
        return int(_HELD * self.whole * min(choice.piece_size or batch_size, batch_size))


def _c_library_fills_holes() -> bool:
    name, version = platform.libc_ver()
    numbers = tuple(int(number) for number in version.split(".") if number.isdecimal())
    known, since = _FILLS_HOLES
    return name == known and numbers >= since


@dataclass(frozen=True)
class MemoryLimit:
    """What the activations of a step may take.

    Attributes:
        device: Where training runs.
        whole: Bytes that may be held for them in all.
        piece: Bytes of a piece, above which larger pieces are no faster, where a batch may run in pieces.
    """

    device: torch.device
    whole: int
    piece: int


def memory_limit(device: torch.device, module: nn.Module, limit_gb: float | None) -> MemoryLimit:
    """Return what activations may take, beside the process and the weights with their gradients and averages.

    Args:
        device: Where training runs.
        module: What trains.
        limit_gb: The most that training may take in all, 10**9 bytes; None: half of the machine's memory, since others
            run on it too, or four fifths of a GPU's.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory * 4 // 5
    else:
        total = total_memory_bytes() // 2
    if limit_gb is not None:
        total = int(limit_gb * _GB)
    left = max(total - fixed_bytes(device, module), 0)
    return MemoryLimit(device, left, left if device.type == "cuda" else min(left, _PIECE_BYTES))


def fixed_bytes(device: torch.device, module: nn.Module) -> int:
    """Estimate what training takes beside activations: the process, and weights, gradients and moments of AdamW."""
    process = 0 if device.type == "cuda" else _PROCESS_BYTES
    size = sum(parameter.nbytes for parameter in module.parameters())
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    return process + size + 3 * trained


def fit_memory(choice: StepChoice, memory: StepMemory, batch_size: int, limit: MemoryLimit) -> StepChoice:
    """Say how batches run so that they fit: as they are, in pieces, or with blocks computed again.

    The gradient of a sum is the sum of gradients, so that pieces cost nothing and change only the rounding. Where
    BatchNorm needs the whole batch, its blocks are computed again, which changes no number and takes a quarter longer.

    Args:
        choice: How steps run otherwise.
        memory: What a step takes.
        batch_size: Images of a batch.
        limit: What activations may take.
    """
    if memory.needs_whole_batch:
        is_too_much = memory.bytes_of(replace(choice, recomputes=False), batch_size, limit.device) > limit.whole
        return replace(choice, recomputes=choice.recomputes or is_too_much)
    # A piece is held to both: to what is fast by the bytes in use, to what there is by those that are held.
    fast = limit.piece // memory.whole
    fitting = limit.whole // memory.bytes_of(StepChoice(), 1, limit.device)
    most = max(min(fast, fitting), 1)
    if batch_size <= most:
        return choice
    num_pieces = -(-batch_size // most)
    return replace(choice, piece_size=-(-batch_size // num_pieces))


def measure_step(module: nn.Module, shape: Sequence[int], choice: StepChoice, device: torch.device) -> StepMemory:
    """Count what a training step of a module keeps of two images.

    Args:
        module: Maps inputs to logits (N, C); on its device, in the modes that it trains in. It is not changed.
        shape: Shape of one image's input, such as (3, H, W), or (F,) for features.
        choice: How steps run; only the precision counts.
        device: Where it is.
    """
    trial = copy.deepcopy(module)
    images = torch.zeros((_NUM_IMAGES, *shape), device=device)
    count = _SavedTensors(trial)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), count.watching():
        with autocast(choice, device):
            logits = trial(images)
        logits.float().logsumexp(1)  # about what the loss keeps
    return StepMemory(
        count.whole // _NUM_IMAGES + 1, count.recomputed // _NUM_IMAGES + 1, uses_batch_statistics(module)
    )


class _SavedTensors:
    """Counts the bytes that autograd saves while a module runs, as a whole and with its blocks computed again.

    Storages are counted once, however many saved tensors view them. Weights and buffers do not count.
    """

    def __init__(self, module: nn.Module) -> None:
        self._blocks = blocks(module)
        self._constant = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
        self._kept: dict[int, int] = {}  # address -> bytes of what is saved outside of blocks, and of their inputs
        self._within: dict[int, int] | None = None  # the same of the block that runs
        self._all: dict[int, int] = {}
        self._most_at_once = 0
        self._alive: list[object] = []  # so that no address is given out twice

    @property
    def whole(self) -> int:
        """Bytes where everything is kept."""
        return sum(self._all.values()) + self._gradient_bytes

    @property
    def recomputed(self) -> int:
        """Bytes where blocks keep their inputs only: when backward begins, or while a block is computed again."""
        return max(sum(self._kept.values()), self._most_at_once) + self._gradient_bytes

    @property
    def _gradient_bytes(self) -> int:
        """Beside what is saved, backward holds the gradients of a layer's output and of its input."""
        return 2 * max(self._all.values(), default=0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, count."""
        handles = []
        for block in self._blocks:
            handles.append(block.register_forward_pre_hook(self._enter))
            handles.append(block.register_forward_hook(self._leave))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda nothing: nothing):
                yield
        finally:
            for handle in handles:
                handle.remove()
            # They hold the graph, whose hooks hold this object: a circle that no collector sees through.
            self._alive.clear()

    def _enter(self, block: nn.Module, inputs: tuple[object, ...]) -> None:
        tensors = [each for each in inputs if isinstance(each, Tensor)]
        if any(each.requires_grad for each in (*tensors, *block.parameters())):  # others are never computed again
            for each in tensors:
                self._add(each)
        self._within = {}

    def _leave(self, block: nn.Module, inputs: object, output: object) -> None:
        assert self._within is not None
        # Of later blocks nothing is left by the time that this one is computed again.
        self._most_at_once = max(self._most_at_once, sum(self._kept.values()) + sum(self._within.values()))
        self._within = None
        self._alive.append(output)

    def _pack(self, tensor: Tensor) -> None:
        # What is returned is kept in the graph. There is no backward pass here, and a tensor that its own graph keeps
        # would never be freed.
        self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in self._constant:
            return
        self._alive.append(tensor)
        self._all[address] = storage.nbytes()
        if self._within is None:
            self._kept[address] = storage.nbytes()
        elif address not in self._kept:
            self._within[address] = storage.nbytes()
