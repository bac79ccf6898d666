import hashlib
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn

from headstart import runs
from headstart.errors import ModelError
from headstart.inference.explain import explain, grad_cam
from headstart.models.backbones import create_backbone
from headstart.models.classifier import build_classifier
from headstart.models.saved import save_classifier
from headstart.types import InputSpec, Stage
from tests.helpers.pictures import LABELS, make_picture


class Channels(nn.Module):
    """Averages what is above grey over the picture and weighs the three colours: Grad-CAM has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Hardtanh(0.0, 1.0), nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [-1.0, -1.0, -1.0]]))

    def forward(self, images):
        return self.head(self.body(images).mean(dim=(2, 3)))


class Flat(nn.Module):
    """Has no layer with positions."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Flatten(), nn.Linear(3 * 8 * 8, 2)

    def forward(self, images):
        return self.head(self.body(images))


def small_model(network, labels=("warm", "cold")):
    model = build_classifier(create_backbone("simple-cnn", weights="none", image_size=32), labels)
    stages, spec = (Stage("body", ("body",)), Stage("head", ("head",))), InputSpec((8, 8), 8)
    return replace(model, network=network.eval(), stages=stages, spec=spec)


def test_the_map_is_that_of_the_formula():
    view = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    maps, layer = grad_cam(small_model(Channels()), view, [0, 1])
    activations = np.clip((view / 255 - 0.5) / 0.5, 0, 1)  # what is below grey is 0, so the gradient there is too
    share = (activations > 0).mean(axis=(0, 1))
    # dy/dA is weight / 64 at every position of A, the layer's output; its mean over the positions is a constant.
    evidence = np.maximum((activations * [1.0, -2.0, 0.5]).sum(-1), 0)
    assert share.min() > 0
    np.testing.assert_allclose(maps[0], evidence / evidence.max(), atol=1e-6)
    assert not maps[1].any()  # every colour speaks against it
    assert layer == "body"


def test_a_network_without_positions_says_so():
    with pytest.raises(ModelError, match="has none below its head"):
        grad_cam(small_model(Flat()), np.zeros((8, 8, 3), np.uint8), [0])


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("simple-cnn", None, None),
        ("resnet18", "layer4", (7, 7)),
        ("timm/vit_tiny_patch16_224", "blocks.10", (14, 14)),  # the head reads the class token of the last block only
        ("timm/swin_s3_tiny_224", None, (7, 7)),  # channels last
    ],
)
def test_maps_lie_on_the_grid_of_every_kind_of_network(name, layer, shape):
    torch.manual_seed(0)
    backbone = create_backbone(name, weights="none")
    model = build_classifier(backbone, LABELS)
    model.network.eval()
    for parameter in model.network.parameters():
        parameter.requires_grad_(False)
    height, width = model.spec.size
    view = np.array(make_picture(1, (width, height)))
    maps, found = grad_cam(model, view, [0, 1, 2])
    assert layer in (None, found)
    assert all(each.shape == (shape or each.shape) and each.ndim == 2 for each in maps)
    assert all(each.min() >= 0 and each.max() in (0.0, 1.0) for each in maps)
    assert any(each.any() for each in maps)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.fixture
def finished(network, tmp_path):
    """A run of which one image is rightly classified, two are wrong, and the picture of one more is gone."""
    run = runs.create_run_folder(tmp_path / "run", {"config.yaml": "data: x", "metrics.json": "{}"})
    save_classifier(network, run.model_folder)
    labels, predicted = ("ant", "ant", "bee", "ant"), ("ant", "bee", "cat", "bee")
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths[:3]):
        make_picture(i).save(path)
    columns = {"path": [str(path) for path in paths], "label": labels, "predicted": predicted}
    confidence = {"ant": [0.9, 0.2, 0.1, 0.1], "bee": [0.05, 0.6, 0.1, 0.8], "cat": [0.05, 0.2, 0.8, 0.1]}
    runs.write_parquet(run.path / runs.PREDICTIONS, pa.table(columns | {f"p_{k}": v for k, v in confidence.items()}))
    return run


def test_mistakes_come_first_and_pictures_are_written(finished):
    weights = finished.model_folder / "model.safetensors"
    before = hashlib.sha256(weights.read_bytes()).hexdigest()
    found = explain(finished)
    folder = finished.path / "explanations"
    assert json.loads((folder / "explanations.json").read_text()) == found
    assert [(image["label"], image["predicted"]) for image in found["images"]] == [
        ("bee", "cat"), ("ant", "bee"), ("ant", "ant")
    ]  # fmt: skip
    assert [image["probability"] for image in found["images"]] == [0.8, 0.6, 0.9]
    assert found["reason"] is None
    assert found["layer"]
    for image in found["images"]:
        is_wrong = image["label"] != image["predicted"]
        assert ("label_file" in image) == is_wrong
        assert len(image["has_evidence"]) == 1 + is_wrong
        panels = [np.array(Image.open(folder / image[key])) for key in ("input", "file", "label_file") if key in image]
        assert {panel.shape for panel in panels} == {(32, 32, 3)}
        # All colour is evidence: where there is some the panel is coloured, where there is none it is grey.
        for panel, has_evidence in zip(panels[1:], image["has_evidence"], strict=True):
            assert bool((np.ptp(panel.astype(int), axis=2) > 8).any()) == has_evidence
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == before


def test_a_damaged_manifest_is_in_nobodys_way(finished):
    (finished.path / runs.MANIFEST).write_bytes(b"PAR1")
    assert len(explain(finished)["images"]) == 3


def test_the_numbers_of_images_are_bounds(finished):
    found = explain(finished, num_mistakes=1, num_right=0)
    assert [image["predicted"] for image in found["images"]] == ["cat"]


def test_a_network_that_cannot_be_explained_gives_its_reason(finished, monkeypatch):
    def refuse(*args):
        raise ModelError("no positions")

    monkeypatch.setattr("headstart.inference.explain.grad_cam", refuse)
    assert explain(finished) == {"method": "Grad-CAM", "layer": None, "reason": "no positions", "images": []}
    assert (finished.path / "explanations" / "explanations.json").is_file()
