"""Checkpoints: safetensors with a JSON state in the header, written whole or not at all. No pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from headstart.errors import RunError
from headstart.files import make_folder, whole_file


class Checkpoints:
    """The files `last`, `best-N` (of phase N) and `rest-row` (see `training.rest_row`) in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write one file and rename it into place, so that a kill at any moment leaves the old or the new one.

        Raises:
            RunError: The disk is full or the folder cannot be written.
        """
        target = self.folder / f"{name}.safetensors"
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        try:
            make_folder(self.folder)
            with whole_file(target) as temporary:
                save_file(plain, temporary, metadata={"state": json.dumps(state)})
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot write the checkpoint {target}: {error}; free some space, then --resume") from error

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read one file, or return None where there is none.

        Raises:
            RunError: The file is damaged.
        """
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if "state" not in metadata:
                    raise ValueError("it does not say where training stood")
                state = json.loads(metadata["state"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                return tensors, state
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(f"the checkpoint {path} is damaged ({error}); delete it and --resume starts over") from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prepend `prefix` and a slash to every name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors that `with_prefix` named so, under their plain names."""
    start = f"{prefix}/"
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(start):
            found[name.removeprefix(start)] = tensor
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Name every tensor of an optimizer's state `parameter:key`."""
    found = {}
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                found[f"{names[parameter]}:{key}"] = value
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put an optimizer's state back, in the parameters' own memory format (so that sums add up in the same order)."""
    for full_name, saved in tensors.items():
        name, _, key = full_name.rpartition(":")
        parameter = parameters[name]
        if saved.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=saved.dtype).copy_(saved)
        else:
            value = saved
        optimizer.state[parameter][key] = value.to(parameter.device)
