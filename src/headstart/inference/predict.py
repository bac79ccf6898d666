"""Classify pictures with a trained model, from the files of a run or model folder."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from headstart.data.sources import Picture, Source
from headstart.data.threads import default_threads
from headstart.decoding import why_unreadable
from headstart.devices import pick_device
from headstart.display import Display
from headstart.engines.choose import choices, open_engine
from headstart.engines.engine import Engine
from headstart.engines.samples import made_pictures
from headstart.errors import ConfigError, ModelError, UnreadableImageError
from headstart.inference.inputs import NAMED_FILES, Inputs, Item, View, as_picture, as_pictures, decoded_views
from headstart.models.classifier import ClassifierNetwork, load_classifier
from headstart.preprocessing import Pixels
from headstart.runs import locate, open_run
from headstart.types import InputSpec

Probabilities = npt.NDArray[np.float32]

# A fault of a converted network shows on any picture. A few are compared because the first classification waits.
_NUM_MADE = 4


@dataclass(frozen=True)
class Prediction:
    """What a model says about one picture.

    Attributes:
        path: The file, or None for a picture that was given as such.
        label: The most probable class, or None where the file could not be read.
        probability: Its probability, 0..1.
        top: The most probable classes with their probabilities, the best first.
        error: Why the file could not be read, else None.
    """

    path: str | None
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


@final
class Classifier:
    """A trained classifier: pictures in, labels and probabilities out. Any number of threads may use one.

    It preprocesses as in training's evaluation. One engine runs the network for as long as the object lives: the
    fastest of this machine that agrees with PyTorch in 32 bits (logits to 1e-4; to 2e-2 where bf16 was asked for) on a
    few pictures that are always the same. So what is said of a picture depends neither on the others in the batch nor
    on what was classified before: with OpenVINO to the bit, with PyTorch to about 1e-5 of a probability. The first use
    opens the engine, which takes about a second for a small network. A copy, or one that was pickled, opens its own.
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
            precision: Of the engine: `32`, which is what `auto` means here, or `bf16`.

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
        _check_positive(top_k=top_k)
        pictures = as_pictures(inputs)
        probabilities = all_probabilities(self, pictures, batch_size=batch_size)
        return [
            _prediction(picture, row, self.labels, top_k) for picture, row in zip(pictures, probabilities, strict=True)
        ]

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


def predict_stream(
    classifier: Classifier,
    inputs: Iterable[Item],
    *,
    top_k: int = 1,
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[Prediction]:
    """Classify any number of pictures in constant memory.

    Args:
        classifier: The model.
        inputs: Paths, PIL images or `uint8` RGB arrays (H, W, 3); taken as they are needed.
        top_k: How many classes to name.
        batch_size: Pictures per pass through the network.
        threads: Decoding threads; default: one per core, 8 at most.

    Yields:
        One prediction per picture, in order; a file that cannot be read gives one with `error` set.

    Raises:
        ConfigError: A number is below 1.
    """
    _check_positive(top_k=top_k)
    pictures = map(as_picture, inputs)
    stream = probabilities_stream(classifier, pictures, batch_size=batch_size, threads=threads)
    return (_prediction(picture, outcome, classifier.labels, top_k) for picture, outcome in stream)


def probabilities_stream(
    classifier: Classifier,
    pictures: Iterable[Picture],
    *,
    source: Source = NAMED_FILES,
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[tuple[Picture, Probabilities | UnreadableImageError]]:
    """Give every picture, in order, with its probabilities `(C,)` or with why it could not be read.

    Args:
        classifier: The model.
        pictures: Keys, and pictures; taken as they are needed.
        source: Where the keys are.
        batch_size: Pictures per pass through the network.
        threads: Decoding threads; default: one per core, 8 at most.

    Raises:
        ConfigError: A number is below 1.
    """
    threads = default_threads() if threads is None else threads
    _check_positive(batch_size=batch_size, threads=threads)
    views = decoded_views(pictures, source, classifier.spec, threads=threads, ahead=batch_size + 2 * threads)
    return _classified(classifier, views, batch_size)


def all_probabilities(
    classifier: Classifier,
    pictures: Sequence[Picture],
    *,
    source: Source = NAMED_FILES,
    batch_size: int = 32,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Probabilities:
    """Return the probabilities of every picture, `float32` (N, C).

    Args:
        classifier: The model.
        pictures: Keys, and pictures.
        source: Where the keys are.
        batch_size: Pictures per pass through the network.
        threads: Decoding threads; default: one per core, 8 at most.
        progress: Told (done, N) after every batch.

    Raises:
        UnreadableImageError: A picture cannot be decoded.
        ConfigError: A number is below 1.
    """
    rows = np.empty((len(pictures), len(classifier.labels)), np.float32)
    stream = probabilities_stream(classifier, pictures, source=source, batch_size=batch_size, threads=threads)
    for done, (_, outcome) in enumerate(stream, 1):
        if isinstance(outcome, UnreadableImageError):
            raise outcome
        rows[done - 1] = outcome
        if progress is not None and (done % batch_size == 0 or done == len(pictures)):
            progress(done, len(pictures))
    return rows


def _classified(
    classifier: Classifier, views: Generator[tuple[Picture, View]], batch_size: int
) -> Iterator[tuple[Picture, Probabilities | UnreadableImageError]]:
    pending: deque[tuple[Picture, UnreadableImageError | None]] = deque()
    batches = iter(lambda: list(islice(views, batch_size)), [])

    def readable(batches: Iterable[list[tuple[Picture, View]]]) -> Iterator[Pixels]:
        for batch in batches:
            pending.extend((given, view if isinstance(view, UnreadableImageError) else None) for given, view in batch)
            pixels = [view for _, view in batch if not isinstance(view, UnreadableImageError)]
            if not pixels:
                return  # the engine gives out what it holds, then come the errors: a long run of them is not collected
            yield np.stack(pixels)

    def errors() -> Iterator[tuple[Picture, UnreadableImageError]]:
        while pending and (error := pending[0][1]) is not None:
            yield pending.popleft()[0], error

    with closing(views):
        for batch in batches:
            for row in chain.from_iterable(classifier.classify_batches(readable(chain([batch], batches)))):
                yield from errors()
                yield pending.popleft()[0], row
            yield from errors()


def _softmax(logits: npt.NDArray[np.float32]) -> Probabilities:
    shifted = logits.astype(np.float64)
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    probabilities: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def _prediction(
    picture: Picture, outcome: Probabilities | UnreadableImageError, labels: Sequence[str], top_k: int
) -> Prediction:
    path = None if isinstance(picture, Image.Image) else picture
    if isinstance(outcome, UnreadableImageError):
        # The row has a path already, so the bare reason is enough.
        cause = outcome.__cause__
        reason = why_unreadable(cause) if isinstance(cause, Exception) else str(outcome)
        return Prediction(path, None, None, error=reason)
    best = np.argsort(-outcome, kind="stable")[:top_k]  # stable: ties go to the first class, as in the metrics
    top = tuple((labels[index], float(outcome[index])) for index in best)
    return Prediction(path, *top[0], top)


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name}={value} is not valid; expected 1 or more")
