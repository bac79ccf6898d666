"""A tiny network with BatchNorm and dropout, and batches made of tensors."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data.loading import Batch
from headstart.models.classifier import ClassifierNetwork
from headstart.types import InputSpec, Stage

STAGES = (
    Stage("stem", ("conv1", "bn1")),
    Stage("layer1", ("layer1",)),
    Stage("layer2", ("layer2",)),
    Stage("head", ("fc",)),
)


class TinyNet(nn.Module):
    """Four stages on 8x8 pictures."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.layer1 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(inputs)))))
        return self.fc(hidden.mean((2, 3)))


class TinyBlock(nn.Module):
    """A residual block with dropout: its repetition must see the same batch and draw the same masks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.dropout(torch.relu(self.bn(self.conv(inputs))))


class TensorBatches:
    """Batches from tensors in memory; the order follows from (seed, epoch)."""

    def __init__(
        self, pixels: Tensor, targets: Tensor, batch_size: int, *, shuffle: bool = True, seed: int = 0
    ) -> None:
        self.pixels, self.targets, self.batch_size = pixels, targets, batch_size
        self.shuffle, self.seed, self.num_images = shuffle, seed, len(targets)

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        order = np.arange(self.num_images)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        for i in range(start, len(self)):
            index = torch.from_numpy(order[i * self.batch_size : (i + 1) * self.batch_size])
            yield Batch(self.pixels[index], self.targets[index], index)


def make_model(seed: int = 0, num_classes: int = 3) -> ClassifierNetwork:
    torch.manual_seed(seed)
    network = TinyNet(num_classes)
    for module in network.modules():  # statistics that differ from the initial ones, as a pretrained network has them
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return ClassifierNetwork(
        network=network,
        labels=tuple("abc"[:num_classes]),
        spec=InputSpec(size=(8, 8), resize=8),
        stages=STAGES,
        backbone="tiny",
        library="headstart",
        architecture="tiny",
        head_hidden=None,
        dropout=0.0,
        weights="none",
        licence="none",
    )
