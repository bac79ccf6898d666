"""A classifier as a folder: written, and loaded back from it."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from headstart.files import dump_json, make_parent, write_atomic
from headstart.model_folder import FORMAT, OWN_KEYS, PREPROCESSING, read_model_folder
from headstart.models.adapters import adapter_layout, lora_factors, merged_state, restore_adapters
from headstart.models.classifier import ClassifierNetwork, put_head
from headstart.models.heads import head_of, num_features
from headstart.models.libraries import library_named
from headstart.models.stages import derive_stages
from headstart.models.weights import load_into, read_state_dict
from headstart.runs import MODEL_CONFIG, WEIGHTS
from headstart.types import InputSpec

LORA_FILE = "lora.safetensors"
_PILLOW_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def save_classifier(classifier: ClassifierNetwork, folder: Path) -> None:
    """Write a model folder: weights, `config.json`, `preprocessor_config.json` and `labels.txt`.

    Equal weights are an equal `model.safetensors`: nothing in it depends on time, path or memory format. `config.json`
    is timm's layout, so timm loads the folder of a timm network with a linear head as it is. Low-rank changes are
    merged into the weights; `lora.safetensors` keeps them for `models.delta`. Adapters cannot be merged: `config.json`
    says where they are, and only Headstart loads such a folder.

    Raises:
        RunError: The folder cannot be written.
    """
    merged = merged_state(classifier.network)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in merged.items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    config = model_config(classifier, hashlib.sha256(weights).hexdigest())
    make_parent(folder / WEIGHTS)
    write_atomic(folder / WEIGHTS, weights)
    factors, scale = lora_factors(classifier.network)
    if factors:
        write_atomic(folder / LORA_FILE, safetensors.torch.save(factors, metadata={"scale": repr(scale)}))
    write_atomic(folder / PREPROCESSING, dump_json(_preprocessor_config(classifier.spec)))
    lines = [f"{_label_line(label)}\n" for label in classifier.labels]
    write_atomic(folder / "labels.txt", "".join(lines))
    write_atomic(folder / MODEL_CONFIG, dump_json(config))


def load_classifier(folder: Path) -> ClassifierNetwork:
    """Load a model folder, or a run folder's model, in eval mode. Needs no network and leaves torch's generator alone.

    Raises:
        ModelError: It is no such folder; or its files are missing, damaged, changed, or do not fit together.
    """
    place = read_model_folder(folder)
    return rebuild_classifier(place.config, place.spec, read_state_dict(place.weights), str(place.weights))


def rebuild_classifier(
    config: dict[str, Any], spec: InputSpec, state: Mapping[str, Tensor], what: str
) -> ClassifierNetwork:
    """Build a classifier from what a model folder holds, in eval mode, leaving torch's generator alone.

    Args:
        config: What `model_config` returned, after `check_config`.
        spec: How pictures become its input.
        state: All tensors by name.
        what: Name of the place that they come from, for messages.

    Raises:
        ModelError: They do not fit together.
    """
    own = config["headstart"]
    labels = tuple(config["label_names"])
    with torch.random.fork_rng(devices=[]):
        network = library_named(own["library"], what).build(config["architecture"], spec.size)
        stages = derive_stages(network, own["library"])
        put_head(network, stages, len(labels), own["head_hidden"], own["dropout"])
        restore_adapters(network, own.get("adapters"), what)
    load_into(network, state, (), what)
    return ClassifierNetwork(
        network=network.eval(),
        labels=labels,
        spec=spec,
        stages=stages,
        architecture=config["architecture"],
        **{key: own[key] for key in OWN_KEYS},
    )


def model_config(classifier: ClassifierNetwork, weights_sha256: str) -> dict[str, Any]:
    """Return what `config.json` says: timm's keys, and under `headstart` what rebuilding the network takes."""
    network = classifier.network
    spec = classifier.spec
    pretrained_cfg = {
        "input_size": [3, *spec.size],
        "interpolation": spec.interpolation,
        "crop_pct": _crop_fraction(spec),
        "crop_mode": "center" if isinstance(spec.resize, int) else "squash",
        "mean": spec.mean,
        "std": spec.std,
        "num_classes": len(classifier.labels),
        **library_named(classifier.library).config_keys(network),
    }
    own: dict[str, Any] = {"format": FORMAT}
    for key in OWN_KEYS:
        own[key] = getattr(classifier, key)
    adapters = adapter_layout(network)
    if adapters is not None:
        own["adapters"] = adapters
    own["weights_sha256"] = weights_sha256
    head = head_of(network, classifier.stages)
    layers = [module for module in head.modules() if isinstance(module, nn.Linear | nn.Conv2d)]

    return {
        "architecture": classifier.architecture,
        "num_classes": len(classifier.labels),
        "num_features": num_features(layers[0]),
        "label_names": classifier.labels,
        "pretrained_cfg": pretrained_cfg,
        "headstart": own,
    }


def _crop_fraction(spec: InputSpec) -> float:
    """Return timm's `crop_pct`, from which timm gets back the same resize: floor(size / crop_pct)."""
    size = spec.size[0]
    resize = spec.resize
    if not isinstance(resize, int):
        resize = resize[0]
    for fraction in (round(size / resize, 3), size / resize):
        if math.floor(size / fraction) == resize:
            return fraction
    return size / (resize + 0.5)


def _preprocessor_config(spec: InputSpec) -> dict[str, Any]:
    """Write the preprocessing twice: as `InputSpec`, which is what Headstart reads, and in Hugging Face's terms."""
    if isinstance(spec.resize, int):
        size = {"shortest_edge": spec.resize}
    else:
        size = {"height": spec.resize[0], "width": spec.resize[1]}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": _PILLOW_FILTERS[spec.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": spec.size[0], "width": spec.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": spec.mean,
        "image_std": spec.std,
        "input_spec": spec.to_dict(),
    }


def _label_line(label: str) -> str:
    """Keep a label on one line of labels.txt: as it is, or as a JSON string where it holds a line break."""
    if label.splitlines() == [label] and not label.startswith('"'):
        return label
    return json.dumps(label)
