"""Blocks that are computed again in the backward pass instead of kept (Chen et al. 2016, arXiv:1604.06174).

What a block computes on the way to its output is dropped after the forward pass; only its input stays. The backward
pass then runs the block once more. That costs about one forward pass and changes no number: the block sees the same
input, the same random numbers and, in BatchNorm, the same whole batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def uses_batch_statistics(module: nn.Module) -> bool:
    """Tell whether any BatchNorm in a module normalises by its batch, as it does in training mode."""
    return any(isinstance(part, _BatchNorm) and part.training for part in module.modules())


def blocks(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return the parts of a network that are worth computing again: the largest that the network's own forward calls.

    These are the modules with code of their own and parts of their own, such as a residual block. A sequence or list of
    modules is looked into, since nothing is saved by computing all of it again at once.
    """
    found: list[nn.Module] = []
    for child in module.children():
        if _is_container(child):
            found.extend(blocks(child))
        elif any(True for _ in child.children()):
            found.append(child)
    return tuple(dict.fromkeys(found))  # once each: a network may use one block in several places


def _is_container(module: nn.Module) -> bool:
    """Tell whether a module only holds others: a list, or a sequence that runs them one after the other."""
    forward = type(module).forward
    return forward is nn.Sequential.forward or forward is nn.Module.forward


@contextmanager
def recomputed(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block, these modules keep nothing but their inputs when they run; backward may come after it."""
    for part in parts:
        again = partial(_forward_and_again, part)
        # An attribute of the instance goes before the method of its class, and is gone again afterwards.
        part.forward = partial(checkpoint, part.forward, use_reentrant=False, context_fn=again)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


def _forward_and_again(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the forward pass of a module, and its repetition."""
    return nullcontext(), _statistics_kept(part)


@contextmanager
def _statistics_kept(part: nn.Module) -> Iterator[None]:
    """Within the block, running a module changes no running statistics: the forward pass has counted the batch."""
    norms: list[tuple[_BatchNorm, float | None, Tensor | None]] = []
    for each in part.modules():
        if isinstance(each, _BatchNorm) and each.training:
            count = each.num_batches_tracked
            norms.append((each, each.momentum, None if count is None else count.clone()))
            each.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in norms:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
