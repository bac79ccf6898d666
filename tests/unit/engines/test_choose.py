"""Which engines are tried on a device, and in which order."""

import pytest
import torch

from headstart.engines import conversion
from headstart.engines.choose import Choice, choices
from headstart.engines.torch_engine import TORCH_COMPILED
from headstart.errors import ConfigError

CPU = torch.device("cpu")
HALF, OPENVINO, TORCH = Choice("openvino", "bf16"), Choice("openvino", "32"), Choice("torch", "32")
TORCH_HALF = Choice("torch", "bf16")
CUDA = torch.device("cuda")


@pytest.fixture(params=[True, False], ids=["with bf16", "without bf16"])
def has_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether processor and GPU have bf16 in hardware."""
    monkeypatch.setattr(conversion, "has_bf16", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: request.param)
    return bool(request.param)


def test_choices_are_ordered_and_end_with_pytorch(has_bf16: bool) -> None:
    assert choices(CPU) == ((HALF,) if has_bf16 else ()) + (OPENVINO, TORCH)
    assert choices(CPU, precision="32") == choices(CPU, engine="openvino", precision="32") == (OPENVINO, TORCH)
    assert choices(CPU, engine="torch") == (TORCH,)
    assert choices(CUDA) == ((TORCH_HALF,) if has_bf16 else ()) + (TORCH,)
    assert choices(CUDA, precision="32") == choices(CUDA, engine="torch", precision="32") == (TORCH,)
    assert choices(torch.device("mps")) == (TORCH,)


def test_a_precision_that_is_asked_for_is_tried_or_refused(has_bf16: bool) -> None:
    for device in (CPU, CUDA, torch.device("mps")):
        assert choices(device, engine="torch", precision="bf16") == (TORCH_HALF, TORCH)
    if has_bf16:
        assert choices(CPU, precision="bf16") == (HALF, OPENVINO, TORCH)
        assert choices(CPU, engine="openvino", precision="bf16") == (HALF, OPENVINO, TORCH)
    else:
        assert choices(CPU, precision="bf16") == (TORCH_HALF, OPENVINO, TORCH)
        with pytest.raises(ConfigError, match="engine=openvino has no precision=bf16 on this cpu"):
            choices(CPU, engine="openvino", precision="bf16")


def test_a_gpu_compiles_where_there_is_enough_to_do_or_where_it_is_asked_to(has_bf16: bool) -> None:
    compiled = (Choice("torch-compiled", "bf16"),) if has_bf16 else ()
    compiled += (Choice("torch-compiled", "32"),)
    enough = TORCH_COMPILED.least_images
    assert choices(CUDA, num_images=enough - 1) == choices(CUDA)
    assert choices(CUDA, num_images=enough) == compiled + choices(CUDA)
    assert choices(CUDA, engine="torch", num_images=enough) == choices(CUDA)
    assert choices(CUDA, engine="torch-compiled") == (*compiled, TORCH)
    assert choices(CPU, num_images=enough) == choices(CPU)


@pytest.mark.parametrize(
    ("device", "settings", "message"),
    [
        (
            "cpu",
            {"engine": "openvin"},
            r"engine='openvin' is not one of auto, openvino, torch-compiled, torch.*Did you mean 'openvino'",
        ),
        ("cpu", {"engine": "onnx"}, "engine='onnx' is not one of auto, openvino, torch-compiled, torch"),
        ("cpu", {"precision": "16"}, "precision='16' is not one of auto, 32, bf16"),
        ("cpu", {"precision": "bf1"}, r"precision='bf1' is not one of .*Did you mean 'bf16'"),
        ("cuda", {"engine": "openvino"}, "engine=openvino runs on a CPU, not on cuda; use engine=auto"),
        ("cpu", {"engine": "torch-compiled"}, "engine=torch-compiled runs on a CUDA GPU, not on cpu"),
        ("mps", {"engine": "openvino"}, "engine=openvino runs on a CPU, not on mps"),
    ],
)
def test_unknown_or_impossible_choices_are_refused(device: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choices(torch.device(device), **settings)
