"""Batches of decoded images, in a repeatable order, decoded by threads ahead of their use."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headstart.data.manifest import ImageRecord
from headstart.data.transforms import Augment, Pixels, decode, eval_view, train_view
from headstart.types import InputSpec

_MIN_PREFETCH = 2  # batches decoded ahead: one is being used, one is ready when that is done
_ORDER, _VIEW = 0, 1


@dataclass(frozen=True, eq=False)
class Batch:
    """Images on their way into a network.

    Attributes:
        pixels: `uint8` (N, 3, H, W), channels-last in memory, not normalised.
        targets: `int64` (N,), labels.
        indices: `int64` (N,), positions in the records that the batches were made from.
    """

    pixels: Tensor
    targets: Tensor
    indices: Tensor


@dataclass(frozen=True, eq=False)
class _Pending:
    indices: npt.NDArray[np.int64]
    buffer: Pixels
    views: list[Future[None]]


@final
class ImageBatches:
    """The images of a split in batches.

    An epoch is a pure function of (records, spec, augment, seed, epoch): the same bits whatever the number of threads
    and wherever it starts. Memory is bounded by the batches decoded ahead.

    Attributes:
        num_images: Images in an epoch.
        batch_size: Images in a batch; the last one may be smaller.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        spec: InputSpec,
        *,
        batch_size: int,
        augment: Augment | None,
        shuffle: bool,
        seed: int,
        threads: int,
    ) -> None:
        """Remember what to read; nothing is read yet.

        Args:
            records: The images.
            spec: Geometry of the views.
            batch_size: Images in a batch; the last one may be smaller.
            augment: Preset of `train_view`, or None for the evaluation view.
            shuffle: Whether every epoch has its own order; otherwise that of `records`.
            seed: Of order and augmentation, 0 or more.
            threads: Decoding threads.
        """
        self._records = tuple(records)
        self.num_images = len(self._records)
        self._spec = spec
        self.batch_size = batch_size
        self._augment = augment
        self._shuffle = shuffle
        self._seed = seed
        self._threads = threads
        self._targets = np.array([record.label for record in self._records], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(self.num_images / self.batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Number of the epoch, 0 or more.
            start: First batch to yield; those before it are not decoded.

        Raises:
            UnreadableImageError: An image cannot be decoded (any more); names the file.
        """
        order = self._order(epoch)
        ahead = max(_MIN_PREFETCH, math.ceil(2 * self._threads / self.batch_size))
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="headstart-decode")
        pending: deque[_Pending] = deque()
        try:
            for position in range(start * self.batch_size, self.num_images, self.batch_size):
                pending.append(self._submit(pool, epoch, order[position : position + self.batch_size]))
                if len(pending) > ahead:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())
        finally:  # also where the reader stops early: no thread outlives the epoch
            pool.shutdown(cancel_futures=True)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(self.num_images)
        return self._rng(epoch, _ORDER, 0).permutation(self.num_images)

    def _rng(self, epoch: int, purpose: int, index: int) -> np.random.Generator:
        """Return the random stream of one purpose: Philox gives one to every (key, counter) at no cost."""
        return np.random.Generator(np.random.Philox(key=[self._seed, epoch], counter=[0, 0, index, purpose]))

    def _submit(self, pool: ThreadPoolExecutor, epoch: int, indices: npt.NDArray[np.int64]) -> _Pending:
        buffer = np.empty((len(indices), *self._spec.size, 3), dtype=np.uint8)
        views = [
            pool.submit(self._read_view, int(index), epoch, buffer[row : row + 1]) for row, index in enumerate(indices)
        ]
        return _Pending(indices, buffer, views)

    def _read_view(self, index: int, epoch: int, into: Pixels) -> None:
        image = decode(self._records[index].path)
        if self._augment is None:
            into[0] = eval_view(image, self._spec)
        else:
            into[0] = train_view(image, self._spec, self._augment, self._rng(epoch, _VIEW, index))

    def _finish(self, batch: _Pending) -> Batch:
        for view in batch.views:
            view.result()
        pixels = torch.from_numpy(batch.buffer).permute(0, 3, 1, 2)
        targets = torch.from_numpy(self._targets[batch.indices])
        return Batch(pixels, targets, torch.from_numpy(batch.indices.copy()))
