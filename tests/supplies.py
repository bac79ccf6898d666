"""A supply for tests of the engine alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
