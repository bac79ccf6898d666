"""A network of every family with small parts: equal to itself at first, and equal to what is saved of it later."""

import copy
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from headstart.models.adapters import adapter_layout, is_part, merged_state, restore_adapters
from headstart.models.backbones import create_backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.saved import load_classifier, save_classifier
from headstart.types import Parts
from tests.helpers.networks import FAMILIES, SIDE, build, with_parts


def logits_of(classifier: ClassifierNetwork, images: Tensor) -> Tensor:
    classifier.network.eval()
    with torch.inference_mode():
        return classifier.network(images)


def train(classifier: ClassifierNetwork) -> None:
    """Give the parts numbers that matter."""
    for name, parameter in classifier.network.named_parameters():
        if is_part(name):
            torch.nn.init.uniform_(parameter, -0.05, 0.05)


@pytest.mark.parametrize("parts", get_args(Parts))
@pytest.mark.parametrize("name", FAMILIES)
def test_parts_change_nothing_at_first_and_what_is_saved_is_what_was_trained(name: str, parts: Parts) -> None:
    torch.set_num_threads(1)
    model, images = build(name), torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = logits_of(model, images)
    changed = with_parts(parts, model, stages=None)
    assert torch.equal(logits_of(changed, images), expected)
    train(changed)
    logits = logits_of(changed, images)
    size = logits.abs().max()
    assert (logits - expected).abs().max() > 1e-4 * size

    plain = copy.deepcopy(model)
    restore_adapters(plain.network, adapter_layout(changed.network), "a test")
    plain.network.load_state_dict(merged_state(changed.network))
    assert (logits_of(plain, images) - logits).abs().max() <= 1e-5 * max(1.0, float(size))
    if parts == "lora":
        assert list(plain.network.state_dict()) == list(model.network.state_dict())
    else:
        homes = {next(s.name for s in changed.stages if s.owns(name)) for name in adapter_layout(changed.network)}
        assert homes == {stage.name for stage in changed.stages} - {"stem", "head"}


@pytest.mark.parametrize("parts", get_args(Parts))
@pytest.mark.parametrize("name", ["lite0", "resnet18", "timm/test_vit", "simple-cnn"])
def test_a_saved_model_comes_back(name: str, parts: Parts, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = 160 if name == "timm/test_vit" else 64
    base = build_classifier(create_backbone(name, weights="none", image_size=size), ["a", "b"], dropout=0.1)
    classifier = with_parts(parts, base, stages=None)
    train(classifier)
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    classifier.network.eval()
    save_classifier(classifier, tmp_path)
    state = torch.get_rng_state()
    loaded = load_classifier(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        assert (loaded.logits(pixels) - classifier.logits(pixels)).abs().max() < 1e-5
    assert loaded.stages == base.stages
    assert (tmp_path / "lora.safetensors").exists() == (parts == "lora")
    # A loaded model is saved as it was, and starts another run, parts and all.
    save_classifier(loaded, tmp_path / "again")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()
    started = create_backbone(name, weights=str(tmp_path)).network.state_dict()
    assert all(torch.equal(started[key], tensor) for key, tensor in loaded.network.state_dict().items())
