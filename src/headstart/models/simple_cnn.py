"""The small network that courses train from scratch: three convolutions, then two hidden layers."""

from torch import Tensor, nn

from headstart.types import InputSpec

# Resized to exactly the input, without a crop, as the courses do.
SPEC = InputSpec(size=(224, 224), resize=(224, 224), interpolation="bilinear")


class SimpleCNN(nn.Module):
    """Three convolutions 3-32-64-128 (kernel 3, padding 1, ReLU, 2x2 max pooling), then 256-64-classes.

    The hidden layers have ReLU and dropout 0.5. Final: not to be derived from.
    """

    def __init__(self, num_classes: int, size: tuple[int, int] = SPEC.size) -> None:
        """Build it with random weights.

        Args:
            num_classes: Number of outputs.
            size: (height, width) of the input, pixels; the first hidden layer is built for it.
        """
        super().__init__()
        self.conv1 = _convolution(3, 32)
        self.conv2 = _convolution(32, 64)
        self.conv3 = _convolution(64, 128)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(128 * (size[0] // 8) * (size[1] // 8), 256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(256, 64),
            nn.ReLU(),
            nn.Dropout(0.5),
        )
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to logits (N, num_classes)."""
        features = self.conv3(self.conv2(self.conv1(images)))
        logits: Tensor = self.head(self.hidden(features))
        return logits


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
