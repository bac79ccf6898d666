"""Full precision for what is computed in 32 bits, whatever the process has allowed PyTorch to round."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

# Where PyTorch may round the inputs of 32-bit operations to 10 bits (TF32) or fewer: cuDNN's and oneDNN's convolutions,
# cuBLAS's and oneDNN's matrix products.
_backends: Any = torch.backends  # whose types do not tell of all that it holds
_OPERATIONS = (
    _backends.cudnn.conv,
    _backends.cuda.matmul,
    _backends.mkldnn.conv,
    _backends.mkldnn.matmul,
)

_lock = threading.Lock()
_num_inside = 0
_before: "_Settings | None" = None


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Compute in full precision within the block; then the process's own settings hold again.

    The settings are those of the whole process: where several threads are inside, the last to leave gives them back.
    """
    global _num_inside, _before
    with _lock:
        if not _num_inside:
            _before = _Settings()
            _Settings.make_exact()
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if not _num_inside and _before is not None:
                _before.restore()


class _Settings:
    """PyTorch's two ways to set the same thing.

    `allow_tf32` and `set_float32_matmul_precision` are older than `fp32_precision`. Where only the newer has been used,
    the older raises when it is read; so the older is set together with the newer.
    """

    def __init__(self) -> None:
        self._precisions = [operation.fp32_precision for operation in _OPERATIONS]
        self._convolution: bool | None = None
        self._matmul: str | None = None
        with suppress(RuntimeError):
            self._convolution = torch.backends.cudnn.allow_tf32
        with suppress(RuntimeError):
            self._matmul = torch.get_float32_matmul_precision()

    @staticmethod
    def make_exact() -> None:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        for operation in _OPERATIONS:
            operation.fp32_precision = "ieee"

    def restore(self) -> None:
        if self._convolution is not None:
            torch.backends.cudnn.allow_tf32 = self._convolution
        if self._matmul is not None:
            torch.set_float32_matmul_precision(self._matmul)
        for operation, precision in zip(_OPERATIONS, self._precisions, strict=True):
            operation.fp32_precision = precision
