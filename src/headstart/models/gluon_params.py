"""Gluon's `.params` files, which are MXNet's named lists of NDArrays, read and written without MXNet.

As MXNet 1.9.1 writes them (its `src/ndarray/ndarray.cc`), everything little-endian:

    file    uint64 0x112, uint64 0; uint64 count, the arrays; uint64 count, the names: uint64 length, UTF-8 bytes
    array   uint32 magic, int32 storage (0: dense), the shape, int32 kind and int32 number of the device, int32 type,
            the values
    shape   int32 dimensions, int64 each

The magic is 0xf993fac9 (V2), or 0xf993faca (V3) where `npx.set_np()` was on, and then a shape of no dimensions is a
scalar. V1 (0xf993fac8) has no storage; before that there was no magic: the dimensions come first, and are 32 bits wide.
What is written here is V2: with `npx.set_np()` off, MXNet refuses V3, while `load_parameters` takes V2 either way.
"""

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from headstart.errors import ModelError
from headstart.files import write_atomic

_FILE_MAGIC = 0x112
_V1 = 0xF993FAC8
_V2 = 0xF993FAC9
_V3 = 0xF993FACA
_STORAGES = {1: "row_sparse", 2: "csr"}
_MOST_DIMENSIONS = 32
_CPU = (1, 0)
# MXNet's number of a type is its place here.
_TYPES = (
    torch.float32, torch.float64, torch.float16, torch.uint8, torch.int32, torch.int8, torch.int64, torch.bool,
    torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.bfloat16,
)  # fmt: skip

_BATCH_NORM_KEYS = {"gamma": "weight", "beta": "bias"}
# The norm without scale and shift: gamma is 1 whatever the file says, and beta is 0.
_INPUT_NORM = "features.0"
# `save_parameters` writes `features.5.0.bn1.gamma`. What MXNet wrote before 1.3, as it did the published networks, and
# what `export` writes, is named by the layer's kind and number within its scope: `stage1_batchnorm0_gamma`.
_FLAT_NAME = re.compile(r"(?:stage([1-4])_)?(batchnorm|conv|dense)(\d+)_([a-z_]+)$")
_FLAT_LAYERS = {
    "batchnorm0": _INPUT_NORM,
    "conv0": "features.1",
    "batchnorm1": "features.2",
    "batchnorm2": "features.9",
    "dense0": "output",
}


def read_params(file: Path) -> dict[str, Tensor]:
    """Read the arrays of a file, each in its own type, by the names that the file gives them.

    Raises:
        ModelError: The file is missing, damaged, of another kind, or holds what is not a dense array with a name.
    """
    try:
        reader = _Reader(file, file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror}); give a .params file of Gluon") from error
    if reader.data[:8] != struct.pack("<Q", _FILE_MAGIC):
        raise ModelError(
            f"{file} is no .params file of Gluon: it begins with {reader.data[:8].hex() or 'nothing'}; expected "
            f"{struct.pack('<Q', _FILE_MAGIC).hex()}: write one with net.save_parameters"
        )
    _, _, num_arrays = reader.numbers("QQQ", "the header")
    tensors = []
    for number in range(num_arrays):
        tensors.append(_read_array(reader, f"array {number + 1} of {num_arrays}"))
    (num_names,) = reader.numbers("Q", "the names")
    names = []
    for _ in range(num_names):
        names.append(_read_name(reader))
    num_different = len(set(names))
    if num_names != num_arrays or num_different != num_arrays:
        raise ModelError(
            f"{file} holds {num_arrays} arrays and {num_different} different names; expected a name for each: write it "
            "with net.save_parameters"
        )
    if reader.at != len(reader.data):
        raise ModelError(f"{file} is damaged: {len(reader.data) - reader.at} bytes follow the names; copy it again")
    return dict(zip(names, tensors, strict=True))


def write_params(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as dense arrays that MXNet reads with `npx.set_np()` on or off.

    Raises:
        ModelError: A tensor is a scalar or empty, which means "no array" where `npx.set_np()` is off, or of a type
            that MXNet lacks.
        RunError: The file cannot be written.
    """
    parts = [struct.pack("<QQQ", _FILE_MAGIC, 0, len(tensors))]
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES or not tensor.ndim or not tensor.numel():
            raise ModelError(
                f"{file}: a .params file cannot hold {name!r}, a {tensor.dtype} of shape {tuple(tensor.shape)}; "
                "expected at least one value in at least one dimension, of a type that MXNet has"
            )
        flat = tensor.detach().cpu().contiguous().flatten()
        layout = f"<Iii{tensor.ndim}qiii"
        parts.append(struct.pack(layout, _V2, 0, tensor.ndim, *tensor.shape, *_CPU, _TYPES.index(tensor.dtype)))
        parts.append(flat.view(torch.uint8).numpy().tobytes())
    parts.append(struct.pack("<Q", len(tensors)))
    for name in tensors:
        encoded = name.encode()
        parts.append(struct.pack("<Q", len(encoded)))
        parts.append(encoded)
    write_atomic(file, b"".join(parts))


def to_state_dict(params: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Rename the parameters of Gluon's `ResNetV2` as those of `headstart.models.gluon`.

    Args:
        params: Arrays by Gluon's names, of either kind.
        what: What they are, for the message.

    Raises:
        ModelError: The norm that has no shift was given one.
    """
    state = {}
    for name, tensor in params.items():
        layer, _, key = _structured_name(name).rpartition(".")
        if layer == _INPUT_NORM and key in _BATCH_NORM_KEYS:
            if key == "beta" and tensor.any():
                raise ModelError(f"{what}: {name} is not 0; the network has no such shift: set it to 0 before saving")
            continue
        state[f"{layer}.{_BATCH_NORM_KEYS.get(key, key)}".removeprefix(".")] = tensor
    return state


def from_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a network of `headstart.models.gluon` as Gluon's `save_parameters` would."""
    gluon_keys = {torch_key: key for key, torch_key in _BATCH_NORM_KEYS.items()}
    params: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, key = name.rpartition(".")
        if key == "num_batches_tracked":
            continue
        is_norm = f"{layer}.running_mean" in state
        has_scale = f"{layer}.weight" in state
        if key == "running_mean" and not has_scale:
            params[f"{layer}.gamma"] = torch.ones_like(tensor)
            params[f"{layer}.beta"] = torch.zeros_like(tensor)
        gluon_key = gluon_keys.get(key, key) if is_norm else key
        params[f"{layer}.{gluon_key}"] = tensor
    return params


class _Reader:
    """Takes bytes from a file's content in turn; `at` is the place of the next one."""

    def __init__(self, file: Path, data: bytes) -> None:
        self.file = file
        self.data = data
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        if count > len(self.data) - self.at:
            raise ModelError(
                f"{self.file} is cut off: it ends after {len(self.data)} bytes, within {what}; copy it again"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        layout = f"<{layout}"
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))


def _read_name(reader: _Reader) -> str:
    (length,) = reader.numbers("Q", "the names")
    try:
        return reader.take(length, "the names").decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{reader.file} is damaged: a name is not UTF-8 text; copy it again") from error


def _read_array(reader: _Reader, what: str) -> Tensor:
    """Read one array; `what` names it in messages."""
    shape = _read_shape(reader, what)
    _, _, number = reader.numbers("iii", what)
    if not 0 <= number < len(_TYPES):
        raise ModelError(f"{reader.file}: {what} has type {number}, which is not known here; save it as float32")
    dtype = _TYPES[number]
    values = reader.take(math.prod(shape) * dtype.itemsize, what)
    if not values:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(values), dtype=dtype).reshape(shape)


def _read_shape(reader: _Reader, what: str) -> tuple[int, ...]:
    """Read what comes before the device; refuse what is not a dense array with values."""
    (magic,) = reader.numbers("I", what)
    if magic in (_V2, _V3):
        (storage,) = reader.numbers("i", what)
        if storage != 0:
            kind = _STORAGES.get(storage, f"in storage {storage}")
            raise ModelError(f"{reader.file}: {what} is {kind}; expected dense: save it with .tostype('default')")
    is_modern = magic in (_V1, _V2, _V3)
    num_dimensions = reader.numbers("i", what)[0] if is_modern else magic
    if num_dimensions > _MOST_DIMENSIONS:
        raise ModelError(
            f"{reader.file} is damaged, or newer than MXNet 1.9: {what} begins with {magic:#x}; copy it again"
        )
    kind_of_size = "q" if is_modern else "I"
    shape = reader.numbers(f"{max(num_dimensions, 0)}{kind_of_size}", what)
    fewest = 0 if magic == _V3 else 1
    if num_dimensions < fewest or any(size < 0 for size in shape):
        raise ModelError(f"{reader.file}: {what} has no values; initialise the network before saving it")
    return shape


def _structured_name(name: str) -> str:
    """Write a flat name as `save_parameters` does; leave another as it is."""
    match = None if "." in name else _FLAT_NAME.search(name)
    if match is None:
        return name
    stage, kind, number, key = match.groups()
    if stage is None:
        return f"{_FLAT_LAYERS.get(kind + number, kind + number)}.{key}"
    index = int(number)
    if kind == "conv" and stage != "1" and index >= 2:
        # From the second stage on, the first block's third convolution is the one beside it.
        if index == 2:
            return f"features.{4 + int(stage)}.0.downsample.{key}"
        index -= 1
    layer = "bn" if kind == "batchnorm" else kind
    return f"features.{4 + int(stage)}.{index // 2}.{layer}{index % 2 + 1}.{key}"
