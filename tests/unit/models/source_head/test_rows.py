import math
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file
from torch import nn

from headstart.errors import ConfigError, ModelError
from headstart.models.backbones import Backbone, create_backbone
from headstart.models.classifier import build_classifier
from headstart.models.gluon import resnet18_v2, save_params
from headstart.models.heads import head_of, new_head
from headstart.models.saved import save_classifier
from headstart.models.source_head import Matching, SourceHead, read_source_head, start_from_source

LABELS = ("bees", "something new", "ants")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file as torchvision publishes it, of random weights: 1,000 classes below a convolution."""
    torch.manual_seed(0)
    network = tv.squeezenet1_1()
    nn.init.normal_(network.classifier[1].bias, std=0.3)
    file = tmp_path_factory.mktemp("weights") / "squeezenet1_1.pth"
    torch.save(network.state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(1)
    model = build_classifier(
        create_backbone("simple-cnn", image_size=32), ("ant", "bee", "crane", "crane"), dropout=0.1
    )
    nn.init.normal_(head_of(model.network, model.stages).bias)
    save_classifier(model, folder)
    return str(folder)


def classifier_head(backbone: Backbone, source: SourceHead, **settings: float) -> nn.Module:
    model = build_classifier(backbone, source.matching.labels, source_head=source, **settings)  # type: ignore[arg-type]
    assert model.source_head is source
    return head_of(model.network, model.stages)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_rows_and_biases_are_the_sources_bit_for_bit(published: str, dropout: float) -> None:
    backbone = create_backbone("squeezenet1_1", weights=published)
    original = head_of(backbone.network, backbone.stages)
    source = read_source_head(backbone, published, LABELS, {})
    assert source.matching.outputs == (309, None, 310)  # in torchvision's order
    head = classifier_head(backbone, source, dropout=dropout)
    assert isinstance(head, nn.Conv2d)
    for row, output in ((0, 309), (2, 310)):
        assert torch.equal(head.weight[row], original.weight[output])
        assert torch.equal(head.bias[row], original.bias[output])


def test_a_new_row_has_the_scale_of_the_rows_taken() -> None:
    torch.manual_seed(0)
    rows, bias = torch.randn(5, 4000) * 0.37, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    matching = Matching(("a", "b", "x"), (1, 3, None), None)
    head = new_head(4000, 3)
    xavier = head.weight[2].detach().clone()
    start_from_source(head, SourceHead(rows, bias, (), matching))
    scale, row = float(rows[[1, 3]].square().mean().sqrt()), head.weight[2].detach()
    assert float(row.square().mean().sqrt()) == pytest.approx(scale, rel=0.03)
    assert float(row.abs().max()) == pytest.approx(math.sqrt(3) * scale, rel=0.01)  # uniform still
    assert torch.allclose(row / xavier, (row / xavier)[0], rtol=1e-4)
    assert head.bias.tolist() == [2.0, 8.0, 5.0]


def test_a_head_with_a_hidden_layer_cannot_start_so() -> None:
    source = SourceHead(torch.randn(5, 8), torch.zeros(5), (), Matching(("a", "b"), (0, 1), None))
    with pytest.raises(ModelError, match=r"only a head of one layer.*leave out --head-hidden"):
        start_from_source(new_head(8, 2, hidden=4), source)


def test_names_come_from_imagenet_where_the_number_of_classes_says_so(published: str) -> None:
    backbone = create_backbone("squeezenet1_1", weights=published)
    source = read_source_head(backbone, published, ("hot_dog", "not_hot_dog"), {})
    assert source.summary() == {"hot_dog": "934 (hotdog, hot dog, red hot)", "not_hot_dog": "rest"}
    with pytest.raises(ConfigError, match=r"134 \(crane: large long-necked wading bird.*517 \(crane: lifts and moves"):
        read_source_head(backbone, published, ("crane", "ant"), {})


def test_a_run_brings_its_own_labels(run: str) -> None:
    backbone = create_backbone("simple-cnn", weights=run)
    assert backbone.has_source_head
    assert head_of(backbone.network, backbone.stages).weight.shape == (4, 64)
    source = read_source_head(backbone, run, ("wasp", "bee", "ant"), {})
    assert source.matching.outputs == (None, 1, 0)
    with pytest.raises(ConfigError, match=r"fits several of the source's: 2 \(crane\); 3 \(crane\)"):
        read_source_head(backbone, run, ("crane", "ant"), {})


def test_what_a_seed_gives_does_not_depend_on_the_files_classes(run: str, tmp_path: Path) -> None:
    state = create_backbone("simple-cnn", weights=run, image_size=32).network.state_dict()
    head = [name for name in state if state[name].shape[:1] == (4,)]
    save_file({name: tensor for name, tensor in state.items() if name not in head}, tmp_path / "headless.safetensors")
    heads = []
    for weights in (run, str(tmp_path / "headless.safetensors")):
        torch.manual_seed(3)
        model = build_classifier(create_backbone("simple-cnn", weights=weights, image_size=32), ("a", "b"))
        heads.append(head_of(model.network, model.stages).weight)
    assert torch.equal(*heads)
    headless = create_backbone("simple-cnn", weights=str(tmp_path / "headless.safetensors"), image_size=32)
    with pytest.raises(ModelError, match="has no head of one layer"):
        read_source_head(headless, str(tmp_path / "headless.safetensors"), ("a", "b"), {})


def test_random_weights_know_nothing() -> None:
    with pytest.raises(ModelError, match="with weights none has no head"):
        read_source_head(create_backbone("simple-cnn", image_size=32), None, ("a", "b"), {})


def test_gluons_order_is_another_so_rows_are_named_by_number(tmp_path: Path) -> None:
    file = tmp_path / "resnet18_v2.params"
    network = resnet18_v2(1000)
    save_params(network, file)
    backbone = create_backbone("resnet18_v2", weights=str(file))
    labels = ("hot_dog", "not_hot_dog")
    with pytest.raises(ConfigError, match="names are not known here"):
        read_source_head(backbone, str(file), labels, {})
    source = read_source_head(backbone, str(file), labels, {"hot_dog": "713"})
    head = classifier_head(backbone, source)
    assert torch.equal(head.weight[0], network.output.weight[713])
    assert torch.equal(head.bias[0], network.output.bias[713])
