"""Every row of the real table of backbone libraries, and a tiny one: a new row is tested without writing a test."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import headstart
from headstart.errors import ModelError
from headstart.models import libraries
from headstart.models.backbones import create_backbone, describe_backbone
from headstart.models.classifier import build_classifier
from headstart.models.libraries import LIBRARIES, library_named
from headstart.models.libraries.families import blocks
from headstart.models.libraries.library import Library, Loaded, Origin, Publication, Size
from headstart.models.origins import backbone_names, find_origin
from headstart.models.saved import load_classifier, save_classifier
from headstart.models.stages import has_known_stages
from headstart.types import InputSpec

SIDE = 64  # pixels


class TinyNet(nn.Module):
    """A network that nobody knows: a stem, two blocks, and a head that is not its last layer by name."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(12, 5)
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.block1 = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.block2 = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.pool(self.block2(self.block1(self.stem(images)))))
        return logits


def find_tiny(name: str) -> Origin | None:
    return Origin(name, TINY, "net", "net", InputSpec((SIDE, SIDE), 72)) if name in ("tiny/net", "net") else None


def load_tiny(source: Origin, size: Size) -> Loaded:
    network = TINY.build(source.variant, size)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.linspace(-0.2, 0.3, parameter.numel()).roll(number).view_as(parameter))
    return Loaded(network, "a formula")


TINY = Library(
    name="tiny",
    accepts="tiny/net",
    example="tiny/net",
    code_licence="MIT",
    names=lambda: ("tiny/net",),
    find=find_tiny,
    make=lambda architecture, size: {"net": TinyNet}[architecture](),
    version=lambda: "tiny 1",
    publication=Publication(load_tiny, lambda source: f"those of {source.name} are free"),
    families={TinyNet: blocks(r"block\d")},
    declared_head=lambda network: "answer",
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Library:
    """The library that is only a row."""
    monkeypatch.setitem(LIBRARIES, "tiny", TINY)
    return TINY


@pytest.fixture(params=[*LIBRARIES, "tiny"])
def library(request: pytest.FixtureRequest, tiny: Library) -> Iterator[Library]:
    """A row of the table."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield LIBRARIES[request.param]


def test_it_finds_its_own_names_and_no_others(library: Library) -> None:
    names = library.names()
    assert library.example in names
    assert set(names) <= set(backbone_names())
    for name in (library.example, names[0], names[-1]):
        source = find_origin(name)
        assert (source.name, source.library) == (name, library)
        assert find_origin(name.rpartition("/")[2]).spec.size
    assert library.find("no such network") is None
    with pytest.raises(ModelError, match="unknown backbone 'no such network'") as caught:
        find_origin("no such network")
    assert library.accepts in str(caught.value)


def test_its_name_in_a_saved_model_leads_to_the_same_networks(library: Library) -> None:
    named = library_named(library.name)
    assert named.name == library.name
    for what in ("make", "families", "declared_head", "code_licence", "version", "own_loader"):
        assert getattr(named, what) == getattr(library, what), what


def test_a_saved_model_keeps_a_librarys_name_and_not_its_place_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = LIBRARIES["torchvision"]
    monkeypatch.setattr(libraries, "LIBRARIES", {"moved": torchvision})
    assert library_named("torchvision") is torchvision
    with pytest.raises(ModelError, match="the library 'moved'"):
        library_named("moved")


def test_its_code_has_a_version(library: Library) -> None:
    assert library.version()
    assert library.version() == library.version()


def test_what_it_cannot_build_is_refused_in_one_line(library: Library) -> None:
    with pytest.raises(ModelError, match=f"^{library.name} cannot build nothing for 64 px inputs: ") as caught:
        library.build("nothing", (SIDE, SIDE))
    assert "\n" not in str(caught.value)


def test_every_part_of_its_network_trains_and_belongs_to_one_stage(library: Library) -> None:
    backbone = create_backbone(library.example, weights="none", image_size=SIDE)
    logits = backbone.network(torch.rand(2, 3, SIDE, SIDE))
    logits.square().sum().backward()
    assert logits.ndim == 2
    assert [name for name, parameter in backbone.network.named_parameters() if parameter.grad is None] == []
    assert backbone.stages[-1].name == "head"
    assert has_known_stages(backbone.network)
    for name in backbone.network.state_dict():
        assert sum(stage.owns(name) for stage in backbone.stages) == 1, name


def test_what_is_shown_of_its_network(library: Library) -> None:
    backbone = create_backbone(library.example, weights="none")
    described = describe_backbone(backbone)
    assert json.loads(json.dumps(described)) == described
    assert described["library"] == library.name
    code = f"code {library.code_licence} ({library.name})"
    assert described["licence"] == f"{code}; no pretrained weights"
    if library.publication is None:
        assert described["published_licence"] == described["licence"]
        assert create_backbone(library.example).weights == "none"
    else:
        assert described["published_licence"].startswith(f"{code}; weights: ")


def test_its_network_is_saved_loaded_and_trained_further(library: Library, tmp_path: Path) -> None:
    backbone = create_backbone(library.example, weights="none", image_size=SIDE)
    classifier = build_classifier(backbone, ["a", "b", "c"])
    classifier.network.eval()
    save_classifier(classifier, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["headstart"]["library"] == library.name

    loaded = load_classifier(tmp_path)
    pixels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.logits(pixels), classifier.logits(pixels))
    assert (loaded.library, loaded.stages) == (library.name, backbone.stages)

    further = create_backbone(library.example, weights=str(tmp_path))
    assert further.has_source_head
    state = further.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.network.state_dict().items())


def test_a_library_that_is_only_a_row_publishes_weights(tiny: Library) -> None:
    backbone = create_backbone("net")
    assert (backbone.library, backbone.architecture, backbone.weights) == ("tiny", "net", "a formula")
    assert backbone.licence == "code MIT (tiny); weights: those of net are free"
    assert [stage.name for stage in backbone.stages] == ["stem", "block1", "block2", "head"]
    state = backbone.network.state_dict()
    assert float(state["answer.weight"].min()) == pytest.approx(-0.2)


def test_a_library_that_is_only_a_row_is_trained_and_predicts(
    tiny: Library, image_folder: Path, tmp_path: Path
) -> None:
    settings = {
        "backbone": "tiny/net",
        "strategy": "gradual",
        "phases": 3,
        "phase_epochs": [1, 1, 2],
        "engine": "torch",
    }
    run = headstart.fit(image_folder, out=str(tmp_path / "run"), threads=1, **settings)
    pictures = sorted(image_folder.glob("val/*/*"))[:4]
    probabilities = headstart.load(run.path).predict_proba(pictures)
    assert probabilities.shape == (4, 3)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (tmp_path / "run" / "model" / "README.md").read_text().count("code MIT (tiny)") == 1


def test_a_model_of_a_library_that_is_not_there_says_so(
    tiny: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_classifier(build_classifier(create_backbone("tiny/net"), ["a", "b"]), tmp_path)
    monkeypatch.delitem(LIBRARIES, "tiny")
    with pytest.raises(ModelError) as caught:
        load_classifier(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'} is of the library 'tiny'; this version of Headstart knows headstart, timm "
        "and torchvision: update Headstart, or copy the model again"
    )
