import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from headstart.training.mixing import mix_batch
from headstart.training.optim import WeightAverage, build_optimizer, is_decayed, set_learning_rate
from headstart.training.schedules import lr_factor
from tests.helpers.tiny import TinyNet


def make(name, network, rates, **settings):
    options = {"momentum": 0.9, "weight_decay": 0.1, "decay_all": False, **settings}
    return build_optimizer(name, dict(network.named_parameters()), rates, **options)


def test_groups_hold_rates_and_decay_without_norms_and_biases():
    network = TinyNet()
    optimizer = make(
        "adamw", network, {"layer2.0.weight": 0.1, "layer2.1.weight": 0.1, "fc.weight": 1.0, "fc.bias": 1.0}
    )
    groups = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in optimizer.param_groups}
    assert groups == {(0.1, 0.1): 1, (0.1, 0.0): 1, (1.0, 0.1): 1, (1.0, 0.0): 1}
    assert all(g["fused"] for g in optimizer.param_groups)


MAPS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
NETWORKS = [
    "tv/vit_b_16", "tv/convnext_tiny", "tv/swin_t", "tv/swin_v2_t", "tv/maxvit_t", "tv/efficientnet_b0",
    "timm/vit_small_patch14_reg4_dinov2", "timm/convnext_tiny", "timm/swin_tiny_patch4_window7_224",
    "timm/deit_tiny_distilled_patch16_224", "timm/beit_base_patch16_224", "timm/crossvit_tiny_240",
    "timm/xcit_nano_12_p16_224", "timm/levit_128s", "timm/fastvit_t8",
]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_maps_of_real_networks_are_decayed(name):
    """Not class tokens, registers, LayerScale, temperatures, nor tables of positions."""
    library, _, architecture = name.partition("/")
    with torch.device("meta"):
        network = timm.create_model(architecture) if library == "timm" else torchvision.models.get_model(architecture)
    expected = set()
    for place, module in network.named_modules():
        if isinstance(module, MAPS):
            own = module.named_parameters(prefix=place, recurse=False)
            expected.update(key for key, parameter in own if parameter.ndim > 1)
    decayed = {key for key, parameter in network.named_parameters() if is_decayed(key, parameter, decay_all=False)}
    assert decayed == expected
    assert decayed


def test_tables_of_positions_and_inserted_parts():
    table, vector = torch.zeros(4, 4), torch.zeros(4)
    for name in ("embeddings.position_embedding.weight", "pos_embed", "blocks.0.rel_pos.weight", "cls_token"):
        assert not is_decayed(name, table, decay_all=False)
    changed = ("fc.parametrizations.weight.original", "attn.parametrizations.in_proj_weight.original")
    for name in ("blocks.0.lora_a", "blocks.0.lora_b", "blocks.0.adapter.down.weight", *changed):
        assert is_decayed(name, table, decay_all=False)
    assert not is_decayed("norm.weight", vector, decay_all=False)


def test_decay_all_decays_everything():
    network = TinyNet()
    optimizer = make("sgd", network, dict.fromkeys(dict(network.named_parameters()), 0.1), decay_all=True)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1]


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_the_optimizer_is_the_one_named(name, kind):
    assert type(make(name, TinyNet(), {"fc.weight": 0.1})).__name__ == kind


def test_schedules_have_their_shape():
    assert [lr_factor("constant", step, 10) for step in (0, 9)] == [1.0, 1.0]
    cosine = [lr_factor("cosine", step, 100, 0.1) for step in range(100)]
    assert np.argmax(cosine) in (9, 10)
    assert cosine[5] == pytest.approx(0.55)
    assert cosine[99] < 0.001
    assert cosine[55] == pytest.approx((1 + math.cos(math.pi * 0.455 / 0.9)) / 2)
    one_cycle = [lr_factor("one-cycle", step, 100) for step in range(100)]
    assert one_cycle[0] == pytest.approx(1 / 25, abs=0.001)
    assert np.argmax(one_cycle) in (29, 30)
    assert max(one_cycle) <= 1
    assert one_cycle[99] < 0.001
    stepped = [lr_factor("step", step, 250, decay_steps=70) for step in (0, 69, 70, 139, 140, 249)]
    assert stepped == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])


def test_a_single_step_has_a_rate():
    assert all(lr_factor(name, 0, 1, 0.1) > 0.1 for name in ("constant", "cosine", "one-cycle"))


def test_rates_scale_all_groups():
    optimizer = make("adamw", TinyNet(), {"fc.weight": 0.5, "layer1.0.weight": 0.1})
    set_learning_rate(optimizer, 0.5)
    assert sorted(g["lr"] for g in optimizer.param_groups) == [0.05, 0.25]


def test_weight_average_follows_and_leaves_the_frozen_alone():
    network = TinyNet()
    frozen = frozenset(n for n, _ in (*network.named_parameters(), *network.named_buffers()) if not n.startswith("fc"))
    average = WeightAverage(network, frozen, 0.9)
    assert set(average.shadow) == {"fc.weight", "fc.bias"}
    before = network.fc.weight.detach().clone()
    with torch.no_grad():
        network.fc.weight.add_(1)
    average.update()
    decay = min(0.9, 2 / 11)
    assert torch.allclose(average.shadow["fc.weight"], before * decay + (before + 1) * (1 - decay))
    current = network.fc.weight.detach().clone()
    with average.applied():
        assert torch.equal(network.fc.weight, average.shadow["fc.weight"])
    assert torch.equal(network.fc.weight, current)


def test_mixup_blends_and_cutmix_pastes():
    inputs, targets = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8), torch.arange(4)
    mixed, soft = mix_batch(inputs, targets, 4, mixup=1.0, cutmix=0, rng=np.random.default_rng(0))
    assert torch.allclose(soft.sum(1), torch.ones(4))
    expected = (soft * torch.arange(4.0)).sum(1)  # the picture's value is the class number
    assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
    mixed, soft = mix_batch(inputs, targets, 4, mixup=0, cutmix=1.0, rng=np.random.default_rng(2))
    assert set(mixed.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert torch.allclose(mixed.mean((1, 2, 3)), (soft * torch.arange(4.0)).sum(1), atol=1e-5)
    features = torch.arange(32, dtype=torch.float32).view(4, 8)
    for alphas in ({"mixup": 0, "cutmix": 1.0}, {"mixup": 1.0, "cutmix": 0}):  # no place to paste a box into
        mixed, soft = mix_batch(features, targets, 4, **alphas, rng=np.random.default_rng(3))
        assert torch.allclose(mixed, soft @ features, atol=1e-4)  # every image is a class of its own
        assert 0 < float(soft.max(1).values.min()) < 1


@pytest.mark.parametrize("shape", [(6, 8), (6, 3, 3, 8)])  # tokens of a ViT, a map of a Swin: channels last
def test_cutmix_never_pastes_channels(shape):
    targets = torch.arange(4)
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    mixed, soft = mix_batch(inputs, targets, 4, mixup=0, cutmix=1.0, rng=np.random.default_rng(3))
    assert torch.allclose(mixed, torch.einsum("nk,k...->n...", soft, inputs), atol=1e-5)
    assert 0 < float(soft.max(1).values.min()) < 1


def test_without_mixing_nothing_changes():
    inputs, targets = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    same, labels = mix_batch(inputs, targets, 2, mixup=0, cutmix=0, rng=np.random.default_rng(0))
    assert same is inputs
    assert labels is targets
