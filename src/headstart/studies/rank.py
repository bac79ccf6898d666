"""Which pretrained network suits a data set, before anything is trained: the features of each, judged as they are."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.config import Config, make_config
from headstart.display import Display
from headstart.engines.engine import NUM_SAMPLES, Engine
from headstart.errors import ConfigError, ModelError
from headstart.experiment.experiment import Experiment
from headstart.experiment.reading import Reading
from headstart.features.batches import Features
from headstart.models.classifier import ClassifierNetwork
from headstart.models.origins import find_origin
from headstart.preprocessing import Pixels
from headstart.stats.transferability import logme
from headstart.training.plan import apply_modes, resolve
from headstart.training.solve import solve_head

_TIMED_S = 1.0
_SETTINGS = {
    "data", "layout", "map", "exclude", "max_per_class", "test_fraction", "split_seed", "leaks", "skip_bad", "weights",
    "image_size", "resize", "interpolation", "decoder", "augment", "precision", "engine", "cache", "device", "threads",
    "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """What is known about a backbone without training it.

    Attributes:
        rank: Place in the order, from 1.
        backbone: Name of the backbone.
        probe_loss: Log loss of a linear classifier on its features, on held-out training images, nats; None where there
            are too few to hold some out. Its penalty is the one with the lowest such loss.
        probe_accuracy: Accuracy of that classifier on the same held-out images; None where there are none.
        logme: Log evidence of a Bayesian linear model of the classes, nats per image; higher is better.
        num_images: Number of training images.
        features: Width of what the head sees.
        parameters: Number of parameters of the network with a head for these classes.
        megabytes: Size of its weights and buffers, as saved.
        images_per_s: Speed of the part below the head in its engine, without decoding.
        engine: Name of that engine, and its precision.
    """

    rank: int
    backbone: str
    probe_loss: float | None
    probe_accuracy: float | None
    logme: float
    num_images: int
    features: int
    parameters: int
    megabytes: float
    images_per_s: float
    engine: str


def rank(config: Config, backbones: Sequence[str], *, display: Display | None = None) -> tuple[Ranked, ...]:
    """Rank backbones by how well a linear classifier on their features tells the training images' classes apart.

    The features are those that `train --strategy head` computes for the unaugmented view, and they are kept in the same
    cache. The reported images are not looked at.

    Args:
        config: Data, geometry, device and engine; what is about training has no effect.
        backbones: Names of backbones.
        display: Told what goes on; default: nothing is shown.

    Returns:
        Best first: by `probe_loss`, or by `logme` where too few images are there to hold some out.

    Raises:
        HeadstartError: The data or a backbone is not usable.
    """
    if not backbones or len(set(backbones)) < len(backbones):
        raise ConfigError(f"backbones={','.join(backbones)!r}: expected names, no two alike, such as lite0,resnet18")
    if config.weights not in (None, "none"):
        raise ConfigError(f"weights={config.weights!r} belong to one backbone; leave them out, and each has its own")
    for name in backbones:
        find_origin(name)  # before anything is read

    # Of the settings, those that say what the features are.
    display = display or Display()
    others = sorted(config.model_fields_set - _SETTINGS - {"repeat"})
    ineffective = [key for key in others if getattr(config, key) != Config.model_fields[key].default]
    if ineffective:
        have = "has" if len(ineffective) == 1 else "have"
        display.note(f"nothing is trained here, so {', '.join(ineffective)} {have} no effect")
    kept = config.model_dump(include=config.model_fields_set & _SETTINGS)
    config = make_config({"batch_size": 32, **kept, "strategy": "head", "views": 1})

    with Reading(config, display) as reading:
        reading.result()
        configs = [config.model_copy(update={"backbone": name}) for name in backbones]
        found = []
        for each in configs:
            found.append(_judge(each, reading, display))

    if any(row.probe_loss is None for row in found):
        display.note(
            "there are too few images per class to hold some out, so backbones are ranked by LogME, not by a probe"
        )
    found.sort(key=_rank_key)
    return tuple(replace(row, rank=position) for position, row in enumerate(found, start=1))


def _rank_key(row: Ranked) -> float:
    """Return what a backbone is ranked by, less being better: the loss of its probe, or without one its LogME."""
    if row.probe_loss is None:
        return -row.logme
    return row.probe_loss


class _Named(Display):
    """Says which backbone a note is about."""

    def __init__(self, display: Display, name: str) -> None:
        self._display = display
        self._name = name

    def note(self, line: str) -> None:
        """Show a note, with the backbone in front."""
        self._display.note(f"{self._name}: {line}")

    def detail(self, line: str) -> None:
        """Show a detail, with the backbone in front."""
        self._display.detail(f"{self._name}: {line}")

    def progress(self, title: str, done: int, total: int) -> None:
        """Show how far a long pass over the images is."""
        self._display.progress(title, done, total)


def _judge(config: Config, reading: Reading, display: Display) -> Ranked:
    """Compute the features of a backbone, and say how good they are."""
    name = config.backbone
    experiment = Experiment.prepare(config, reading=reading, display=_Named(display, name))
    model = experiment.model
    if model.weights == "none":
        display.note(f"{name} has random weights here: its rank says nothing about {name} with pretrained weights")
    model.network.to(experiment.fabric.device)
    phase = resolve(experiment.plan.phases[0], model.network, model.stages)
    apply_modes(model.network, phase)
    supply = experiment.supply(experiment.train)
    inputs = supply.phase(phase.boundary, [], all_views=True)
    if inputs.features is None or inputs.trunk is None:
        raise ModelError(
            f"{name} cannot be ranked: its head is no linear layer on one row of features per image, or the features "
            "of all training images fit neither on disk nor in memory; leave it out, or use --max-per-class"
        )
    num_timed = min(2 * NUM_SAMPLES, len(experiment.train))
    views = [(image, (0,)) for image in range(num_timed)]
    pixels = next(iter(supply.numbered.views(views, num_timed)))
    return _unranked(config, model, inputs.features, inputs.trunk.open(), pixels)


def _unranked(config: Config, model: ClassifierNetwork, features: Features, engine: Engine, pixels: Pixels) -> Ranked:
    """Gather what is said of a backbone; its rank is not known yet."""
    num_bytes = sum(tensor.nbytes for tensor in model.network.state_dict().values())
    head = solve_head(features, features.targets, model.labels, groups=features.groups, seed=config.seed)
    probe_loss = None
    probe_accuracy = None
    if head.losses:
        strength = min(head.losses, key=head.losses.__getitem__)
        probe_loss = head.losses[strength]
        probe_accuracy = head.accuracies[strength]
    return Ranked(
        rank=0,
        backbone=config.backbone,
        probe_loss=probe_loss,
        probe_accuracy=probe_accuracy,
        logme=logme(features.view(0, np.arange(features.num_images)), features.targets, len(model.labels)),
        num_images=features.num_images,
        features=features.width,
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        megabytes=round(num_bytes / 1e6, 2),
        images_per_s=round(_images_per_s(engine, pixels), 1),
        engine=f"{engine.name} {engine.precision}",
    )


def _images_per_s(engine: Engine, pixels: Pixels) -> float:
    """Return how many images/s an engine computes of pictures that are decoded already."""
    for _ in engine.run([pixels]):  # kernels for this size of batch
        pass
    started = time.perf_counter()
    num_images = 0
    for rows in engine.run(_repeated(pixels, started + _TIMED_S)):
        num_images += len(rows)
    return num_images / (time.perf_counter() - started)


def _repeated(pixels: Pixels, until_s: float) -> Iterator[Pixels]:
    """Give the same batch again and again, until `time.perf_counter` has reached a time."""
    while time.perf_counter() < until_s:
        yield pixels
