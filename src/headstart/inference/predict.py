"""Classify pictures with a trained model, from the files of a run or model folder."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from headstart.devices import pick_device
from headstart.display import Display
from headstart.engines.choose import choices, open_engine
from headstart.engines.engine import Engine
from headstart.engines.samples import made_pictures
from headstart.errors import ModelError
from headstart.inference.inputs import Inputs, as_pictures
from headstart.inference.stream import Prediction, Probabilities, all_probabilities, check_positive, prediction
from headstart.models.classifier import ClassifierNetwork
from headstart.models.saved import load_classifier
from headstart.preprocessing import Pixels
from headstart.runs import locate, open_run
from headstart.types import InputSpec

# A fault of a converted network shows on any picture. A few are compared because the first classification waits.
_NUM_MADE = 4


@final
class Classifier:
    """A trained classifier: pictures in, labels and probabilities out. Any number of threads may use one.

    It preprocesses as in training's evaluation. One engine runs the network for as long as the object lives: the
    fastest of this machine that agrees with PyTorch in 32 bits (logits to 1e-4; to 2e-2 where bf16 was asked for) on a
    few pictures that are always the same. So what is said of a picture depends neither on the others in the batch nor
    on what was classified before: with OpenVINO to the bit, with PyTorch to about 1e-5 of a probability. The first use
    opens the engine, which takes about a second for a small network. A copy, or one that was pickled, opens its own; so
    it goes to other processes by `spawn`, but not by `fork`.
    Made by `headstart.load`.

    Attributes:
        refused: Which engines were refused, and why; known after the first use.
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
        self._device = pick_device(device)
        model.network.eval().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._is_asked_for = engine != "auto" or precision != "auto"
        # In bf16 probabilities would be up to 0.04 away, and only where the processor has it.
        precision = "32" if precision == "auto" else precision
        self._candidates = choices(self._device, engine=engine, precision=precision)
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self.refused: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: the engine and its lock."""
        return {**vars(self), "_engine": None, "_lock": None, "refused": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave."""
        vars(self).update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Classifier({self.backbone}, {len(self.labels)} labels, on {self._device})"

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
        return str(self._device)

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
        """Return the engine, which is decided on once."""
        with self._lock:
            if self._engine is None:
                self._engine, _, _ = open_engine(
                    self._model.network,
                    self._model.spec,
                    made_pictures(self._model.spec, _NUM_MADE),
                    self._candidates,
                    device=self._device,
                    has_head=True,
                    say=self.refused.append,
                    may_vary=True,
                )
        return self._engine


def load(path: str | Path, *, device: str = "auto", engine: str = "auto", precision: str = "auto") -> Classifier:
    """Load a trained classifier.

    Args:
        path: A run folder, or its `model` folder, wherever that was copied to.
        device: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: a CUDA GPU if there is one, else the CPU.
        engine: `openvino` (on a CPU), `torch-compiled` (on a GPU), `torch`, or `auto`: the fastest that agrees with
            PyTorch in 32 bits.
        precision: `32`, which is what `auto` means here, or `bf16`: faster where the processor has it, and farther off.

    Raises:
        RunError: There is no such folder, or the run is not finished.
        ModelError: The folder's files are not those of a classifier.
        ConfigError: The device, engine or precision is not known or not there.
    """
    folder = Path(path)
    pick_device(device)  # before reading many megabytes
    if not folder.is_dir() or locate(folder).is_run:
        run = open_run(folder)
        if not run.labels:  # reading them is what finds a run that is missing or has no model yet
            raise ModelError(f"{run.model_folder} names no label; train again with --overwrite")
        folder = run.model_folder
    return Classifier(load_classifier(folder), device, engine=engine, precision=precision)


def _softmax(logits: npt.NDArray[np.float32]) -> Probabilities:
    """Turn logits (N, C) into probabilities, computed in 64 bits."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    probabilities: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
