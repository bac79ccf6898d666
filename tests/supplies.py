"""What feeds training in tests of one part alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from headstart.data.loading import BatchSource
from headstart.features.supply import PhaseInputs


@dataclass(frozen=True)
class PixelSupply:
    """Feeds every phase with pixels and the whole network."""

    network: nn.Module
    train: BatchSource
    held_out: BatchSource | None = None
    say: Callable[[str], None] = lambda line: None

    def phase(self, boundary: int, epochs: Sequence[int], *, all_views: bool = False) -> PhaseInputs:
        return PhaseInputs(self.network, self.train, self.held_out)


class FeatureBlocks:
    """Features in memory, (V, N, F)."""

    def __init__(self, rows):
        self.rows = rows.astype(np.float32)
        self.num_views, self.num_images, self.width = rows.shape
        self.groups = [str(i) for i in range(self.num_images)]

    def view(self, view, images):
        return self.rows[view, images]
