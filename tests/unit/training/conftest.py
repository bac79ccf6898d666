"""A tiny network with BatchNorm and dropout, and batches made of tensors."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from headstart.models.classifier import ClassifierNetwork
from tests.helpers.tiny import TensorBatches, make_model

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


@pytest.fixture
def model() -> ClassifierNetwork:
    return make_model()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Thirty-six learnable pictures: the class is the brightest channel."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(36) % 3
    pixels = torch.randint(0, 120, (36, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(36), targets] += 100
    return pixels, targets


@pytest.fixture
def batches(data: tuple[Tensor, Tensor]) -> TensorBatches:
    return TensorBatches(*data, batch_size=8)


@pytest.fixture
def held_out(data: tuple[Tensor, Tensor]) -> TensorBatches:
    return TensorBatches(*data, batch_size=16, shuffle=False)


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)
