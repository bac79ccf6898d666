"""Features in batches: read from a table, or computed as they are needed."""

from collections.abc import Iterator
from typing import final

import numpy as np
import numpy.typing as npt
import torch

from headstart.data.loading import Batch, ImageBatches
from headstart.engines.engine import Engine
from headstart.features.table import FeatureTable
from headstart.features.trunk import as_stored


@final
class KeptBatches:
    """Batches of features from a table; an epoch has the order and the views that `ImageBatches` has."""

    def __init__(self, images: ImageBatches, table: FeatureTable) -> None:
        """Remember where the features are."""
        self.num_images = images.num_images
        self.batch_size = images.batch_size
        self._images = images
        self._table = table

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._images)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the one numbered `start`."""
        images = self._images
        order = images.order(epoch)
        views = images.view_numbers(epoch)
        rows = self._table.locate([(images.digests[image], int(views[image])) for image in order])
        for first in range(start * self.batch_size, self.num_images, self.batch_size):
            last = first + self.batch_size
            features = self._table.gather(rows[first:last])
            yield images.batch(torch.from_numpy(features), order[first:last])


@final
class StreamedBatches:
    """The same batches, computed as they are needed."""

    def __init__(self, images: ImageBatches, engine: Engine, dtype: str) -> None:
        """Remember what computes the features, and as what they would be stored."""
        self.num_images = images.num_images
        self.batch_size = images.batch_size
        self._images = images
        self._engine = engine
        self._dtype = np.dtype(dtype)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._images)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the one numbered `start`."""
        order = self._images.order(epoch)[start * self.batch_size :]
        pixels = self._images.pixels(order, epoch, self.batch_size)
        for position, rows in enumerate(self._engine.run(pixels)):
            indices = order[position * self.batch_size : (position + 1) * self.batch_size]
            # Rounded as if they had been kept.
            yield self._images.batch(torch.from_numpy(as_stored(rows, self._dtype)), indices)


@final
class Features:
    """All training features of a phase, by view: what `training.solve` reads.

    Attributes:
        num_images: N.
        num_views: Views of each image.
        width: F.
        targets: `int64` (N,).
        groups: Images of one group belong together, (N,).
        keys: Keys of the images in their source, (N,).
    """

    def __init__(self, images: ImageBatches, table: FeatureTable) -> None:
        """Take all features of some images, which a table holds."""
        self.num_images = images.num_images
        self.num_views = images.num_views or 1
        self.width = table.shape[0]
        self.targets = images.targets
        self.groups = images.groups
        self.keys = images.keys
        self._digests = images.digests
        self._table = table

    def view(self, view: int, images: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return one view of some images, `float32` (n, F)."""
        rows = self._table.gather(self._table.locate([(self._digests[image], view) for image in images]))
        return rows.astype(np.float32, copy=False)
