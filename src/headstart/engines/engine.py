"""What an engine is, and what is known of each kind before one is opened. Importing this module loads no torch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from headstart.preprocessing import Pixels
from headstart.types import InputSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

# Real images on which an engine is compared with PyTorch before its first use. An engine whose results depend on the
# number of images in a pass makes passes of this size, so that what was compared is what is used.
NUM_SAMPLES = 16


class Engine(Protocol):
    """Runs a network on `uint8` pixels.

    Attributes:
        name: A key of `choose.ENGINES`.
        precision: `bf16` or `32`.
    """

    name: str
    precision: str

    def run(self, batches: Iterable[Pixels]) -> Iterator[npt.NDArray[np.float32]]:
        """Map batches `uint8` (N, H, W, 3) to `float32` (N, ...), in order."""


@dataclass(frozen=True)
class EngineKind:
    """A row of `choose.ENGINES`.

    Attributes:
        runs_on: What it runs on, for people: `a CPU`.
        precisions: Maps a device to the precisions that it computes in there; empty: it does not run there.
        usual: Maps a device to those worth trying there where nobody asks for one, fastest first.
        prepare: Takes a network, how images become its input, its device and `may_vary` of `choose.open_engine`;
            returns what makes the engine in a precision. Both may raise anything where the network cannot be run.
        least_images: How many images make opening it pay; with fewer it is used only where it is asked for.
    """

    runs_on: str
    precisions: Callable[["torch.device"], tuple[str, ...]]
    usual: Callable[["torch.device"], tuple[str, ...]]
    prepare: Callable[["nn.Module", InputSpec, "torch.device", bool], Callable[[str], Engine]]
    least_images: int = 0
