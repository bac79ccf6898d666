"""Every family of both libraries keeps the promises that plans, the cache and saved models build on."""

from pathlib import Path

import pytest
import torch
from torch import nn

from headstart.models.backbones import create_backbone
from headstart.models.classifier import build_classifier
from headstart.models.libraries import LIBRARIES
from headstart.models.saved import load_classifier, save_classifier
from headstart.models.stages import derive_stages, has_known_stages
from tests.helpers.networks import NETWORKS, TIMM, TORCHVISION

# Left out for their size alone: VGG and ViT-B of torchvision take 0.5 and 0.3 GB.
OWN = ("simple-cnn", "resnet18_v2")
SAVED = (*(f"timm/{name}" for name in TIMM if name != "vgg11"), *TORCHVISION[3:8], "resnet18", *OWN)


@pytest.fixture(params=NETWORKS, scope="module")
def member(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """A network of each family: its library, and the network without any numbers, which takes no memory."""
    with torch.device("meta"):
        return request.param.partition("/")[0], NETWORKS[request.param]().eval()


def test_every_family_has_a_member() -> None:
    families = {family for library in LIBRARIES.values() for family in library.families}
    with torch.device("meta"):
        assert {type(make()) for make in NETWORKS.values()} == families


def test_every_tensor_and_layer_belongs_to_one_stage(member: tuple[str, nn.Module]) -> None:
    library, network = member
    stages = derive_stages(network, library)
    layers = [name for name, module in network.named_modules() if not any(module.children())]
    for name in (*network.state_dict(), *dict(network.named_buffers()), *layers):
        assert sum(stage.owns(name) for stage in stages) == 1, name


def test_the_head_is_exactly_the_final_layer(member: tuple[str, nn.Module]) -> None:
    library, network = member
    head = derive_stages(network, library)[-1]
    owned = {name: module for name, module in network.named_modules() if head.owns(name)}
    assert head.name == "head"
    assert list(owned) == list(head.prefixes)
    assert all(isinstance(module, nn.Linear) for module in owned.values())
    assert network(torch.zeros(1, 3, 224, 224, device="meta")).shape[1] == owned[head.prefixes[0]].out_features


def test_stages_are_known_and_in_forward_order(member: tuple[str, nn.Module]) -> None:
    library, network = member
    stages = derive_stages(network, library)
    assert has_known_stages(network)
    assert len(stages) >= 5
    assert len({stage.name for stage in stages}) == len(stages)
    called: list[int] = []
    for name, module in network.named_modules():
        if not any(module.children()) and any(True for _ in module.parameters()):
            number = next(i for i, stage in enumerate(stages) if stage.owns(name))
            module.register_forward_pre_hook(lambda *_, number=number: called.append(number))  # type: ignore[misc]
    network(torch.zeros(1, 3, 224, 224, device="meta"))
    assert called == sorted(called)
    assert set(called) == set(range(len(stages)))


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_network_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, weights="none", image_size=64)
    library_names = [key for key in backbone.network.state_dict() if not backbone.stages[-1].owns(key)]
    classifier = build_classifier(backbone, ["a", "b", "c"], dropout=0.1)
    classifier.network.eval()
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path)

    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        logits = classifier.logits(pixels)
        assert torch.equal(loaded.logits(pixels), logits)
    assert logits.shape == (2, 3)
    assert not loaded.network.training
    assert (loaded.stages, loaded.spec, loaded.labels) == (classifier.stages, classifier.spec, ("a", "b", "c"))
    assert [key for key in loaded.network.state_dict() if not loaded.stages[-1].owns(key)] == library_names
