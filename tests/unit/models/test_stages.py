from collections.abc import Callable

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn

from headstart.errors import ModelError
from headstart.models.simple_cnn import SimpleCNN
from headstart.models.stages import derive_stages, has_known_stages


def _numbered(prefix: str, *numbers: int) -> list[str]:
    return [f"{prefix}{number}" for number in numbers]


EXPECTED = {
    "torchvision/resnet18": _numbered("layer", 1, 2, 3, 4),
    "torchvision/mobilenet_v3_small": _numbered("features.", *range(1, 12)),
    "torchvision/efficientnet_b0": _numbered("features.", *range(1, 8)),
    "torchvision/convnext_tiny": _numbered("features.", 1, 2, 4, 6),
    "torchvision/densenet121": _numbered("denseblock", 1, 2, 3, 4),
    "torchvision/vit_b_16": _numbered("encoder_layer_", *range(12)),
    "timm/resnet10t": _numbered("layer", 1, 2, 3, 4),
    "timm/tf_efficientnet_lite0": _numbered("blocks.", *range(7)),
    "timm/mobilenetv3_small_050": _numbered("blocks.", *range(6)),
    "timm/convnext_atto": _numbered("stages.", 0, 1, 2, 3),
    "timm/densenet121": _numbered("denseblock", 1, 2, 3, 4),
    "timm/test_vit": _numbered("blocks.", *range(6)),
}


def _build(name: str) -> tuple[nn.Module, str]:
    library, _, architecture = name.partition("/")
    make: Callable[[str], nn.Module] = timm.create_model if library == "timm" else tv.get_model
    with torch.device("meta"):
        return make(architecture), library


@pytest.mark.parametrize("name", EXPECTED)
def test_names_of_stages(name: str) -> None:
    assert [stage.name for stage in derive_stages(*_build(name))] == ["stem", *EXPECTED[name], "head"]


@pytest.mark.parametrize("name", ["torchvision/vgg11_bn", "timm/vgg11_bn"])
def test_vgg_has_a_stage_per_pooling_and_one_for_its_hidden_layers(name: str) -> None:
    network, library = _build(name)
    stages = derive_stages(network, library)
    assert [stage.name for stage in stages] == [*_numbered("block", 1, 2, 3, 4, 5), "hidden", "head"]
    pools = [key for key, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
    assert [stage.prefixes[-1] for stage in stages[:4]] == pools[:4]


@pytest.mark.parametrize(
    ("name", "last_norm"),
    [
        ("torchvision/convnext_tiny", "classifier.0"),
        ("torchvision/densenet121", "features.norm5"),
        ("torchvision/vit_b_16", "encoder.ln"),
        ("torchvision/efficientnet_b0", "features.8"),
        ("timm/tf_efficientnet_lite0", "conv_head"),
        ("timm/tf_efficientnet_lite0", "bn2"),
        ("timm/convnext_atto", "head.norm"),
        ("timm/test_vit", "norm"),
    ],
)
def test_what_follows_the_last_block_belongs_to_it(name: str, last_norm: str) -> None:
    assert derive_stages(*_build(name))[-2].owns(last_norm)


@pytest.mark.parametrize("name", ["torchvision/vit_b_16", "timm/test_vit"])
def test_position_embeddings_belong_to_the_stem(name: str) -> None:
    network, library = _build(name)
    stem = derive_stages(network, library)[0]
    assert [key for key, _ in network.named_parameters() if "pos_embed" in key and not stem.owns(key)] == []


def test_a_downsampling_layer_opens_the_stage_it_feeds() -> None:
    stages = derive_stages(*_build("torchvision/convnext_tiny"))
    assert stages[2].prefixes == ("features.2", "features.3")


@pytest.mark.parametrize("name", ["torchvision/squeezenet1_1", "torchvision/googlenet", "timm/regnetx_002"])
def test_an_unknown_family_has_a_body_and_a_head(name: str) -> None:
    network, library = _build(name)
    assert not has_known_stages(network)
    stages = derive_stages(network, library)
    assert [stage.name for stage in stages] == ["body", "head"]
    assert all(sum(stage.owns(key) for stage in stages) == 1 for key in network.state_dict())


def test_simple_cnn() -> None:
    network = SimpleCNN(2, (32, 32))
    assert has_known_stages(network)
    names = [stage.name for stage in derive_stages(network, "headstart")]
    assert names == ["conv1", "conv2", "conv3", "hidden", "head"]


def test_two_classification_layers_are_refused() -> None:
    network, library = _build("timm/deit_tiny_distilled_patch16_224")
    with pytest.raises(ModelError, match=r"2 classification layers \(head, head_dist\)"):
        derive_stages(network, library)


def test_no_classification_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="no final linear layer"):
        derive_stages(*_build("timm/mobilenetv5_300m_enc"))
    with pytest.raises(ModelError, match="no final linear layer"):
        derive_stages(nn.Sequential(nn.ReLU()), "headstart")
