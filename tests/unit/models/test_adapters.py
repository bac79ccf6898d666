import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision.models as tv
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional

from headstart.errors import ModelError
from headstart.models.adapters import (
    Adapter,
    LowRank,
    adapter_layout,
    attach_adapters,
    insert_adapters,
    insert_lora,
    is_part,
    lora_factors,
    merged_state,
    norm_and_bias_names,
    restore_adapters,
)
from headstart.models.stages import derive_stages
from headstart.types import Stage


class SelfAttention(nn.Module):
    """torch's attention, which reads its weights without calling its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.attention(inputs, inputs, inputs, need_weights=False)[0]


IMAGES, TOKENS = (2, 8, 9, 9), (2, 5, 8)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 6), (3, 8)),
    "linear on tokens, no bias": (lambda: nn.Linear(8, 6, bias=False), TOKENS),
    "convolution": (lambda: nn.Conv2d(8, 6, 3, padding=1), IMAGES),
    "1x1": (lambda: nn.Conv2d(8, 6, 1, bias=False), IMAGES),
    "strided, dilated": (lambda: nn.Conv2d(8, 6, 3, stride=2, dilation=2, padding=3), IMAGES),
    "not square": (lambda: nn.Conv2d(8, 6, (1, 3), padding="same"), IMAGES),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), IMAGES),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False), IMAGES),
    "depthwise with multiplier": (lambda: nn.Conv2d(8, 16, 5, padding=2, groups=8), IMAGES),
    "1d": (lambda: nn.Conv1d(5, 4, 3, groups=1), TOKENS),
    "torch's attention": (SelfAttention, TOKENS),
    "timm's attention (qkv in one)": (lambda: Attention(8, num_heads=2), TOKENS),
}


def randomise(network: nn.Module, size: float = 0.3) -> None:
    for name, parameter in network.named_parameters():
        if is_part(name):
            nn.init.uniform_(parameter, -size, size)


def low_ranks(network: nn.Module) -> list[LowRank]:
    return [module for module in network.modules() if isinstance(module, LowRank)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_low_rank_change_is_nothing_at_first_and_merges_into_the_weight(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    network, inputs = nn.Sequential(make()).eval(), torch.randn(shape)
    plain, names = copy.deepcopy(network), list(network.state_dict())
    expected = plain(inputs)
    insert_lora(network, (Stage("all", ("0",)),), rank=3, alpha=6.0)
    assert torch.equal(network(inputs), expected)
    assert len(low_ranks(network)) == (2 if "attention" in name else 1)

    randomise(network)
    changed = network(inputs)
    assert (changed - expected).abs().max() > 0.05
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    merged = merged_state(network)
    assert sorted(merged) == sorted(names)
    plain.load_state_dict(merged)
    assert (plain(inputs) - changed).abs().max() < 1e-5
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_the_change_of_a_grouped_convolution_is_a_second_path_within_each_group() -> None:
    """Written out: group j adds scale * B_j (A * x_j); A is one set of filters, B_j the rows of the group's outputs."""
    torch.manual_seed(0)
    layer, inputs = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), torch.randn(2, 8, 7, 7)
    expected = layer(inputs)
    network = nn.Sequential(layer)
    insert_lora(network, (Stage("all", ("0",)),), rank=3, alpha=1.5)
    randomise(network)
    (change,) = low_ranks(network)
    assert (change.lora_a.shape, change.lora_b.shape, change.scale) == ((3, 2 * 9), (12, 3), 0.5)
    filters = change.lora_a.view(3, 2, 3, 3)
    for group in range(4):
        seen = functional.conv2d(inputs[:, 2 * group : 2 * group + 2], filters, stride=2, padding=1)
        rows = slice(3 * group, 3 * group + 3)
        expected[:, rows] += 0.5 * torch.einsum("or,nrhw->nohw", change.lora_b[rows], seen)
    assert torch.allclose(network(inputs), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "asked", "got"),
    [
        (nn.Linear(64, 64), 8, 8),
        (nn.Linear(64, 64), 99, 32),
        (nn.Conv2d(32, 32, 3, groups=32), 8, 7),
        (nn.Conv2d(2, 2, 1), 4, 1),
    ],
)
def test_a_rank_that_would_save_nothing_is_lowered(layer: nn.Module, asked: int, got: int) -> None:
    change = LowRank(layer.weight, asked, alpha=2.0 * asked)
    assert change.lora_a.shape[0] == change.lora_b.shape[1] == got
    assert change.lora_a.numel() + change.lora_b.numel() <= layer.weight.numel()
    assert change.scale == 2.0


def test_only_the_stages_named_get_low_rank_changes() -> None:
    network = tv.resnet18()
    stages = derive_stages(network, "torchvision")
    insert_lora(network, stages[-2:-1], rank=2, alpha=2.0)
    factors, scale = lora_factors(network)
    assert {name.partition(".")[0] for name in factors} == {"layer4"}
    assert len(factors) == 2 * 5  # four convolutions and the shortcut's
    assert scale == 1.0
    assert lora_factors(tv.resnet18()) == ({}, 0.0)


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (2, 7, 6), (3, 6)])
def test_an_adapter_is_nothing_at_first_and_then_a_bottleneck_over_the_channels(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    adapter, hidden = Adapter(6, 3), torch.randn(shape)
    assert torch.equal(adapter(hidden), hidden)
    nn.init.normal_(adapter.up.weight)
    nn.init.normal_(adapter.up.bias)
    if len(shape) == 4:
        down = functional.conv2d(hidden, adapter.down.weight[..., None, None], adapter.down.bias)
        up = functional.conv2d(functional.gelu(down), adapter.up.weight[..., None, None], adapter.up.bias)
    else:
        up = adapter.up(functional.gelu(adapter.down(hidden)))
    assert torch.allclose(adapter(hidden), hidden + up, atol=1e-6)


# Where adapters go: the number of them, and the first and the last.
PLACES = {
    "torchvision/resnet18": (8, "layer1.0", "layer4.1"),
    "torchvision/mobilenet_v2": (18, "features.1", "features.18"),
    "torchvision/vgg11": (6, "features.2", "classifier.5"),
    "torchvision/convnext_tiny": (18, "features.1.0", "features.7.2"),
    "torchvision/vit_b_16": (12, "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11"),
    "timm/tf_efficientnet_lite0": (16, "blocks.0.0", "blocks.6.0"),
    "timm/convnext_atto": (12, "stages.0.blocks.0", "stages.3.blocks.1"),
    "timm/vit_tiny_patch16_224": (12, "blocks.0", "blocks.11"),
}


@pytest.mark.parametrize("name", PLACES)
def test_there_is_an_adapter_after_every_block(name: str) -> None:
    library, _, architecture = name.partition("/")
    with torch.device("meta"):
        network = timm.create_model(architecture) if library == "timm" else tv.get_model(architecture)
    insert_adapters(network, derive_stages(network, library)[:-1], width=4, size=(224, 224))
    layout = adapter_layout(network)
    assert layout is not None
    places = list(layout)
    assert (len(places), places[0], places[-1]) == PLACES[name]
    calls: list[str] = []
    for key, module in network.named_modules():
        if isinstance(module, Adapter):
            module.register_forward_hook(lambda *_, key=key: calls.append(key.removesuffix(".adapter")))  # type: ignore[misc]
    assert network(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    assert calls == places


def test_adapters_of_two_widths_come_back_from_their_description_once() -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t").eval()
    stages = derive_stages(network, "timm")
    insert_adapters(network, stages[-2:-1], width=4, size=(64, 64))
    insert_adapters(network, stages[2:-1], width=6, size=(64, 64))
    randomise(network)
    images, layout = torch.randn(2, 3, 64, 64), adapter_layout(network)
    assert layout == {"layer2.0": [128, 6], "layer3.0": [256, 6], "layer4.0": [512, 4]}
    again = timm.create_model("resnet10t").eval()
    for _ in range(2):  # a network that has them keeps them
        restore_adapters(again, layout, "a test")
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images), network(images))
    assert adapter_layout(timm.create_model("resnet10t")) is None


def test_finding_the_places_leaves_the_network_as_it_was() -> None:
    network = timm.create_model("resnet10t").train()
    network.layer1.eval()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modes = {name: module.training for name, module in network.named_modules()}
    insert_adapters(network, derive_stages(network, "timm")[:-1], width=2, size=(64, 64))
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in before.items())
    assert {name: module.training for name, module in network.named_modules() if name in modes} == modes


@pytest.mark.parametrize(
    "layout", [{"layer1": 4}, {"layer9": [3, 4]}, {"layer1": ["x", 4]}, {"layer1": [3, -4]}, {"layer1": [3]}, []]
)
def test_a_damaged_description_is_refused(layout: object) -> None:
    with pytest.raises(ModelError, match=r"^runs/a: 'adapters' of its config is damaged .*copy the folder again"):
        restore_adapters(tv.resnet18(), layout, "runs/a")


def test_attaching_to_a_list_of_layers_runs_the_adapter_once() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    attach_adapters(network, {"0": (4, 2)})
    randomise(network)
    inputs = torch.randn(3, 4)
    assert torch.allclose(network(inputs), network[0].adapter(network[0][0](inputs).relu()))


def test_norms_and_biases() -> None:
    network = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 1, bias=False),
            "bn": nn.BatchNorm2d(4),
            "plain": nn.BatchNorm2d(4, affine=False),
            "ln": nn.LayerNorm(4),
            "gn": nn.GroupNorm(2, 4),
            "attention": nn.MultiheadAttention(4, 1),
            "block": tv.mobilenetv2.Conv2dNormActivation(3, 4),
            "fc": nn.Linear(4, 2),
        }
    )
    assert set(norm_and_bias_names(network)) == {
        "bn.weight", "bn.bias", "ln.weight", "ln.bias", "gn.weight", "gn.bias", "attention.in_proj_bias",
        "attention.out_proj.bias", "block.1.weight", "block.1.bias", "fc.bias",
    }  # fmt: skip
