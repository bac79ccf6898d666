"""What is computed in 32 bits is not rounded to fewer, and the process keeps its own settings."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import nn

from headstart.engines.exact import exact_arithmetic
from headstart.engines.torch_engine import TorchEngine
from headstart.types import InputSpec

OPERATIONS = (
    torch.backends.cudnn.conv,
    torch.backends.cuda.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.matmul,
)


def settings() -> list[object]:
    found: list[object] = [operation.fp32_precision for operation in OPERATIONS]
    for read in (lambda: torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:  # the older way cannot be read where the newer one has been used
            found.append("unreadable")
    return found


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    precisions = [operation.fp32_precision for operation in OPERATIONS]
    yield
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's defaults
    torch.set_float32_matmul_precision("highest")
    for operation, precision in zip(OPERATIONS, precisions, strict=True):
        operation.fp32_precision = precision


def allow_in_all() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


SETTINGS: dict[str, Callable[[], None]] = {
    "defaults": lambda: None,
    "matrix products in TF32": lambda: torch.set_float32_matmul_precision("high"),
    "matrix products in bf16": lambda: torch.set_float32_matmul_precision("medium"),
    "no TF32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "the newer way": allow_in_all,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_is_rounded_inside_and_all_is_as_before_afterwards(name: str) -> None:
    SETTINGS[name]()
    before = settings()
    with suppress(KeyError), exact_arithmetic():
        assert settings() == ["ieee"] * 4 + [False, "highest"]
        with exact_arithmetic():
            pass
        assert settings() == ["ieee"] * 4 + [False, "highest"]
        raise KeyError("a block that fails")
    assert settings() == before


def test_the_last_thread_gives_the_settings_back() -> None:
    torch.set_float32_matmul_precision("high")
    before = settings()
    all_inside = Barrier(4, timeout=30)

    def enter(_: int) -> list[object]:
        with exact_arithmetic():
            all_inside.wait()
            return settings()

    with ThreadPoolExecutor(4) as threads:
        assert set(map(tuple, threads.map(enter, range(4)))) == {("ieee",) * 4 + (False, "highest")}
    assert settings() == before


class _Reading(nn.Module):
    """Says what was set while it ran."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = settings()
        return images.mean((2, 3))


def test_an_engine_computes_in_full_precision() -> None:
    torch.set_float32_matmul_precision("medium")
    module = _Reading().eval()
    engine = TorchEngine(module, InputSpec((8, 8), 8), "32", torch.device("cpu"), fold=False)
    list(engine.run([np.zeros((2, 8, 8, 3), np.uint8)]))
    assert module.seen == ["ieee"] * 4 + [False, "highest"]
    assert torch.get_float32_matmul_precision() == "medium"
