"""A classifier's network in PyTorch: run as it is, or made into the graph that needs no torch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from headstart.devices import pick_device
from headstart.engines.choose import choices, open_engine
from headstart.engines.conversion import convert
from headstart.engines.engine import Engine
from headstart.engines.graph import FEATURE_MAP, FEATURES, GRAPH, LOGITS, GraphFacts, origin_of, write_graph
from headstart.engines.openvino_engine import why_unusable
from headstart.engines.parity import disagreement
from headstart.engines.samples import made_pictures
from headstart.engines.torch_engine import TorchEngine
from headstart.errors import EngineError
from headstart.files import dump_json, file_error, whole_files, whole_folder, write_atomic, write_synced
from headstart.inference.model import FACTS, GraphModel, cached_graph_folder, find_graph
from headstart.inference.predict import Classifier
from headstart.model_folder import ModelFolder, read_model_folder
from headstart.models.classifier import ClassifierNetwork
from headstart.models.heads import head_of
from headstart.models.saved import load_classifier
from headstart.preprocessing import Pixels
from headstart.runs import MODEL_CONFIG

# A fault of a converted network shows on any picture. A few are compared because the first classification waits.
_NUM_MADE = 4
# What may lie between the last feature map and the pooled features: it moves numbers, and changes none.
_RESHAPING = ("Result", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Convert")
_POOLING = ("AdaptiveAvgPool", "AvgPool", "ReduceMean")


@final
class TorchModel:
    """A network of PyTorch, run by the fastest engine of this machine that agrees with PyTorch in 32 bits.

    Engines are compared on a few pictures that are always the same: logits to 1e-4, to 2e-2 where bf16 was asked for.

    Attributes:
        device: Where it runs, such as `cpu` or `cuda:0`.
    """

    def __init__(
        self, model: ClassifierNetwork, device: str = "auto", *, engine: str = "auto", precision: str = "auto"
    ) -> None:
        """Take over a network: it is moved to the device and put into eval mode.

        Args:
            model: Network, labels and input spec.
            device: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: a CUDA GPU if there is one, else the CPU.
            engine: `auto`, `openvino`, `torch-compiled` (on a GPU) or `torch`.
            precision: Precision of the engine: `32`, which is what `auto` means here, or `bf16`.

        Raises:
            ConfigError: The device, engine or precision is not known or not there.
        """
        self._model = model
        self.labels = model.labels
        self.spec = model.spec
        self.backbone = model.backbone
        self._device = pick_device(device)
        self.device = str(self._device)
        model.network.eval().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # In bf16 probabilities would be up to 0.04 away, and only where the processor has it.
        precision = "32" if precision == "auto" else precision
        self._candidates = choices(self._device, engine=engine, precision=precision)

    def open(self, say: Callable[[str], None]) -> Engine:
        """Return a new engine."""
        engine, _, _ = open_engine(
            self._model.network,
            self.spec,
            made_pictures(self.spec, _NUM_MADE),
            self._candidates,
            device=self._device,
            has_head=True,
            say=say,
            may_vary=True,
        )
        return engine


def classifier_of(
    model: ClassifierNetwork, device: str = "auto", *, engine: str = "auto", precision: str = "auto"
) -> Classifier:
    """Make a classifier of a network in memory; see `TorchModel` for the arguments and errors."""
    is_asked_for = engine != "auto" or precision != "auto"
    return Classifier(TorchModel(model, device, engine=engine, precision=precision), is_asked_for=is_asked_for)


def load_torch(folder: ModelFolder, *, device: str, engine: str, precision: str) -> Classifier:
    """Load a saved classifier with PyTorch; see `predict.load`."""
    pick_device(device)  # before reading many megabytes
    return classifier_of(load_classifier(folder.path), device, engine=engine, precision=precision)


def add_graph(folder: Path, samples: Pixels) -> str:
    """Make the graph of a saved classifier, check it, and put it into its folder.

    Args:
        folder: Model folder; its `config.json` then names the graph, or says why none can be made of this network.
        samples: Images `uint8` (N, H, W, 3) on which the graph must agree with PyTorch.

    Returns:
        Why there is no graph, or ''.

    Raises:
        HeadstartError: The folder cannot be read or written.
    """
    model = read_model_folder(folder)
    reason = why_unusable()
    if reason:
        return reason  # of this machine; on another one the graph is made on the first use
    try:
        with whole_files(model.path) as place:
            graph = _write_checked_graph(model, place, samples).to_dict()
    except EngineError as error:
        reason = str(error)
        graph = {"why_not": reason}
    except OSError as error:
        raise file_error("write", model.path / GRAPH, error) from error
    config = {**model.config, "headstart": {**model.own, "graph": graph}}
    write_atomic(model.path / MODEL_CONFIG, dump_json(config))
    return reason


def cached_graph(model: ModelFolder) -> tuple[GraphModel | None, str]:
    """Make the graph of a classifier that was saved without one, and keep it in the user's cache.

    Returns:
        The graph, or None and why there is none.
    """
    folder = cached_graph_folder(model)
    is_damaged = folder.exists()  # nobody asks for one that is there and whole
    try:
        with whole_folder(folder, if_there="replace" if is_damaged else "keep") as place:
            facts = _write_checked_graph(model, place, made_pictures(model.spec, _NUM_MADE))
            write_synced(place / FACTS, dump_json(facts.to_dict()))
    except (OSError, EngineError) as error:
        return None, " ".join(str(error).split())
    return find_graph(model), ""


def _write_checked_graph(model: ModelFolder, place: Path, samples: Pixels) -> GraphFacts:
    """Write the graph of a saved classifier into an empty folder, and compare what it computes with PyTorch.

    Raises:
        EngineError: It cannot be made, or computes something else.
        ModelError: The classifier cannot be loaded.
    """
    classifier = load_classifier(model.path)
    plain = TorchEngine(classifier.network, classifier.spec, "32", torch.device("cpu"), fold=False)
    expected = next(iter(plain.run([samples])))
    facts = write_graph(_graph_of(classifier), place, precision="32", made_from=origin_of(model))
    engine = GraphModel(model, place, facts).open(lambda _: None)
    found = np.concatenate(list(engine.run([samples])))
    reason = disagreement(found, expected, facts.precision, has_head=True)
    if reason:
        raise EngineError(f"OpenVINO does not compute what PyTorch does: {reason}")
    return facts


class _WithFeatures(nn.Module):
    """A network that also gives what its head gets, as one row of features per image."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._heads = [head]  # in a list: it is a part of the network already

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        taken: list[Tensor] = []
        hook = self._heads[0].register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        features = taken[0]
        if features.ndim == 4:  # a head that is a convolution, after which the network pools
            features = features.mean((2, 3))
        return logits, features


def _graph_of(classifier: ClassifierNetwork) -> Any:
    """Convert a classifier to a graph with named outputs: logits, pooled features and, where there is one, their map.

    Raises:
        EngineError: OpenVINO cannot convert it.
    """
    network = classifier.network
    head = head_of(network, classifier.stages)
    graph = convert(_WithFeatures(network, head).eval(), classifier.spec)
    logits, features = graph.outputs
    logits.get_tensor().set_names({LOGITS})
    features.get_tensor().set_names({FEATURES})
    feature_map = _pooled_map(features.get_node())
    if feature_map is not None and isinstance(head, nn.Linear):
        feature_map.get_tensor().set_names({FEATURE_MAP})
        graph.add_outputs([feature_map])
    return graph


def _pooled_map(node: Any) -> Any:
    """Return the feature map (1, C, h, w) of which a node gives the means (1, C), or None where there is none."""
    while node.get_type_name() in _RESHAPING:
        node = node.input_value(0).get_node()
    if node.get_type_name() not in _POOLING:
        return None
    feature_map = node.input_value(0)
    shape = feature_map.get_partial_shape().to_shape()
    pooled_shape = node.output(0).get_partial_shape().to_shape()
    if len(shape) != 4 or math.prod(pooled_shape) != shape[1]:
        return None
    return feature_map
