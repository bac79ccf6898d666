"""A network of every family that stages are known of, large and small, and the plans of strategies on it."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision.models as tv
from timm.models.vgg import VGG as TimmVGG
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from headstart.config import make_config
from headstart.experiment.network import build_plan, insert_parts
from headstart.experiment.resolve import decide
from headstart.models.backbones import Backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.gluon import resnet18_v2
from headstart.models.simple_cnn import SimpleCNN
from headstart.models.stages import derive_stages
from headstart.training.strategies import STRATEGIES
from headstart.types import InputSpec

TIMM = (
    "resnet10t",
    "resnet18",
    "vgg11",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "densenet121",
    "vit_tiny_patch16_224",
)
TORCHVISION = (
    "resnet18",
    "vgg11",
    "vgg11_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "densenet121",
    "vit_b_16",
)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"timm/{name}": lambda name=name: timm.create_model(name) for name in TIMM},  # type: ignore[misc]
    **{f"torchvision/{name}": lambda name=name: tv.get_model(name) for name in TORCHVISION},  # type: ignore[misc]
    "headstart/simple-cnn": lambda: SimpleCNN(10),
    "headstart/resnet18_v2": lambda: resnet18_v2(10),
}

# One of each family in every run; the others, of which the code under test sees no difference, in `make soak`.
_QUICK = (
    "timm/resnet10t",
    "timm/vgg11",
    "timm/tf_efficientnet_lite0",
    "timm/convnext_atto",
    "timm/densenet121",
    "timm/vit_tiny_patch16_224",
    "torchvision/mobilenet_v3_small",
    "torchvision/vit_b_16",
    "headstart/simple-cnn",
    "headstart/resnet18_v2",
)
FAMILIES = [name if name in _QUICK else pytest.param(name, marks=pytest.mark.soak) for name in NETWORKS]

SIDE = 32  # pixels


def small_vgg(batch_norm: bool) -> nn.Module:
    network = tv.VGG(tv.vgg.make_layers([4, "M", 8, "M", 8, "M"], batch_norm), num_classes=5, init_weights=False)
    network.classifier[0], network.classifier[3] = nn.Linear(8 * 49, 16), nn.Linear(16, 16)
    network.classifier[6] = nn.Linear(16, 5)
    return network


def small_densenet(library: str) -> nn.Module:
    sizes = {"growth_rate": 4, "block_config": (2, 2, 2, 2)}
    if library == "timm":
        return timm.create_model("densenet121", **sizes)
    return tv.DenseNet(**sizes, num_init_features=8, drop_rate=0.1)


# The class of every member of NETWORKS, where that is large with other sizes, and with dropout or drop path on.
SMALL: dict[str, Callable[[], nn.Module]] = {
    **NETWORKS,
    "timm/vgg11": lambda: TimmVGG([4, "M", 8, "M", 8, "M"], mlp_ratio=1 / 256, drop_rate=0.2),
    "timm/mobilenetv3_small_050": lambda: timm.create_model("mobilenetv3_small_050", drop_path_rate=0.3),
    "timm/convnext_atto": lambda: timm.create_model(
        "convnext_atto", depths=(1, 2, 1, 1), dims=(8, 8, 12, 16), drop_path_rate=0.3
    ),
    "timm/densenet121": lambda: small_densenet("timm"),
    "timm/vit_tiny_patch16_224": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, embed_dim=24, depth=3, proj_drop_rate=0.1, drop_path_rate=0.3
    ),
    "torchvision/vgg11": lambda: small_vgg(False),
    "torchvision/vgg11_bn": lambda: small_vgg(True),
    "torchvision/mobilenet_v2": lambda: tv.mobilenet_v2(width_mult=0.25),
    "torchvision/convnext_tiny": lambda: tv.ConvNeXt(
        [CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 2), CNBlockConfig(16, 20, 1), CNBlockConfig(20, None, 1)], 0.3
    ),
    "torchvision/densenet121": lambda: small_densenet("torchvision"),
    "torchvision/vit_b_16": lambda: tv.VisionTransformer(
        image_size=SIDE, patch_size=16, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=48, dropout=0.1
    ),
    "headstart/simple-cnn": lambda: SimpleCNN(10, size=(SIDE, SIDE)),
}


def build(name: str, **head: object) -> ClassifierNetwork:
    """A classifier with numbers of its own in everything that starts as zero or one."""
    torch.manual_seed(0)
    library, _, architecture = name.partition("/")
    network = SMALL[name]()
    stages = derive_stages(network, library)
    backbone = Backbone(name, library, architecture, network, stages, InputSpec((SIDE, SIDE)), "none", "none")
    model = build_classifier(backbone, ("a", "b", "c"), **head)  # type: ignore[arg-type]
    with torch.no_grad():
        for key, tensor in model.network.state_dict().items():
            if tensor.is_floating_point() and (tensor.ndim <= 1 or "token" in key or "pos_embed" in key):
                tensor.uniform_(0.5, 1.5)
    return model


def config_for(strategy, **settings):
    return make_config({"strategy": strategy, "phases": 4, "stages": 2, **settings})


def plan_for(strategy, model, **settings):
    config = config_for(strategy, **settings)
    return build_plan(config, decide(config, model.labels), model)


def insert(strategy, config, model):
    """Put into a classifier what the strategy trains there, in place."""
    insert_parts(
        model,
        STRATEGIES[strategy].parts,
        num_stages=config.stages,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        width=config.adapter_width,
    )


def with_parts(strategy, model, **settings):
    """A copy of a classifier with what the strategy inserts; itself where that is nothing."""
    if STRATEGIES[strategy].parts is None:
        return model
    model = copy.deepcopy(model)
    insert(strategy, config_for(strategy, **settings), model)
    return model
