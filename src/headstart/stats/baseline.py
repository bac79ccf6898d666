"""What a figure is worth beside the simplest answer: always saying the largest class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.errors import listed
from headstart.stats.confusion import read_confusion
from headstart.stats.intervals import images_in_groups


@dataclass(frozen=True)
class Baseline:
    """What always saying the largest class gets, on the same images.

    Attributes:
        label: Name of the class with the most images; the first one where several have equally many.
        accuracy: Share of the images that are of that class.
        is_even: Whether all classes that have images have equally many.
    """

    label: str
    accuracy: float
    is_even: bool

    @property
    def answer(self) -> str:
        """What is always said, in words."""
        said = f"always saying {self.label!r}"
        if self.is_even:
            return said
        return f"{said}, the largest class"

    def __str__(self) -> str:
        comma = "" if self.is_even else ","
        return f"{self.answer}{comma} would get {self.accuracy:.3f}"


@dataclass(frozen=True)
class WorstClass:
    """The class of which the least is found.

    Attributes:
        label: Name of the class with the lowest recall; where several have it, the one with the most images.
        recall: Share of the images of this class that were right.
        num_images: Number of images of this class.
    """

    label: str
    recall: float
    num_images: int

    def __str__(self) -> str:
        return f"lowest recall {self.recall:.3f}, of {self.label!r} ({images_in_groups(self.num_images)})"


def baseline_of(num_images: Mapping[str, int]) -> Baseline:
    """Return the baseline of images, given how many each class has."""
    label = max(num_images, key=lambda name: num_images[name])
    counts = [count for count in num_images.values() if count]
    return Baseline(label, num_images[label] / sum(counts), len(set(counts)) == 1)


def baseline(metrics: Mapping[str, Any]) -> Baseline:
    """Return the baseline of the images that a `metrics.json` is about, also of an older version."""
    return baseline_of({label: row["num_images"] for label, row in metrics["per_class"].items()})


def worst_class(metrics: Mapping[str, Any]) -> WorstClass:
    """Return the class with the lowest recall."""
    found = []
    for label, row in metrics["per_class"].items():
        if row["recall"] is not None:
            found.append(WorstClass(label, row["recall"], row["num_images"]))
    return min(found, key=lambda each: (each.recall, -each.num_images))


def baseline_note(metrics: Mapping[str, Any]) -> str:
    """Say that a model has learnt nothing that these images show, or return ''."""
    simplest = baseline(metrics)
    if simplest.accuracy == 1.0:  # nothing can be better than that
        return (
            f"every image is of {simplest.label!r}, so the accuracy is the share of them that is found; how often the "
            f"model takes other pictures for {simplest.label!r} is not measured"
        )
    predicted: set[str] = set()
    for row in read_confusion(metrics).values():
        predicted.update(row)
    if len(predicted) == 1 and metrics["num_images"] > 1:
        label = predicted.pop()
        return f"the model says {label!r} for every picture, so its accuracy is that class's share of the images"
    if metrics["accuracy"]["high"] < simplest.accuracy:
        return f"the model is worse than always saying {simplest.label!r}, which would get {simplest.accuracy:.3f}"
    if metrics["accuracy"]["low"] <= simplest.accuracy:
        return (
            f"on these images the model is not clearly better than always saying {simplest.label!r}, which would get "
            f"{simplest.accuracy:.3f}"
        )
    return ""


def absent_classes(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes that the model knows and that no image has."""
    return [label for label, row in metrics["per_class"].items() if not row["num_images"]]


def absent_note(metrics: Mapping[str, Any]) -> str:
    """Say of which classes the figures say nothing, or return ''."""
    absent = absent_classes(metrics)
    if not absent:
        return ""
    names = listed([repr(label) for label in absent])
    return (
        f"there is no image of {len(absent)} of the {len(metrics['per_class'])} classes that the model knows: {names}"
    )


def figure_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return what has to stand beside an accuracy, so that nobody takes it for more than it is."""
    return [note for note in (baseline_note(metrics), absent_note(metrics)) if note]
