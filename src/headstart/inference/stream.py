"""Pictures through a classifier, any number of them, in order and in constant memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.data.sources import Picture, Source
from headstart.data.threads import default_threads
from headstart.decoding import why_unreadable
from headstart.errors import ConfigError, UnreadableImageError
from headstart.inference.inputs import NAMED_FILES, Item, View, as_picture, decoded_views
from headstart.preprocessing import Pixels
from headstart.types import InputSpec

Probabilities = npt.NDArray[np.float32]
Outcome = Probabilities | UnreadableImageError  # what is said of one picture, (C,), or why nothing is
# Pictures that were taken and not given yet, in order, each with why it has no view, or None where it has one.
_Waiting = deque[tuple[Picture, UnreadableImageError | None]]


@dataclass(frozen=True)
class Prediction:
    """What a model says about one picture.

    Attributes:
        path: The file, or None for a picture that was given as such.
        label: The most probable class, or None where the file could not be read.
        probability: Probability of that class, 0..1.
        top: The most probable classes with their probabilities, the best first.
        error: Why the file could not be read, else None.
    """

    path: str | None
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Classifies(Protocol):
    """What classifies pictures, such as `predict.Classifier`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names."""

    @property
    def spec(self) -> InputSpec:
        """How a picture becomes the network's input."""

    def classify_batches(self, batches: Iterable[Pixels]) -> Iterator[Probabilities]:
        """Map batches `uint8` (N, H, W, 3) to probabilities (N, C), in order."""


def predict_stream(
    classifier: Classifies,
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
    check_positive(top_k=top_k)
    pictures = map(as_picture, inputs)
    stream = probabilities_stream(classifier, pictures, batch_size=batch_size, threads=threads)
    return (prediction(picture, outcome, classifier.labels, top_k) for picture, outcome in stream)


def probabilities_stream(
    classifier: Classifies,
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
    check_positive(batch_size=batch_size, threads=threads)
    views = decoded_views(pictures, source, classifier.spec, threads=threads, ahead=batch_size + 2 * threads)
    return _classified(classifier, views, batch_size)


def all_probabilities(
    classifier: Classifies,
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
    num_pictures = len(pictures)
    rows = np.empty((num_pictures, len(classifier.labels)), np.float32)
    stream = probabilities_stream(classifier, pictures, source=source, batch_size=batch_size, threads=threads)
    for done, (_, outcome) in enumerate(stream, 1):
        if isinstance(outcome, UnreadableImageError):
            raise outcome
        rows[done - 1] = outcome
        if progress is not None and (done % batch_size == 0 or done == num_pictures):
            progress(done, num_pictures)
    return rows


def prediction(picture: Picture, outcome: Outcome, labels: Sequence[str], top_k: int) -> Prediction:
    """Say what an outcome means: the most probable classes, or why there are none.

    Args:
        picture: What it is about.
        outcome: Probabilities of the image's classes (C,), or why it could not be read.
        labels: The class names.
        top_k: How many classes to name.
    """
    path = None if isinstance(picture, Image.Image) else picture
    if isinstance(outcome, UnreadableImageError):
        # The row has a path already, so the bare reason is enough.
        cause = outcome.__cause__
        reason = why_unreadable(cause) if isinstance(cause, Exception) else str(outcome)
        return Prediction(path, None, None, error=reason)
    best = np.argsort(-outcome, kind="stable")[:top_k]  # stable: ties go to the first class, as in the metrics
    top = tuple((labels[index], float(outcome[index])) for index in best)
    label, probability = top[0]
    return Prediction(path, label, probability, top)


def check_positive(**numbers: int) -> None:
    """Refuse numbers below 1, by their names.

    Raises:
        ConfigError: One of them is.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name}={value} is not valid; expected 1 or more")


def _classified(
    classifier: Classifies, views: Generator[tuple[Picture, View]], batch_size: int
) -> Iterator[tuple[Picture, Outcome]]:
    """Give every picture with its outcome, in order, while the classifier works ahead."""
    waiting: _Waiting = deque()
    with closing(views):
        batches = _batches(views, batch_size)
        for batch in batches:
            pixels = _readable_pixels(chain([batch], batches), waiting)
            for probabilities in classifier.classify_batches(pixels):
                for row in probabilities:
                    yield from _leading_errors(waiting)
                    picture, _ = waiting.popleft()
                    yield picture, row
            yield from _leading_errors(waiting)


def _batches(views: Generator[tuple[Picture, View]], batch_size: int) -> Iterator[list[tuple[Picture, View]]]:
    while batch := list(islice(views, batch_size)):
        yield batch


def _readable_pixels(batches: Iterable[list[tuple[Picture, View]]], waiting: _Waiting) -> Iterator[Pixels]:
    """Give the views of each batch, and note all of its pictures.

    It ends at a batch without any view: the classifier then gives out what it holds and the errors follow, so that a
    long run of unreadable files is not collected.
    """
    for batch in batches:
        pixels = []
        for picture, view in batch:
            if isinstance(view, UnreadableImageError):
                waiting.append((picture, view))
            else:
                waiting.append((picture, None))
                pixels.append(view)
        if not pixels:
            return
        yield np.stack(pixels)


def _leading_errors(waiting: _Waiting) -> Iterator[tuple[Picture, UnreadableImageError]]:
    """Take the pictures that come next and could not be read."""
    while waiting:
        picture, error = waiting[0]
        if error is None:
            return
        waiting.popleft()
        yield picture, error
