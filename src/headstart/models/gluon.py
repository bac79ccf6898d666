"""The pre-activation ResNets of Gluon's model zoo, layer by layer under Gluon's names, and their `.params` files.

He et al. 2016, "Identity mappings in deep residual networks", arXiv:1603.05027. Nothing here needs MXNet; `make
test-mxnet` compares with it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart.models.gluon_params import from_state_dict, read_params, to_state_dict, write_params
from headstart.models.weights import load_into
from headstart.types import InputSpec

# What Gluon's documentation asks for: the shorter side to 256, the central 224, ImageNet's mean and deviation.
SPEC = InputSpec(interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_WIDTHS = (64, 128, 256, 512)


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, but the running variance averages the biased variance of the batches, as MXNet's on a CPU does.

    PyTorch's averages the unbiased one, which is n/(n-1) times as large for n values per channel. Epsilon 1e-5 and the
    momentum (PyTorch's 0.1 is MXNet's 0.9) are the same in both.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise activations (N, C, H, W)."""
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(input)
        mean = torch.zeros_like(self.running_mean)
        unbiased = torch.zeros_like(self.running_var)
        output = functional.batch_norm(
            input, mean, unbiased, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        num_values = input.numel() // input.shape[1]
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased * ((num_values - 1) / num_values), self.momentum)
        return output


class BasicBlockV2(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions, beside an identity or, where the width changes, a 1x1 one."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.downsample: nn.Conv2d | None = None
        if in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map activations (N, C_in, H, W) to (N, C, H / stride, W / stride)."""
        active = functional.relu(self.bn1(inputs))
        residual = inputs
        if self.downsample is not None:
            residual = self.downsample(active)
        outputs: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return outputs + residual


class ResNetV2(nn.Module):
    """Gluon's `ResNetV2` of basic blocks. Final: not to be derived from.

    Attributes:
        features: Maps normalised images (N, 3, H, W) to (N, 512); its first layer normalises without scale and shift.
        output: The classification layer.
    """

    def __init__(self, num_blocks: tuple[int, int, int, int], num_classes: int) -> None:
        """Build it as `net.initialize(init.Xavier())` does, with torch's global generator.

        Xavier is uniform (Glorot and Bengio 2010), for convolutions and the linear layer alike; biases are 0. Gluon's
        default without it is uniform within 0.07.

        Args:
            num_blocks: Blocks of each of the four stages.
            num_classes: Number of outputs.
        """
        super().__init__()
        self.features = nn.Sequential(
            BatchNorm(3, affine=False),
            nn.Conv2d(3, _WIDTHS[0], 7, stride=2, padding=3, bias=False),
            BatchNorm(_WIDTHS[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            *(_build_stage(i, count) for i, count in enumerate(num_blocks)),
            BatchNorm(_WIDTHS[-1]),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.output = nn.Linear(_WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.output(self.features(images))
        return logits


def _build_stage(index: int, num_blocks: int) -> nn.Sequential:
    """Build a stage; each but the first halves the side of its input."""
    width = _WIDTHS[index]
    if index == 0:
        blocks = [BasicBlockV2(width, width, stride=1)]
    else:
        blocks = [BasicBlockV2(_WIDTHS[index - 1], width, stride=2)]
    while len(blocks) < num_blocks:
        blocks.append(BasicBlockV2(width, width, stride=1))
    return nn.Sequential(*blocks)


def resnet18_v2(num_classes: int) -> ResNetV2:
    """Build Gluon's `resnet18_v2` with random weights."""
    return ResNetV2((2, 2, 2, 2), num_classes)


def resnet34_v2(num_classes: int) -> ResNetV2:
    """Build Gluon's `resnet34_v2` with random weights."""
    return ResNetV2((3, 4, 6, 3), num_classes)


NETWORKS: dict[str, Callable[[int], ResNetV2]] = {"resnet18_v2": resnet18_v2, "resnet34_v2": resnet34_v2}


def load_params(network: ResNetV2, path: Path | str) -> ResNetV2:
    """Load a `.params` file of Gluon into a network, in place; its types become the network's.

    Args:
        network: Network with as many classes as the file's.
        path: Written by `save_parameters` with or without `npx.set_np()`, or with the flat names of older versions.

    Returns:
        The network.

    Raises:
        ModelError: The file is missing, damaged or of another kind, or its names or shapes are not the network's.
    """
    load_into(network, to_state_dict(read_params(Path(path)), str(path)), (), str(path))
    return network


def save_params(network: ResNetV2, path: Path | str) -> None:
    """Write a network as a `.params` file, which `load_parameters` of MXNet reads with `npx.set_np()` on or off.

    Raises:
        ModelError: A tensor is of a type that MXNet lacks.
        RunError: The file cannot be written.
    """
    write_params(Path(path), from_state_dict(network.state_dict()))
