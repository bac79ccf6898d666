"""Pretrained networks by name, with published, random or one's own weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.model_folder import read_model_json, read_spec, saved_model_folder
from headstart.models.adapters import restore_adapters
from headstart.models.heads import describe_head, head_of, new_head, num_features, replace_head
from headstart.models.libraries import Loaded, Origin
from headstart.models.origins import find_origin, licence_of
from headstart.models.stages import derive_stages, has_known_stages
from headstart.models.weights import load_into, read_state_dict
from headstart.runs import WEIGHTS
from headstart.types import InputSpec, Stage


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network to start from, with its source head still on.

    Attributes:
        name: What the user wrote.
        library: Whose network it is, and so whose parameter names: the library's name.
        architecture: The library's name for it.
        network: Maps normalised images (N, 3, H, W) to logits (N, source classes).
        stages: Its stages, in forward order; the last is the head.
        spec: How pictures become its input.
        weights: Origin of its weights, for people; `none` for random ones.
        licence: Licences of code and weights, for people.
        has_source_head: Whether the head came with the weights; else it is random.
    """

    name: str
    library: str
    architecture: str
    network: nn.Module
    stages: tuple[Stage, ...]
    spec: InputSpec
    weights: str
    licence: str
    has_source_head: bool = False


def create_backbone(name: str, *, weights: str | None = None, image_size: int | None = None) -> Backbone:
    """Build a network and load its weights. Random weights come from torch's global generator.

    Args:
        name: One of `sources.backbone_names`, or a timm name without its prefix where torchvision has no such model.
        weights: None for the published ones, `none` for random ones, else a weight file, run or model folder.
        image_size: Side of the network's input, pixels, where it shall differ from that of the weights.

    Raises:
        ModelError: The name is not known, the weights cannot be fetched or do not fit, or the size does not suit it.
        MissingExtraError: The weights are in a package that is not installed.
    """
    origin = find_origin(name)
    library = origin.library.name

    # A saved model has its own preprocessing; another size is the user's wish.
    saved = None
    spec = origin.spec
    if weights not in (None, "none"):
        saved = saved_model_folder(Path(weights))
    if saved is not None:
        spec = _saved_spec(saved, origin)
    if image_size is not None:
        spec = spec.with_size(image_size)

    loaded = _load_network(origin, spec.size, weights)
    if image_size is not None:
        _refuse_unsuitable_size(loaded.network, name, image_size)
    return Backbone(
        name=name,
        library=library,
        architecture=origin.architecture,
        network=loaded.network,
        stages=derive_stages(loaded.network, library),
        spec=spec,
        weights=loaded.weights,
        licence=licence_of(origin, weights, saved),
        has_source_head=loaded.has_source_head,
    )


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return what `headstart model NAME` shows, in plain JSON types.

    `published_licence` is that of the published weights, whichever weights were loaded.
    """
    counts = {name: parameter.numel() for name, parameter in backbone.network.named_parameters()}
    stages = []
    for stage in backbone.stages:
        owned = sum(count for name, count in counts.items() if stage.owns(name))
        stages.append({"name": stage.name, "parameters": owned})
    is_known = has_known_stages(backbone.network)
    note = "" if is_known else "stages of this family are not known: only whole-network strategies apply"
    return {
        "name": backbone.name,
        "library": backbone.library,
        "architecture": backbone.architecture,
        "weights": backbone.weights,
        "licence": backbone.licence,
        "published_licence": licence_of(find_origin(backbone.name), None, None),
        "head": describe_head(head_of(backbone.network, backbone.stages)),
        "parameters": sum(counts.values()),
        "stages": stages,
        "has_known_stages": is_known,
        "note": note,
        "input": backbone.spec.to_dict(),
    }


def _load_network(origin: Origin, size: tuple[int, int], weights: str | None) -> Loaded:
    """Build a network with published, random or one's own weights, as asked for."""
    publication = origin.library.publication
    if weights is None and publication is not None:
        return publication.load(origin, size)
    if weights in (None, "none"):
        return Loaded(origin.library.build(origin.variant, size), "none", has_source_head=False)
    return _load_file(origin, size, Path(weights))


def _load_file(origin: Origin, size: tuple[int, int], path: Path) -> Loaded:
    """Load a local file. Its final layer is loaded only where it is of the network's kind."""
    text = f"file {path.name}"
    state = read_state_dict(path)
    network = origin.library.build(origin.variant, size)
    stages = derive_stages(network, origin.library.name)
    head = stages[-1].prefixes
    has_head = _resize_head(network, stages, state)
    saved = saved_model_folder(path)
    if saved is not None:
        own = read_model_json(saved / "config.json").get("headstart", {})
        restore_adapters(network, own.get("adapters"), str(saved))
    try:
        load_into(network, state, head, str(path))
    except ModelError:
        converted = origin.library.convert(origin, size, state)
        if converted is None:
            raise
        return Loaded(converted, text)
    return Loaded(network, text, has_head)


def _resize_head(network: nn.Module, stages: tuple[Stage, ...], state: Mapping[str, Tensor]) -> bool:
    """Give a network a final layer of as many outputs as the file's has; False where the file has no such layer."""
    head = head_of(network, stages)
    prefix = stages[-1].prefixes[0]
    weight = state.get(f"{prefix}.weight")
    if not isinstance(head, nn.Linear | nn.Conv2d) or weight is None or weight.shape[1:] != head.weight.shape[1:]:
        return False

    has_size = len(weight) == len(head.weight)
    has_bias = head.bias is not None
    file_has_bias = f"{prefix}.bias" in state
    if not (has_bias and file_has_bias):
        return has_size and has_bias == file_has_bias

    if not has_size:
        with torch.random.fork_rng(devices=[]):  # what a seed gives does not depend on the file's classes
            resized = new_head(num_features(head), len(weight), convolutional=isinstance(head, nn.Conv2d))
            replace_head(network, stages, resized)
    return True


def _saved_spec(folder: Path, origin: Origin) -> InputSpec:
    """Read the preprocessing of a saved model to start from, after checking that it is the same network."""
    config = read_model_json(folder / "config.json")
    own = config.get("headstart")
    architecture = config.get("architecture")
    if not isinstance(own, dict):
        raise ModelError(f"{folder} was not written by Headstart; give its weight file: --weights {folder / WEIGHTS}")
    if (own.get("library"), architecture) != (origin.library.name, origin.architecture):
        raise ModelError(
            f"{folder} holds a {architecture} of {own.get('library')}; the backbone is {origin.architecture} of "
            f"{origin.library.name}: give --backbone {own.get('backbone', 'NAME')}, or other weights"
        )
    return read_spec(folder)


def _refuse_unsuitable_size(network: nn.Module, name: str, image_size: int) -> None:
    """Refuse a size of pictures at which the network cannot compute."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name} cannot take {image_size} px images: {reason}; choose another image size") from error
    finally:
        network.train(was_training)
