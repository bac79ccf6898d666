import json
from pathlib import Path

import pytest
import timm
import torch

from headstart.errors import ModelError
from headstart.models.backbones import create_backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.saved import load_classifier, save_classifier
from headstart.types import InputSpec

LABELS = ["ants, red", "bees\nof two lines", '"quoted"', "naïve 蜂", "line\u2028separator", "back\\slash"]


def _small(**head: float | int) -> ClassifierNetwork:
    backbone = create_backbone("timm/resnet10t", weights="none", image_size=64)
    return build_classifier(backbone, LABELS, **head)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small() -> ClassifierNetwork:
    return _small()


def test_normalize(small: ClassifierNetwork) -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    kept = pixels.clone()
    normal = small.normalize(pixels)
    mean, std = torch.tensor(small.spec.mean), torch.tensor(small.spec.std)
    assert torch.allclose(normal.permute(0, 2, 3, 1) * std + mean, pixels.permute(0, 2, 3, 1) / 255, atol=1e-6)
    assert normal.dtype == torch.float32
    assert normal.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, kept)


def test_equal_weights_are_an_equal_file(tmp_path: Path) -> None:
    classifier = _small()
    save_classifier(classifier, tmp_path / "a")
    classifier.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_classifier(classifier, tmp_path / "b" / "deeper")
    save_classifier(load_classifier(tmp_path / "a"), tmp_path / "c")
    first = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    assert set(first) == {"model.safetensors", "config.json", "preprocessor_config.json", "labels.txt"}
    for other in (tmp_path / "b" / "deeper", tmp_path / "c"):
        assert {file.name: file.read_bytes() for file in other.iterdir()} == first


@pytest.mark.parametrize("head", [{"hidden": 16, "dropout": 0.5}, {"dropout": 0.3}])
def test_heads_come_back(head: dict[str, float | int], tmp_path: Path) -> None:
    classifier = _small(**head)
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    classifier.network.eval()
    with torch.inference_mode():
        assert torch.equal(loaded.logits(pixels), classifier.logits(pixels))
    assert (loaded.head_hidden, loaded.dropout) == (head.get("hidden"), head["dropout"])


def test_labels_of_any_kind_come_back(small: ClassifierNetwork, tmp_path: Path) -> None:
    save_classifier(small, tmp_path)
    assert load_classifier(tmp_path).labels == tuple(LABELS)
    lines = (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(LABELS)
    assert [json.loads(line) if line.startswith('"') else line for line in lines] == LABELS


def test_loading_leaves_the_random_generator_alone(small: ClassifierNetwork, tmp_path: Path) -> None:
    save_classifier(small, tmp_path)
    before = torch.get_rng_state()
    load_classifier(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_folder_leads_to_its_model(small: ClassifierNetwork, tmp_path: Path) -> None:
    save_classifier(small, tmp_path / "model")
    assert load_classifier(tmp_path).architecture == "resnet10t"


@pytest.mark.parametrize("image_size", [224, 160, 98])
def test_timm_loads_the_folder_as_it_is(image_size: int, tmp_path: Path) -> None:
    classifier = build_classifier(create_backbone("lite0", image_size=image_size), ["a", "b", "c"], dropout=0.2)
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pixels = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(theirs(loaded.normalize(pixels)), loaded.logits(pixels))
    data = timm.data.resolve_data_config({}, model=theirs)
    assert data["input_size"] == [3, image_size, image_size]
    assert int(image_size / data["crop_pct"]) == classifier.spec.resize
    assert theirs.pretrained_cfg["label_names"] == ["a", "b", "c"]


def test_preprocessing_is_written_for_others_too(tmp_path: Path) -> None:
    classifier = build_classifier(create_backbone("simple-cnn", image_size=32), ["a", "b"])
    save_classifier(classifier, tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert InputSpec.from_dict(written["input_spec"]) == classifier.spec
    assert written["size"] == written["crop_size"] == {"height": 32, "width": 32}
    assert (written["image_mean"], written["resample"]) == ([0.5, 0.5, 0.5], 2)
    loaded = load_classifier(tmp_path)
    assert loaded.spec == classifier.spec
    assert loaded.network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def _flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _edit(file: Path, old: str, new: str) -> None:
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: _flip_a_byte(m / "model.safetensors"), "not the file that was saved"),
        (lambda m: (m / "model.safetensors").write_bytes(b"short"), "not the file that was saved"),
        (lambda m: (m / "model.safetensors").unlink(), r"model\.safetensors cannot be read"),
        (lambda m: (m / "config.json").unlink(), "holds no trained model"),
        (lambda m: (m / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda m: (m / "config.json").write_text("[]"), "expected a JSON object"),
        (lambda m: (m / "config.json").write_text("{}"), "not written by Headstart"),
        (lambda m: _edit(m / "config.json", '"format": 1', '"format": 2'), "update Headstart"),
        (lambda m: _edit(m / "config.json", '"ants, red",', ""), "another shape"),
        (lambda m: _edit(m / "config.json", '"resnet10t",', '"resnet18",'), "does not fit the network"),
        (lambda m: _edit(m / "config.json", '"resnet10t",', '"resnet1",'), "cannot build resnet1"),
        (lambda m: _edit(m / "config.json", '"dropout"', '"drop"'), "lacks dropout"),
        (lambda m: (m / "preprocessor_config.json").unlink(), "is missing"),
        (lambda m: _edit(m / "preprocessor_config.json", "input_spec", "spec"), "no usable 'input_spec'"),
    ],
)
def test_a_folder_that_was_damaged_is_refused(damage, message, small: ClassifierNetwork, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_classifier(small, tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load_classifier(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no trained model"):
        load_classifier(tmp_path / "nothing")
