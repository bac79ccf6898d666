"""The batches that a network is trained on, none of which is a single image."""

from collections.abc import Iterator

import torch

from headstart.data.loading import Batch, BatchSource


def epoch_batches(source: BatchSource, epoch: int, *, start: int = 0) -> Iterator[Batch]:
    """Yield an epoch's batches; a last one of one image, which would be normalised by itself alone, joins another."""
    batches = source.epoch(epoch, start=start)
    return _joined(batches) if _joins_last(source) else batches


def num_batches(source: BatchSource) -> int:
    """Return how many batches `epoch_batches` yields."""
    return len(source) - _joins_last(source)


def _joins_last(source: BatchSource) -> bool:
    return source.num_images > source.batch_size > 1 and source.num_images % source.batch_size == 1


def _joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Join a batch of one image to the batch before."""
    before: Batch | None = None
    for batch in batches:
        if before is not None and len(batch.targets) == 1:
            parts = ((before.pixels, batch.pixels), (before.targets, batch.targets), (before.indices, batch.indices))
            before = Batch(*(torch.cat(pair) for pair in parts))
            continue
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before
