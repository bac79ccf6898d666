"""The batches that a network is trained on, none of which is a single image."""

from collections.abc import Iterator

import torch

from headstart.data.loading import Batch, BatchSource


def epoch_batches(source: BatchSource, epoch: int, *, start: int = 0) -> Iterator[Batch]:
    """Yield an epoch's batches; a last one of one image, which would be normalised by itself alone, joins another."""
    batches = source.epoch(epoch, start=start)
    if _joins_last(source):
        return _with_last_joined(batches)
    return batches


def num_batches(source: BatchSource) -> int:
    """Return how many batches `epoch_batches` yields."""
    if _joins_last(source):
        return len(source) - 1
    return len(source)


def _joins_last(source: BatchSource) -> bool:
    """Tell whether the last batch would be of one image, and there is another to join it to."""
    return source.num_images > source.batch_size > 1 and source.num_images % source.batch_size == 1


def _with_last_joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Join a batch of one image to the batch before."""
    before: Batch | None = None
    for batch in batches:
        if before is None:
            before = batch
        elif len(batch.targets) == 1:
            before = _joined(before, batch)
        else:
            yield before
            before = batch
    if before is not None:
        yield before


def _joined(first: Batch, second: Batch) -> Batch:
    """Make one batch of two."""
    return Batch(
        torch.cat((first.pixels, second.pixels)),
        torch.cat((first.targets, second.targets)),
        torch.cat((first.indices, second.indices)),
    )
