"""A small file of only what training changed, which is put onto the pretrained network that it started from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headstart.errors import ModelError
from headstart.files import write_atomic
from headstart.model_folder import check_config
from headstart.models.adapters import lora_factors, merge, merged_state
from headstart.models.backbones import Backbone
from headstart.models.classifier import ClassifierNetwork
from headstart.models.saved import LORA_FILE, model_config, rebuild_classifier
from headstart.types import InputSpec

Factors = tuple[Mapping[str, Tensor], float]

_FORMAT = 1
_KEY = "headstart_delta"  # one key, as safetensors writes several in no certain order


@dataclass(frozen=True, eq=False)
class DeltaInfo:
    """Holds what a delta file says about itself, and what is in it.

    Attributes:
        config: `config.json` of the model.
        spec: How pictures become the model's input.
        base_sha256: `digest` of the base's tensors, its head left out.
        model_sha256: `digest` of the model's tensors.
        scale: What low-rank changes are multiplied by.
        tensors: What training changed, by name.
    """

    config: dict[str, Any]
    spec: InputSpec
    base_sha256: str
    model_sha256: str
    scale: float
    tensors: dict[str, Tensor]

    @property
    def backbone(self) -> str:
        """Name of the backbone that it belongs on."""
        return str(self.config["headstart"]["backbone"])


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, types, shapes and bits of tensors; equal only where all of them are bit-identical."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=itemgetter(0)):
        plain = tensor.detach().cpu().contiguous()
        total.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        total.update(plain.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_delta(classifier: ClassifierNetwork, base: Backbone, path: Path, *, factors: Factors | None = None) -> None:
    """Write what a classifier has that its base has not: new tensors, changed ones, and low-rank changes as such.

    Args:
        classifier: Trained classifier.
        base: What it started from, with the weights of then; its head does not matter.
        path: A .safetensors file.
        factors: Low-rank changes, from `read_factors`, where they are merged in `classifier` already.

    Raises:
        ModelError: The base is another network.
        RunError: The file cannot be written.
    """
    state = merged_state(classifier.network)
    origin = _below_head(base)
    missing = []
    for name, tensor in origin.items():
        if name not in state or state[name].shape != tensor.shape:
            missing.append(name)
    if missing:
        raise ModelError(
            f"{base.name} is not what {classifier.backbone} started from: {len(missing)} of its tensors are not in the "
            f"model (first: {missing[0]}); give the backbone of the run"
        )
    low_rank, scale = factors or lora_factors(classifier.network)
    about = {
        "format": _FORMAT,
        "config": model_config(classifier, ""),
        "input_spec": classifier.spec.to_dict(),
        "base_sha256": digest(origin.items()),
        "model_sha256": digest(state.items()),
        "scale": scale,
    }
    tensors = _changes(state, origin, low_rank, scale)
    write_atomic(path, safetensors.torch.save(tensors, metadata={_KEY: json.dumps(about)}))


def _changes(
    state: Mapping[str, Tensor], origin: Mapping[str, Tensor], low_rank: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """Return what `state` has that `origin` has not: A and B where they explain a weight to the bit, else the whole."""
    changes: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in origin and _have_equal_bits(tensor, origin[name]):
            continue
        key_a = f"{name}.lora_a"
        key_b = f"{name}.lora_b"
        if name in origin and key_a in low_rank:
            lora_a = low_rank[key_a].contiguous()
            lora_b = low_rank[key_b].contiguous()
            # Whatever else changed the weight, the whole of it is right.
            if _have_equal_bits(tensor, merge(origin[name], lora_a, lora_b, scale)):
                changes[key_a] = lora_a
                changes[key_b] = lora_b
                continue
        changes[name] = tensor.detach().cpu().contiguous()
    return changes


def load_delta(path: Path, base: Backbone) -> ClassifierNetwork:
    """Put a delta onto its base: the classifier that was saved, bit for bit, in eval mode.

    Args:
        path: File that `save_delta` wrote.
        base: Left as it is.

    Raises:
        ModelError: The file is no delta or damaged, or belongs on other weights.
    """
    info = read_info(path)
    origin = _below_head(base)
    got = digest(origin.items())
    if got != info.base_sha256:
        raise ModelError(
            f"{path} belongs on {info.backbone} with weights {info.base_sha256[:12]}... (it was trained from: "
            f"{info.config['headstart']['weights']}). Got {base.name} with weights {got[:12]}... ({base.weights}). "
            "Give the weights that it was trained from"
        )
    state = dict(origin)
    try:
        for name, tensor in info.tensors.items():
            weight, _, factor = name.rpartition(".")
            if factor == "lora_a":
                state[weight] = merge(origin[weight], tensor, info.tensors[f"{weight}.lora_b"], info.scale)
            elif factor != "lora_b":
                state[name] = tensor
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged: a low-rank change does not fit ({error}); copy it again") from error
    if digest(state.items()) != info.model_sha256:
        raise ModelError(f"{path} is damaged: on its base it gives another model than was saved; copy it again")
    return rebuild_classifier(info.config, info.spec, state, str(path))


def read_info(path: Path) -> DeltaInfo:
    """Read a delta.

    Raises:
        ModelError: The file is no delta, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(_KEY)
            if about is None:
                raise ModelError(f"{path} is no delta; give a file written by: headstart delta RUN")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); give a file written by: headstart delta RUN") from error
    try:
        values = json.loads(about)
        if values["format"] > _FORMAT:
            raise ModelError(
                f"{path} has format {values['format']}; this version reads up to {_FORMAT}: update Headstart"
            )
        config = values["config"]
        spec = InputSpec.from_dict(values["input_spec"])
        check_config(config, str(path))
        return DeltaInfo(
            config=config,
            spec=spec,
            base_sha256=values["base_sha256"],
            model_sha256=values["model_sha256"],
            scale=float(values["scale"]),
            tensors=tensors,
        )
    except KeyError as error:
        raise ModelError(f"{path} is damaged: its description lacks {error}; copy it again") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: its description cannot be read ({error}); copy it again") from error


def read_factors(folder: Path) -> Factors | None:
    """Read the low-rank changes that a model folder keeps beside its merged weights, None where it has none.

    Raises:
        ModelError: The file is damaged.
    """
    path = folder / LORA_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, float(file.metadata()["scale"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}); copy the model folder again, or leave out that file") from error


def _below_head(base: Backbone) -> dict[str, Tensor]:
    """Return the tensors of a backbone without its head, on the CPU."""
    head = base.stages[-1]
    tensors = {}
    for name, tensor in base.network.state_dict().items():
        if not head.owns(name):
            tensors[name] = tensor.detach().cpu()
    return tensors


def _have_equal_bits(left: Tensor, right: Tensor) -> bool:
    return digest([("", left)]) == digest([("", right)])
