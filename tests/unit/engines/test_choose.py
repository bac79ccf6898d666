"""Which engines are tried on a device, and in which order."""

import pytest
import torch

from headstart.engines.choose import Choice, choices
from headstart.errors import ConfigError
from headstart.machine import has_bf16

CPU = torch.device("cpu")
HALF, OPENVINO, TORCH = Choice("openvino", "bf16"), Choice("openvino", "32"), Choice("torch", "32")


def test_choices_are_ordered_and_end_with_pytorch() -> None:
    fast = (HALF,) if has_bf16() else ()
    assert choices(CPU) == (*fast, OPENVINO, TORCH)
    assert choices(CPU, engine="openvino", precision="32") == (OPENVINO, TORCH)
    assert choices(CPU, precision="bf16") == (*fast, OPENVINO, TORCH)
    assert choices(CPU, engine="torch") == (TORCH,)
    cuda = torch.device("cuda")
    assert choices(cuda) == (Choice("torch", "bf16"), TORCH)
    assert choices(cuda, precision="32") == choices(cuda, engine="torch", precision="32") == (TORCH,)
    assert choices(torch.device("mps")) == (TORCH,)


@pytest.mark.parametrize(
    ("device", "settings", "message"),
    [
        (
            "cpu",
            {"engine": "openvin"},
            r"engine='openvin' is not one of auto, openvino, torch.*Did you mean 'openvino'",
        ),
        ("cpu", {"engine": "onnx"}, "engine='onnx' is not one of auto, openvino, torch"),
        ("cpu", {"precision": "16"}, "precision='16' is not one of auto, 32, bf16"),
        ("cpu", {"precision": "bf1"}, r"precision='bf1' is not one of .*Did you mean 'bf16'"),
        ("cuda", {"engine": "openvino"}, "engine=openvino runs on a CPU, not on cuda; use engine=torch or device=cpu"),
        ("mps", {"engine": "openvino"}, "engine=openvino runs on a CPU, not on mps"),
    ],
)
def test_unknown_or_impossible_choices_are_refused(device: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choices(torch.device(device), **settings)
