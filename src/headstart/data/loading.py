"""Batches of decoded images, in a repeatable order, decoded by threads ahead of their use."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, Self, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from headstart.data.manifest import ImageRecord, group_numbers
from headstart.data.pictures import Pictures
from headstart.data.sources import Source, sha256
from headstart.data.threads import default_threads, map_ahead
from headstart.preprocessing import Augment, Pixels, eval_view, mirrored, train_view
from headstart.types import InputSpec

# The random streams that are drawn from.
_ORDER = 0
_FRESH = 1
_NUMBERED = 2

# The position of an image in the records, and the numbers of the views to make of it. Where views are fresh, the number
# is the epoch.
Task = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, or what a frozen part of the network makes of them, on their way to what trains.

    Attributes:
        pixels: `uint8` (N, 3, H, W), channels-last in memory, not normalised; or activations (N, ...), float.
        targets: `int64` (N,), labels.
        indices: `int64` (N,), positions in the records that the batches were made from.
    """

    pixels: Tensor
    targets: Tensor
    indices: Tensor


class BatchSource(Protocol):
    """Batches whose content is a pure function of the epoch."""

    @property
    def num_images(self) -> int:
        """Images per epoch."""

    @property
    def batch_size(self) -> int:
        """Images per batch; the last batch of an epoch may be smaller."""

    def __len__(self) -> int:
        """Return the number of batches per epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the one numbered `start`."""


@final
class ImageBatches:
    """The images of a split in batches.

    An epoch is a pure function of (records, spec, augment, views, seed, epoch): the same bits whatever the number of
    threads and wherever it starts. Memory is bounded by the batches decoded ahead.

    Attributes:
        keys: Keys of the images in their source.
        digests: SHA-256 of each image's bytes, 32 bytes.
        num_views: Number of different views of each image, or None: a fresh one in every epoch.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        spec: InputSpec,
        *,
        source: Source,
        batch_size: int,
        augment: Augment | None,
        shuffle: bool,
        seed: int,
        threads: int | None = None,
        views: int | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        """Remember what to read; nothing is read yet, except to hash an image whose record has no SHA-256.

        Args:
            records: The images.
            spec: Geometry of the views.
            source: Source of their bytes.
            batch_size: Images in a batch; the last one may be smaller.
            augment: Preset of `train_view`, or None for the evaluation view.
            shuffle: Whether every epoch has its own order; otherwise the order is that of `records`.
            seed: Seed of order and augmentation, 0 or more.
            threads: Number of decoding threads; default: one per core, 8 at most.
            views: Number of views of each image that are used in turn, the same for every seed (fewer where `augment`
                has fewer): view 0 is the evaluation view. None: a fresh view in every epoch.
            pictures: Decoded pictures, which are kept here for later epochs.
        """
        self.keys = [record.key for record in records]
        self.num_images = len(records)
        self.spec = spec
        self.batch_size = batch_size
        self.augment = augment
        self.num_views = num_views(augment, views)
        self._shuffle = shuffle
        self._seed = seed
        self._threads = threads or default_threads()
        self._source = source
        self._pictures = pictures or Pictures(0)
        self.targets = np.array([record.label for record in records], dtype=np.int64)
        self.digests = [bytes.fromhex(record.sha256 or sha256(source, record.key)) for record in records]
        # As text, because folds follow the groups in this order, and results were published with these folds.
        numbers = group_numbers(record.group for record in records)
        self.groups = [str(number) for number in numbers]

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(self.num_images / self.batch_size)

    def numbered(self, views: int) -> Self:
        """Return the same images with so many views each, instead of a fresh one in every epoch."""
        other = copy.copy(self)
        other.num_views = num_views(self.augment, views)
        return other

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Number of the epoch, 0 or more.
            start: First batch to yield; those before it are not decoded.

        Raises:
            UnreadableImageError: An image cannot be decoded (any more); names it.
        """
        order = self.order(epoch)[start * self.batch_size :]
        for position, pixels in enumerate(self.pixels(order, epoch, self.batch_size)):
            rows = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield self.batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), rows)

    def batch(self, inputs: Tensor, indices: npt.NDArray[np.int64]) -> Batch:
        """Put labels to the inputs of some images."""
        return Batch(inputs, torch.from_numpy(self.targets[indices]), torch.from_numpy(indices.copy()))

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the positions of all images in the order of an epoch."""
        if not self._shuffle:
            return np.arange(self.num_images)
        rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch], counter=[0, 0, 0, _ORDER]))
        return rng.permutation(self.num_images)

    def view_numbers(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the number of each image's view in an epoch (N,): every image goes through its views in turn."""
        if self.num_views is None:
            raise ValueError("a fresh view in every epoch has no number")
        rng = np.random.Generator(np.random.Philox(key=[self._seed, 0], counter=[0, 0, 0, _NUMBERED]))
        return (rng.integers(self.num_views, size=self.num_images) + epoch) % self.num_views

    def pixels(self, order: npt.NDArray[np.int64], epoch: int, batch_size: int) -> Iterator[Pixels]:
        """Yield the views of an epoch as `uint8` (N, H, W, 3), in the order given."""
        if self.num_views is None:
            numbers = np.full(self.num_images, epoch)
        else:
            numbers = self.view_numbers(epoch)
        tasks = ((position, (int(numbers[position]),)) for position in order.tolist())
        return self._stacked(tasks, batch_size, most=1)

    def views(self, tasks: Sequence[Task], batch_size: int) -> Iterator[Pixels]:
        """Yield views as `uint8` (N, H, W, 3), in the order of the tasks; each image of a task is decoded once."""
        most = max((len(numbers) for _, numbers in tasks), default=1)
        return self._stacked(tasks, batch_size, most=most)

    def _stacked(self, tasks: Iterable[Task], batch_size: int, *, most: int) -> Iterator[Pixels]:
        """Yield the views of tasks in batches, made by threads ahead of their use."""
        # About two batches of views are made ahead, of tasks with `most` views each; no thread is left idle.
        ahead = max(self._threads, 2 * (batch_size + self._threads) // most)
        with closing(map_ahead(self._make_views, tasks, threads=self._threads, ahead=ahead)) as made:
            waiting: list[Pixels] = []
            for views in made:
                waiting += views
                while len(waiting) >= batch_size:
                    yield np.stack(waiting[:batch_size])
                    waiting = waiting[batch_size:]
            if waiting:
                yield np.stack(waiting)

    def _make_views(self, task: Task) -> list[Pixels]:
        """Decode an image, and make the views of it that a task asks for."""
        index, numbers = task
        digest = self.digests[index]
        # What trains may differ a little; what is evaluated is what predictions are made of.
        is_quick = self.augment is not None
        image = self._pictures.decode(self._source, self.keys[index], self.spec.decoding, digest, is_quick=is_quick)
        return [self._make_view(image, digest, number) for number in numbers]

    def _make_view(self, image: Image.Image, digest: bytes, number: int) -> Pixels:
        """Make a view of a decoded image: the evaluation view, a fresh one, or the one of that number."""
        if self.augment is None:
            return eval_view(image, self.spec)
        if self.num_views is None:
            return train_view(image, self.spec, self.augment, view_rng(digest, self._seed, number, _FRESH))
        return numbered_view(image, self.spec, self.augment, digest, number)


def num_views(augment: Augment | None, views: int | None) -> int | None:
    """Return how many different views there are, at most as many as asked for; None: a fresh one in every epoch."""
    if augment in (None, "none"):
        return 1
    if views is not None and augment == "flip":
        return min(views, 2)
    return views


def numbered_view(image: Image.Image, spec: InputSpec, augment: Augment, digest: bytes, number: int) -> Pixels:
    """Make view `number` of a picture, which depends on the content of its file and nothing else.

    View 0 is the evaluation view; with `flip` view 1 is its mirror image.
    """
    if number == 0 or augment == "none":
        return eval_view(image, spec)
    if augment == "flip":
        return mirrored(eval_view(image, spec))
    return train_view(image, spec, augment, view_rng(digest, 0, number, _NUMBERED))


def view_rng(digest: bytes, *position: int) -> np.random.Generator:
    """Return the random stream of an image's view: Philox gives one to every (key, counter) at no cost."""
    key = np.frombuffer(digest[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, *position]))
