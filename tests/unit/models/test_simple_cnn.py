import torch
from torch import nn

from headstart.models.simple_cnn import SPEC, SimpleCNN


def test_layers_are_those_of_the_description() -> None:
    network = SimpleCNN(5, (64, 64))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.padding) for m in convolutions] == [
        (3, 32, (3, 3), (1, 1)),
        (32, 64, (3, 3), (1, 1)),
        (64, 128, (3, 3), (1, 1)),
    ]
    linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
    assert linear == [(128 * 8 * 8, 256), (256, 64), (64, 5)]
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 5
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 3


def test_input_size_need_not_divide() -> None:
    assert SimpleCNN(2, (37, 50))(torch.zeros(2, 3, 37, 50)).shape == (2, 2)


def test_default_preprocessing() -> None:
    assert (SPEC.size, SPEC.resize, SPEC.mean, SPEC.std) == ((224, 224), (224, 224), (0.5,) * 3, (0.5,) * 3)
