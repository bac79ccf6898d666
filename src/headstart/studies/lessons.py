"""A recipe with everything decided: which data, network, weights, seeds and folder. `teaching` runs it."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.config import Config, make_config
from headstart.data.catalog import data_root, data_set_folder, is_catalog_name
from headstart.data.manifest import scan
from headstart.errors import ConfigError, unknown
from headstart.studies.cells import Cell
from headstart.studies.recipes import HALF, Part, Recipe, Settings, find_recipe
from headstart.training.strategies import find_strategy
from headstart.types import Progress

SOURCE = "source network"
DEFAULT_STRATEGY: str = Config.model_fields["strategy"].default
_QUICK_SIDE = 32
_QUICK_IMAGES = 6
_QUICK_BATCH = 8
_USUAL_SIDE = 224  # of networks that were pretrained on ImageNet, pixels
_DRAWN = {"train_per_class": 1500, "test_per_class": 100, "size": 128}
_QUICK_DRAWN = {"train_per_class": _QUICK_IMAGES, "test_per_class": _QUICK_IMAGES, "size": _QUICK_SIDE}


@dataclass(frozen=True)
class Lesson:
    """A recipe with everything decided: which data, network, weights, seeds and folder.

    Attributes:
        recipe: The recipe that is run.
        parts: The parts that are asked for.
        data: Folder, manifest or catalogue name.
        backbones: Names of networks, the lesson's first; with more, all of them are put side by side.
        weights: File or run for the first backbone, or None for the published ones.
        source: Data that a source network is trained on, or None where none is trained.
        drawing: Number and size of the `snacks` to draw there if they are not there yet; empty: the user's own images.
        seeds: Seeds of every cell.
        out: Folder of the whole lesson.
        is_quick: Whether this is a smoke run.
        labels: Classes of the data before merging, where it is at hand.
        label_map: Merges classes of the data.
        max_per_class: Size of the subset.
    """

    recipe: Recipe
    parts: tuple[Part, ...]
    data: str
    backbones: tuple[str, ...]
    weights: str | None
    source: str | None
    drawing: Mapping[str, int]
    seeds: tuple[int, ...]
    out: Path
    is_quick: bool
    labels: tuple[str, ...] = ()
    label_map: Mapping[str, str] = field(default_factory=dict)
    max_per_class: int | Mapping[str, int] | None = None

    @property
    def changes(self) -> list[str]:
        """What is not as the lesson has it: its figures are then no measure of what comes out."""
        changes = []
        if self.data != self.recipe.data:
            changes.append("data")
        if self.backbones[0] != self.recipe.backbones[0]:
            changes.append("network")
        if self.is_quick:
            changes.append("length")
        return changes

    def cells(self, part: Part) -> tuple[Cell, ...]:
        """Return the rows of a part as settings that `headstart train` takes."""
        if part.needs != "backbones":
            return tuple(Cell(name, self.config(name)) for name in part.cells)
        cells = []
        for backbone, name in itertools.product(self.backbones, part.cells):
            cells.append(Cell(f"{backbone}: {name}", self.config(name, backbone)))
        return tuple(cells)

    def config(self, cell: str, backbone: str | None = None) -> Config:
        """Return the settings of a cell of the recipe, with another network where one is named."""
        # A lesson's new head is new, also on the weights of a run that knows the same classes.
        settings = {"head_init": "random", "backbone": self.backbones[0], **self.recipe.settings_of(cell)}
        if backbone is not None:
            settings["backbone"] = backbone

        # The weights are those of the first network.
        strategy = find_strategy(settings.get("strategy", DEFAULT_STRATEGY), settings.get("table"))
        starts_from_weights = strategy.is_pretrained and "weights" not in settings
        if self.weights is not None and settings["backbone"] == self.backbones[0] and starts_from_weights:
            settings["weights"] = self.weights

        # What depends on the network and on the data.
        if settings.get("stages") == HALF:
            settings["stages"] = _half_of(settings["backbone"])
        if "match" in settings:
            settings["match"] = self._matching_rows(settings["match"])
        if self.is_quick:
            settings = _quick(settings)
        of_data = {"data": self.data, "map": self.label_map, "max_per_class": self.max_per_class}
        for key, value in of_data.items():
            if value:
                settings[key] = value
        return make_config(settings)

    def _matching_rows(self, rows: Mapping[str, int | str]) -> dict[str, int | str]:
        """Return the rows for the classes as the data spells them, where the recipe's numbers are of these weights."""
        if not (self.weights or "").endswith(self.recipe.match_suffix):
            return {}
        spelled = {_letters(label): label for label in self.labels}
        return {spelled.get(_letters(label), label): row for label, row in rows.items()}

    def comparison_file(self, part: Part) -> Path:
        """Return where the comparison of a part is written."""
        return self.out / f"comparison-{part.name}.json"

    def pretraining(self) -> Cell:
        """Return how the source network is trained."""
        settings: dict[str, Any] = {}
        if self.recipe.source is not None:
            settings = self.recipe.source.checked_settings()
        settings["backbone"] = self.backbones[0]
        settings["data"] = self.source
        if self.is_quick:
            settings = _quick(settings)
        return Cell(SOURCE, make_config(settings))


def make_lesson(
    name: str | Path,
    *,
    backbone: str | None = None,
    data: str | Path | None = None,
    source: str | Path | None = None,
    weights: str | Path | None = None,
    seeds: int | None = None,
    parts: Sequence[str] = (),
    out: str | Path | None = None,
    quick: bool = False,
    fetch: bool = True,
    progress: Progress | None = None,
) -> Lesson:
    """Decide what a recipe is run with; nothing is trained.

    Args:
        name: Name of the recipe, or the path of a YAML file.
        backbone: Network instead of the recipe's; several, separated by commas, for a part that compares networks.
        data: Folder, manifest or catalogue name, instead of the recipe's.
        source: Data that a source network is trained on first, where the recipe does that; default: many `snacks`.
        weights: Weight file or run to start from, instead of the published or newly trained ones.
        seeds: Number of seeds; default: 3.
        parts: Names of the parts to run; default: all.
        out: Folder of the lesson; default: `runs/recipe-<name>-<backbone>`.
        quick: Whether it is a smoke run: few small images, one epoch, one seed.
        fetch: Whether it is to be run: a data set of the catalogue that is not there yet is then fetched now, and a
            network or strategy that is not known is refused before.
        progress: Told how far fetching the data is.

    Raises:
        HeadstartError: A name is not known, an option has no use here, or the data cannot be found.
    """
    recipe = find_recipe(name)
    chosen = _chosen_parts(recipe, parts)
    if quick and seeds:
        raise ConfigError("--quick is a smoke run with one seed; leave out --seeds")

    # Networks and weights.
    given: tuple[str, ...] = ()
    if backbone:
        given = tuple(word.strip() for word in backbone.split(","))
    backbones = given or recipe.backbones
    if len(given) > 1 and not any(part.needs == "backbones" for part in chosen):
        raise ConfigError(
            f"--backbone {backbone}: no part of recipe {recipe.name} to be run compares networks; name one"
        )
    _check_networks(given, weights)
    if fetch:
        _check_cells(recipe, chosen, backbones)
    trains_source = weights is None and _trains_source(recipe, backbones[0])
    if source is not None and not trains_source:
        raise ConfigError(f"--source has no use here: with these options recipe {recipe.name} trains no source network")

    # Folders, and what is drawn into them.
    folder = Path(out or _default_folder(recipe, backbones[0], quick))
    drawing: Mapping[str, int] = {}
    if trains_source:
        weights = Cell(SOURCE, Config()).folder(folder, 0)
        if source is None and quick:
            source = folder / "source-data"
            drawing = _QUICK_DRAWN
        elif source is None:
            source = data_root() / "snacks-large"
            drawing = _DRAWN

    # The target's data, its classes and its size.
    target = str(data or recipe.data)
    labels, label_map, max_per_class = _fit_to_data(recipe, target, fetch, progress)
    num_seeds = 1 if quick else (seeds or 3)
    return Lesson(
        recipe=recipe,
        parts=chosen,
        data=target,
        backbones=backbones,
        weights=None if weights is None else str(weights),
        source=None if source is None else str(source),
        drawing=drawing,
        seeds=tuple(range(num_seeds)),
        out=folder,
        is_quick=quick,
        labels=labels,
        label_map=label_map,
        max_per_class=_QUICK_IMAGES if quick else max_per_class,
    )


def _default_folder(recipe: Recipe, backbone: str, quick: bool) -> str:
    """Return where a lesson goes that names no folder."""
    folder = f"runs/recipe-{recipe.name}-{backbone.replace('/', '-')}"
    return f"{folder}-quick" if quick else folder


def _check_networks(backbones: Iterable[str], weights: str | Path | None) -> None:
    """Refuse networks and weights that are not there before anything is fetched or written."""
    if backbones:
        from headstart.models.origins import find_origin

        for backbone in backbones:
            find_origin(backbone)
    if weights is not None and str(weights) != "none":
        from headstart.models.weights import weight_file

        weight_file(Path(weights))


def _check_cells(recipe: Recipe, parts: Sequence[Part], backbones: Sequence[str]) -> None:
    """Refuse networks of cells that are not known, and tables called as strategies, before anything is fetched."""
    _check_networks(backbones, None)
    for part in parts:
        for cell in part.cells:
            settings = recipe.settings_of(cell)
            if "backbone" in settings:
                _check_networks([settings["backbone"]], None)


def _trains_source(recipe: Recipe, backbone: str) -> bool:
    """Tell whether a source network has to be trained first."""
    if recipe.source is None:
        return False
    if recipe.source.always:
        return True
    from headstart.models.origins import find_origin

    # Without published weights there is nothing else to start from.
    return find_origin(backbone).library.publication is None


def _chosen_parts(recipe: Recipe, names: Sequence[str]) -> tuple[Part, ...]:
    """Return the parts that are named, or all of them, in the order of the recipe."""
    known = [part.name for part in recipe.parts]
    for name in names:
        if name not in known:
            raise ConfigError(f"recipe {recipe.name}: {unknown('part', name, known)}")
    if not names:
        return recipe.parts
    return tuple(part for part in recipe.parts if part.name in names)


def _fit_to_data(
    recipe: Recipe, data: str, fetch: bool, progress: Progress | None
) -> tuple[tuple[str, ...], Mapping[str, str], Mapping[str, int]]:
    """Return the data's classes, the map of classes that suits them, and the size of the subset by its own splits."""
    path = Path(data).expanduser()
    if not path.exists() and is_catalog_name(data) and (fetch or (data_root() / data).exists()):
        path = data_set_folder(data, progress)

    # What the data says of itself, where it is at hand.
    reported = "test"
    labels: tuple[str, ...] = ()
    if path.exists():
        manifest, _ = scan(path)
        labels = manifest.labels
        if manifest.splits not in ((), ("train",)):
            reported = manifest.reported

    label_map = recipe.map if set(recipe.map) <= set(labels) else {}
    per_class = {"train": recipe.train_per_class, reported: recipe.reported_per_class}
    max_per_class = {split: count for split, count in per_class.items() if count}
    return labels, label_map, max_per_class


def _half_of(backbone: str) -> int:
    """Return half the number of stages below a backbone's head."""
    import torch

    from headstart.models.backbones import create_backbone

    with torch.device("meta"):  # only the names are wanted
        stages = create_backbone(backbone, weights="none").stages
    return max(1, (len(stages) - 1) // 2)  # the last one is the head


def _letters(label: str) -> str:
    """Return a class as it is compared: `Hot-Dog` and `hot_dog` are one."""
    return re.sub(r"[\W_]", "", label.casefold())


def _quick(settings: Settings) -> dict[str, Any]:
    """Shrink settings to those of a smoke run."""
    small: dict[str, Any] = {
        "image_size": _QUICK_SIDE, "max_per_class": _QUICK_IMAGES, "epochs": min(1, settings.get("epochs", 1)),
        "batch_size": min(_QUICK_BATCH, settings.get("batch_size", _QUICK_BATCH)), "views": 2, "engine": "torch",
    }  # fmt: skip
    if settings.get("resize"):
        side = settings.get("image_size") or _USUAL_SIDE
        small["resize"] = [_QUICK_SIDE * length // side for length in settings["resize"]]
    if settings.get("phase_epochs"):
        small["phase_epochs"] = [1] * len(settings["phase_epochs"])
    return {**settings, **small}
