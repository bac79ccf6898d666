"""Weight files: read without running code from them, and fitted to a network."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from headstart.errors import ModelError, did_you_mean
from headstart.models.gluon_params import read_params, to_state_dict
from headstart.runs import WEIGHTS, locate

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_WRAPPING_PREFIXES = ("module.", "_orig_mod.", "model.")
# Extra classifiers of GoogLeNet and Inception that only their first training used; they are not built here.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# Names in files that torchvision published before it renamed the modules.
_LEGACY_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file, on the CPU.

    Wrappers (`state_dict`, `model`) and the prefixes that wrapping a network leaves on every name are taken off.

    Args:
        path: A .safetensors, .pth or .pt file, Gluon's .params of a `resnet18_v2`, a model folder or a run folder.

    Raises:
        ModelError: It is missing, damaged, of an unknown kind, or holds Python objects, which are never loaded.
    """
    file = weight_file(path)
    if file.suffix == ".safetensors":
        return _without_wrappers(_read_safetensors(file), file)
    if file.suffix in _TORCH_SUFFIXES:
        return _without_wrappers(_read_torch(file), file)
    if file.suffix == ".params":
        return to_state_dict(read_params(file), str(file))
    raise ModelError(
        f"{file} is no known weight file: got {file.suffix or 'no suffix'!r}; expected .safetensors, .pth or .params"
    )


def load_into(network: nn.Module, state: Mapping[str, Tensor], head_prefixes: tuple[str, ...], what: str) -> None:
    """Copy tensors into a network, every one of them by name.

    Args:
        network: Changed in place.
        state: Tensors by the network's own names; counters of BatchNorm may be missing.
        head_prefixes: Places of the final layer, which keeps its weights where those in `state` do not fit. Empty: all
            must fit.
        what: What the tensors are, for the message.

    Raises:
        ModelError: Names or shapes differ; says how many and which first.
    """
    own = network.state_dict()
    given = {}
    for name, tensor in state.items():
        if not name.startswith(_AUXILIARY):
            given[_modern_name(name)] = tensor

    # A head that does not fit is left out of both.
    own_head, own_body = _parted_at_head(own, head_prefixes)
    given_head, given_body = _parted_at_head(given, head_prefixes)
    if not _have_equal_shapes(own_head, given_head):
        own = own_body
        given = given_body
    problems = _differences(own, given)
    if problems:
        raise ModelError(
            f"{what} does not fit the network: {'; '.join(problems)}; give weights saved from the same architecture"
        )
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)


def _parted_at_head(
    tensors: Mapping[str, Tensor], head_prefixes: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of the head, and all others."""
    starts = tuple(f"{prefix}." for prefix in head_prefixes)
    head = {}
    body = {}
    for name, tensor in tensors.items():
        if name.startswith(starts):
            head[name] = tensor
        else:
            body[name] = tensor
    return head, body


def _have_equal_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    """Tell whether two sets of tensors have the same names, and the same shapes under them."""
    return own.keys() == given.keys() and all(own[name].shape == given[name].shape for name in own)


def weight_file(path: Path) -> Path:
    """Find the file that `path` means: itself, or the weights of a model folder or run folder.

    Raises:
        ModelError: There is no such file.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise ModelError(f"no weight file at {path}; give a .safetensors or .pth file, a run folder, or 'none'")
    weights = locate(path).weights
    if weights is None:
        raise ModelError(f"{path} is no run or model folder: it holds no {WEIGHTS}; give a finished run, or a file")
    return weights


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file, device="cpu")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as safetensors ({error}): it is damaged; copy it again") from error
    return tensors


def _read_torch(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"{file} is refused: it is damaged, or holds Python objects, and loading those could run code; save only "
            "tensors: torch.save(network.state_dict(), path)"
        ) from error
    except Exception as error:  # on a file of another kind it fails in many ways, none of which says so
        reason = "it is no PyTorch file, or a damaged one"
        if isinstance(error, OSError):
            reason = str(error.strerror)
        raise ModelError(f"{file} cannot be read as PyTorch weights: {reason}; copy it again") from error


def _without_wrappers(content: object, file: Path) -> dict[str, Tensor]:
    """Return the tensors by their names, without what wrapping them or their network put around.

    Raises:
        ModelError: The content is something else than tensors by name.
    """
    content = _innermost(content)
    tensors: dict[str, Tensor] = {}
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, Tensor):
                tensors[str(name)] = value
    if not isinstance(content, Mapping) or not tensors or len(tensors) < len(content):
        raise ModelError(
            f"{file} holds no state dict: got {type(content).__name__}; expected tensors by name, at the top or under "
            f"one of {', '.join(_WRAPPERS)}"
        )
    return _without_prefixes(tensors)


def _innermost(content: object) -> object:
    """Return what is under `state_dict`, `model` and the like; the content itself where there is no such key."""
    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return _innermost(content[key])
    return content


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrapping a network puts before every name."""
    for prefix in _WRAPPING_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            shorter = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            return _without_prefixes(shorter)
    return tensors


def _modern_name(name: str) -> str:
    """Return the name that torchvision gives a tensor today."""
    for pattern, replacement in _LEGACY_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say what keeps `given` from being copied into `own`."""
    problems = []
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    if missing:
        problems.append(f"{len(missing)} of {len(own)} tensors are missing (first: {', '.join(missing[:3])})")
    unknown = [name for name in given if name not in own]
    if unknown:
        hint = did_you_mean(unknown[0], missing, limit=1).replace(" Did", "; did", 1)
        problems.append(f"{len(unknown)} tensors are not known to it (first: {', '.join(unknown[:3])}{hint})")
    reshaped = [name for name in own if name in given and own[name].shape != given[name].shape]
    if reshaped:
        first = reshaped[0]
        got = tuple(given[first].shape)
        expected = tuple(own[first].shape)
        problems.append(f"{len(reshaped)} tensors have another shape (first: {first} is {got}, expected {expected})")
    return problems
