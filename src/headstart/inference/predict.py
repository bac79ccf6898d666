"""Classify pictures with a trained model, from the files of a run or model folder."""

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from headstart.display import Display
from headstart.engines.engine import Engine
from headstart.engines.openvino_engine import why_unusable
from headstart.errors import EngineError, ModelError
from headstart.inference.inputs import Inputs, as_pictures
from headstart.inference.model import GraphModel, Model, find_graph
from headstart.inference.stream import Prediction, Probabilities, all_probabilities, check_positive, prediction
from headstart.model_folder import ModelFolder, read_model_folder
from headstart.preprocessing import Pixels
from headstart.runs import locate, open_run
from headstart.types import InputSpec


@final
class Classifier:
    """A trained classifier: pictures in, labels and probabilities out. Any number of threads may use one.

    It preprocesses as in training's evaluation. One engine runs the network for as long as the object lives. So what is
    said of a picture depends neither on the others in the batch nor on what was classified before: with OpenVINO to the
    bit, with PyTorch to about 1e-5 of a probability. The first use opens the engine, which takes about half a second
    for a small network. A copy, one that was pickled, or one in a forked process opens its own; but PyTorch does not
    work in the fork of a process in which it was used, and is refused there.
    Made by `headstart.load`.

    Attributes:
        refused: Which engines were refused, and why; known after the first use.
    """

    def __init__(self, model: Model, *, is_asked_for: bool = False) -> None:
        """Take what an engine is opened for.

        Args:
            model: A saved graph, or a network of PyTorch.
            is_asked_for: Whether the user named an engine or a precision, and is told where another one is used.
        """
        self._model = model
        self._is_asked_for = is_asked_for
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._of_parent: list[Engine | None] = []
        self.refused: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: the engine and its lock."""
        return {**vars(self), "_engine": None, "_lock": None, "_of_parent": [], "refused": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave."""
        vars(self).update(state)
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Classifier({self.backbone}, {len(self.labels)} labels, on {self.device})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the columns of `predict_proba`."""
        return self._model.labels

    @property
    def spec(self) -> InputSpec:
        """How a picture becomes the network's input."""
        return self._model.spec

    @property
    def backbone(self) -> str:
        """The name of the pretrained network that it was made from."""
        return self._model.backbone

    @property
    def device(self) -> str:
        """Where it runs, such as `cpu` or `cuda:0`."""
        return self._model.device

    @property
    def engine(self) -> tuple[str, str]:
        """The engine and its precision, such as `("openvino", "32")`; opens it where that was not done yet."""
        engine = self._opened()
        return engine.name, engine.precision

    def predict(self, inputs: Inputs, *, top_k: int = 1, batch_size: int = 32) -> list[Prediction]:
        """Classify pictures.

        Args:
            inputs: A path, a PIL image, a sequence of these, or a `uint8` RGB array (H, W, 3) or (N, H, W, 3).
            top_k: How many classes to name, 1 or more.
            batch_size: Pictures per pass through the network.

        Returns:
            One prediction per picture, in order.

        Raises:
            UnreadableImageError: A file is missing or no picture.
            DataError: `inputs` is something else.
            ConfigError: A number is below 1.
        """
        check_positive(top_k=top_k)
        pictures = as_pictures(inputs)
        probabilities = all_probabilities(self, pictures, batch_size=batch_size)
        found = []
        for picture, row in zip(pictures, probabilities, strict=True):
            found.append(prediction(picture, row, self.labels, top_k))
        return found

    def predict_proba(self, inputs: Inputs, *, batch_size: int = 32) -> Probabilities:
        """Return the probability of every class.

        Args:
            inputs: A path, a PIL image, a sequence of these, or a `uint8` RGB array (H, W, 3) or (N, H, W, 3).
            batch_size: Pictures per pass through the network.

        Returns:
            `float32` (N, C); columns in the order of `labels`, rows sum to 1.

        Raises:
            UnreadableImageError: A file is missing or no picture.
            DataError: `inputs` is something else.
            ConfigError: `batch_size` is below 1.
        """
        return all_probabilities(self, as_pictures(inputs), batch_size=batch_size)

    def classify_batches(self, batches: Iterable[Pixels]) -> Iterator[Probabilities]:
        """Classify any number of batches of preprocessed pictures, ahead of their use.

        Args:
            batches: `uint8` (N, H, W, 3), each of any N from 1, made by `spec`; not yet normalised.

        Yields:
            The probabilities, `float32` (N, C), in order.
        """
        for logits in self._opened().run(batches):
            yield _softmax(logits)

    def tell_refused(self, display: Display) -> None:
        """Tell which engines were refused so far: as notes where one was asked for, else as details."""
        tell = display.note if self._is_asked_for else display.detail
        for line in self.refused:
            tell(line)

    def _opened(self) -> Engine:
        """Return the engine, which is decided on once in a process."""
        if os.getpid() != self._process and isinstance(self._model, GraphModel):
            # In a fork the engine's threads are missing, and another thread may have held the lock for ever. What the
            # parent opened is kept: OpenVINO ends the process where it is taken down without its threads.
            self._of_parent.append(self._engine)
            self._engine = None
            self._lock = threading.Lock()
            self._process = os.getpid()
        with self._lock:
            if self._engine is None:
                self._engine = self._model.open(self.refused.append)
        return self._engine


def load(path: str | Path, *, device: str = "auto", engine: str = "auto", precision: str = "auto") -> Classifier:
    """Load a trained classifier.

    On a CPU its saved graph runs, for which no torch is imported; a model that was saved without one gets it on its
    first use, in the user's cache, where torch is installed.

    Args:
        path: A run folder, or its `model` folder, wherever that was copied to.
        device: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: the CPU where the model has a graph; else a CUDA GPU if there
            is one.
        engine: `openvino` (on a CPU), `torch-compiled` (on a GPU), `torch`, or `auto`: the saved graph, by OpenVINO.
        precision: `auto`: what was decided for the graph; `32`, or `bf16`: faster where the processor has it, and
            farther off.

    Raises:
        RunError: There is no such folder, or the run is not finished.
        ModelError: The folder's files are not those of a classifier, or are damaged.
        ConfigError: The device, engine or precision is not known or not there.
        EngineError: The model has no graph, or was asked for otherwise, and PyTorch is not installed.
    """
    folder = read_model_folder(_model_folder_of(Path(path)))
    reason = ""
    if device in ("auto", "cpu") and engine in ("auto", "openvino"):
        graph, reason = _usable_graph(folder, precision)
        if graph is not None:
            return Classifier(graph, is_asked_for=engine != "auto" or precision != "auto")
    what = "what was asked for by device, engine or precision"
    if reason:
        what = f"a model without a graph that can be used here ({reason})"
    torch_model = _torch_model(what)
    classifier: Classifier = torch_model.load_torch(folder, device=device, engine=engine, precision=precision)
    if reason:
        classifier.refused.append(f"the model's graph is not used: {reason}")
    return classifier


def _usable_graph(folder: ModelFolder, precision: str) -> tuple[GraphModel | None, str]:
    """Return a model's graph; or None, and why there is none that can be used here.

    The reason is '' where the graph runs in another precision than was asked for.
    """
    reason = why_unusable()
    if reason:
        return None, reason
    graph = find_graph(folder)
    if graph is None and precision in ("auto", "32"):
        own = folder.own.get("graph")
        if isinstance(own, dict) and "why_not" in own:
            return None, str(own["why_not"])
        graph, reason = _torch_model("a model that was saved without a graph").cached_graph(folder)
    if graph is None or precision not in ("auto", graph.precision):
        return None, reason
    return graph, ""


def _torch_model(what: str) -> Any:
    """Import the module that runs networks of PyTorch.

    Raises:
        EngineError: PyTorch is not installed; the message says what needs it.
    """
    try:
        from headstart.inference import torch_model
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{what} needs PyTorch, and {error.name} is not installed here; install Headstart with its dependencies, "
            "or use a model that this version trained, without --device, --engine and --precision"
        ) from error
    return torch_model


def _model_folder_of(folder: Path) -> Path:
    """Return the model folder that a path means.

    Raises:
        RunError: There is no such folder, or the run is not finished.
        ModelError: The run's model names no labels.
    """
    if folder.is_dir() and not locate(folder).is_run:
        return folder
    run = open_run(folder)
    if not run.labels:  # reading them is what finds a run that is missing or has no model yet
        raise ModelError(f"{run.model_folder} names no label; train again with --overwrite")
    return run.model_folder


def _softmax(logits: npt.NDArray[np.float32]) -> Probabilities:
    """Turn logits (N, C) into probabilities, computed in 64 bits."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    probabilities: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
