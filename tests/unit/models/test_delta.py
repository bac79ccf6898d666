import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from headstart.errors import ModelError
from headstart.models.adapters import insert_adapters, insert_lora, is_part, merged_state, norm_and_bias_names
from headstart.models.backbones import Backbone, create_backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.delta import digest, load_delta, read_factors, read_info, save_delta
from headstart.models.saved import load_classifier, save_classifier

NAME = "timm/resnet10t"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that pass for pretrained ones."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "source.safetensors"
    safetensors.torch.save_file(create_backbone(NAME, weights="none").network.state_dict(), path)
    return path


def base_of(weights: Path | str) -> Backbone:
    return create_backbone(NAME, weights=str(weights), image_size=64)


def fine_tuned(weights: Path, how: str) -> ClassifierNetwork:
    """A classifier in which what a strategy trains has other numbers; `norm` has other BatchNorm statistics, too."""
    torch.manual_seed(4)
    classifier = build_classifier(base_of(weights), ["a", "b", "c"])
    network, body = classifier.network, classifier.stages[:-1]
    names = {"norm": norm_and_bias_names(network), "partial": ["layer4.0.conv2.weight"]}.get(how, [])
    if how == "lora":
        insert_lora(network, body, rank=2, alpha=4.0)
    if how == "adapter":
        insert_adapters(network, body, width=4, size=(64, 64))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in names or is_part(name):
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    if how == "norm":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.num_batches_tracked += 5
    return classifier


@pytest.mark.parametrize(
    ("how", "share"), [("head", 0.001), ("norm", 0.01), ("lora", 0.02), ("adapter", 0.01), ("partial", 0.5)]
)
def test_a_delta_is_small_and_gives_back_the_same_bits(how: str, share: float, weights: Path, tmp_path: Path) -> None:
    classifier = fine_tuned(weights, how)
    save_classifier(classifier, tmp_path / "model")
    save_delta(classifier, base_of(weights), tmp_path / "a.safetensors")
    loaded = load_delta(tmp_path / "a.safetensors", base_of(weights))
    assert digest(loaded.network.state_dict().items()) == digest(merged_state(classifier.network).items())
    assert (loaded.labels, loaded.spec, loaded.stages) == (classifier.labels, classifier.spec, classifier.stages)
    save_classifier(loaded, tmp_path / "rebuilt")
    for file in ("model.safetensors", "config.json", "preprocessor_config.json", "labels.txt"):
        assert (tmp_path / "rebuilt" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()

    whole = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert (tmp_path / "a.safetensors").stat().st_size < share * whole + 12_000  # and its header

    # The saved model, whose low-rank changes are merged, gives the same file.
    saved, factors = load_classifier(tmp_path / "model"), read_factors(tmp_path / "model")
    assert (factors is not None) == (how == "lora")
    save_delta(saved, base_of(weights), tmp_path / "b.safetensors", factors=factors)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_it_holds_only_what_changed(weights: Path, tmp_path: Path) -> None:
    held = {}
    for how in ("head", "lora", "adapter"):
        save_delta(fine_tuned(weights, how), base_of(weights), tmp_path / how)
        with safe_open(tmp_path / how, framework="pt") as file:
            held[how] = set(file.keys())
    head = {"fc.weight", "fc.bias"}
    assert held["head"] == head
    assert all(name in head or name.endswith((".lora_a", ".lora_b")) for name in held["lora"])
    assert all(name in head or ".adapter." in name for name in held["adapter"])


def test_a_weight_that_low_rank_changes_do_not_explain_is_held_whole(weights: Path, tmp_path: Path) -> None:
    classifier = fine_tuned(weights, "lora")
    save_classifier(classifier, tmp_path / "model")
    saved, factors = load_classifier(tmp_path / "model"), read_factors(tmp_path / "model")
    with torch.no_grad():
        saved.network.layer1[0].conv1.weight[0, 0, 0, 0] += 1
    save_delta(saved, base_of(weights), tmp_path / "delta", factors=factors)
    loaded = load_delta(tmp_path / "delta", base_of(weights))
    assert digest(loaded.network.state_dict().items()) == digest(saved.network.state_dict().items())


def test_another_base_is_refused(weights: Path, tmp_path: Path) -> None:
    save_delta(fine_tuned(weights, "lora"), base_of(weights), tmp_path / "delta")
    other = base_of(weights)
    with torch.no_grad():
        other.network.conv1[0].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(
        ModelError, match=r"belongs on timm/resnet10t with weights \w{12}.*file source\.safetensors.*Got"
    ):
        load_delta(tmp_path / "delta", other)
    head_only = base_of(weights)  # the source's head takes no part
    nn.init.zeros_(head_only.network.fc.weight)
    load_delta(tmp_path / "delta", head_only)
    with pytest.raises(ModelError, match=r"simple-cnn is not what timm/resnet10t started from"):
        save_delta(fine_tuned(weights, "head"), create_backbone("simple-cnn", weights="none"), tmp_path / "b")


def test_a_file_that_is_no_delta_or_damaged_is_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    save_delta(fine_tuned(weights, "lora"), base_of(weights), path)
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 0x40]) + content[-2:])
    with pytest.raises(ModelError, match="damaged: on its base it gives another model"):
        load_delta(path, base_of(weights))
    path.write_bytes(content[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_delta(path, base_of(weights))
    with pytest.raises(ModelError, match="is no delta; give a file written by: headstart delta RUN"):
        read_info(weights)
    with pytest.raises(ModelError, match="cannot be read"):
        read_info(tmp_path / "nothing")
    for about, words in (
        ({"format": 9}, "this version reads up to 1"),
        ({"format": 1}, "its description lacks 'config'"),
        ([1], "its description cannot be read"),
    ):
        safetensors.torch.save_file({}, path, metadata={"headstart_delta": json.dumps(about)})
        with pytest.raises(ModelError, match=words):
            read_info(path)
