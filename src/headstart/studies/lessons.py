"""A recipe with everything decided: which data, network, weights, seeds and folder. `teaching` runs it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headstart.config import Config, make_config
from headstart.data.catalog import data_root, is_catalog_name, resolve
from headstart.data.download import Progress
from headstart.data.manifest import scan
from headstart.errors import ConfigError, unknown
from headstart.studies.cells import Cell
from headstart.studies.recipes import HALF, RECIPES, Part, Recipe, Settings, Variant

SOURCE = "source network"
_QUICK_SIDE, _QUICK_IMAGES, _QUICK_BATCH = 32, 6, 8
_DRAWN = {"train_per_class": 1500, "test_per_class": 100, "size": 128}
_QUICK_DRAWN = {"train_per_class": _QUICK_IMAGES, "test_per_class": _QUICK_IMAGES, "size": _QUICK_SIDE}


@dataclass(frozen=True)
class Lesson:
    """A recipe with everything decided: which data, network, weights, seeds and folder.

    Attributes:
        recipe: What to do.
        parts: Those that are asked for.
        data: Folder, manifest or catalogue name.
        backbones: The first is the lesson's; with more, all of them are put side by side.
        weights: File or run for the first backbone, or None for the published ones.
        source: What a source network is trained on, or None where none is trained.
        drawing: How many `snacks` of which size to draw there if they are not there yet; empty: the user's own images.
        seeds: Of every cell.
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
        own = {
            "data": self.data == self.recipe.data,
            "network": self.backbones[0] == self.recipe.backbone,
            "length": not self.is_quick,
        }
        return [name for name, is_own in own.items() if not is_own]

    def cells(self, part: Part) -> tuple[Cell, ...]:
        """Return the rows of a part as settings that `headstart train` takes."""
        if part.needs != "backbones":
            return tuple(Cell(each.name, self.config(each)) for each in part.variants)
        return tuple(
            Cell(f"{backbone}: {each.name}", self.config(replace(each, backbone=backbone)))
            for backbone in self.backbones
            for each in part.variants
        )

    def config(self, variant: Variant) -> Config:
        """Return the settings of one row."""
        # A lesson's new head is new, also on the weights of a run that knows the same classes.
        settings = {"head_init": "random", **self.recipe.shared, **variant.settings}
        settings["backbone"] = variant.backbone or self.backbones[0]
        is_scratch = settings["strategy"] == "scratch"
        if self.weights is not None and settings["backbone"] == self.backbones[0] and not is_scratch:
            settings["weights"] = self.weights
        if settings.get("stages") == HALF:
            settings["stages"] = _half_of(settings["backbone"])
        if "match" in settings:
            settings["match"] = self._rows_of_gluon(settings["match"])
        data = {"data": self.data, "map": self.label_map, "max_per_class": self.max_per_class}
        given = {key: value for key, value in data.items() if value}
        return make_config({**(_quick(settings) if self.is_quick else settings), **given})

    def _rows_of_gluon(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return the rows for the classes as the data spells them; they are numbers in Gluon's own file alone."""
        if not (self.weights or "").endswith(".params"):
            return {}
        spelled = {re.sub(r"[\W_]", "", label.casefold()): label for label in self.labels}
        return {spelled.get(label.replace("_", ""), label): row for label, row in rows.items()}

    def comparison_file(self, part: Part) -> Path:
        """Return where the comparison of a part is written."""
        return self.out / f"comparison-{part.name}.json"

    def pretraining(self) -> Cell:
        """Return how the source network is trained."""
        settings = {**(self.recipe.pretraining or {}), "backbone": self.backbones[0], "data": self.source}
        return Cell(SOURCE, make_config(_quick(settings) if self.is_quick else settings))


def make_lesson(
    name: str,
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
        name: Of the recipe.
        backbone: Instead of the recipe's; several, separated by commas, are put side by side where a part does that.
        data: Folder, manifest or catalogue name, instead of the recipe's.
        source: What a source network is trained on first, where the recipe does that; default: many `snacks`.
        weights: Weight file or run to start from, instead of the published or newly trained ones.
        seeds: How many.
        parts: Names of the parts to run; default: all.
        out: Folder; default: `runs/recipe-<name>-<backbone>`.
        quick: A smoke run: few small images, one epoch, one seed.
        fetch: Whether a data set of the catalogue that is not there yet may be fetched now.
        progress: Told how far fetching it is.

    Raises:
        HeadstartError: A name is not known, an option has no use here, or the data cannot be had.
    """
    if name not in RECIPES:
        raise ConfigError(unknown("recipe", name, RECIPES))
    recipe = RECIPES[name]
    chosen = _chosen_parts(recipe, parts)
    if quick and seeds:
        raise ConfigError("--quick is a smoke run with one seed; leave out --seeds")
    given = tuple(word.strip() for word in backbone.split(",")) if backbone else ()
    backbones = given or recipe.backbones or (recipe.backbone,)
    if backbone and len(backbones) > 1 and not any(part.needs == "backbones" for part in chosen):
        raise ConfigError(f"--backbone {backbone}: no part of recipe {name} to be run compares networks; name one")
    _check_network(given, weights)
    trains_source = weights is None and _trains_source(recipe, backbones[0])
    if source is not None and not trains_source:
        raise ConfigError(f"--source has no use here: with these options recipe {name} trains no source network")
    folder = Path(out or "-".join(["runs/recipe", name, backbones[0].replace("/", "-"), *(["quick"] if quick else [])]))
    if trains_source:
        weights = Cell(SOURCE, Config()).folder(folder, 0)
        default = folder / "source-data" if quick else data_root() / "snacks-large"
    labels, label_map, max_per_class = _fit_to_data(recipe, str(data or recipe.data), fetch, progress)
    return Lesson(
        recipe,
        chosen,
        str(data or recipe.data),
        backbones,
        None if weights is None else str(weights),
        str(source or default) if trains_source else None,
        (_QUICK_DRAWN if quick else _DRAWN) if trains_source and source is None else {},
        tuple(range(1 if quick else seeds or 3)),
        folder,
        quick,
        labels,
        label_map,
        _QUICK_IMAGES if quick else max_per_class,
    )


def _check_network(backbones: Sequence[str], weights: str | Path | None) -> None:
    """Refuse what is not there before anything is fetched or written."""
    if backbones:
        from headstart.models.sources import find_source

        for backbone in backbones:
            find_source(backbone)
    if weights is not None and str(weights) != "none":
        from headstart.models.weights import weight_file

        weight_file(Path(weights))


def _trains_source(recipe: Recipe, backbone: str) -> bool:
    if recipe.pretraining is None or recipe.pretrains_always:
        return recipe.pretraining is not None
    from headstart.models.sources import find_source

    # Without published weights there is nothing else to start from.
    return find_source(backbone).library.publication is None


def _chosen_parts(recipe: Recipe, names: Sequence[str]) -> tuple[Part, ...]:
    known = [part.name for part in recipe.parts]
    for name in names:
        if name not in known:
            raise ConfigError(f"recipe {recipe.name}: {unknown('part', name, known)}")
    return tuple(part for part in recipe.parts if part.name in names or not names)


def _fit_to_data(
    recipe: Recipe, data: str, fetch: bool, progress: Progress | None
) -> tuple[tuple[str, ...], Mapping[str, str], Mapping[str, int] | None]:
    """Return the data's classes, the map of classes that suits them, and the size of the subset by its own splits."""
    per_class = {"train": recipe.train_per_class, "test": recipe.reported_per_class}
    limits = {split: count for split, count in per_class.items() if count} or None
    path = Path(data).expanduser()
    if not path.exists():
        if not (is_catalog_name(data) and (fetch or (data_root() / data).exists())):
            return (), {}, limits
        path = resolve(data, progress)
    manifest, _ = scan(path)
    if limits and manifest.splits not in ((), ("train",)) and manifest.reported != "test":
        limits[manifest.reported] = limits.pop("test")
    label_map = recipe.label_map if set(recipe.label_map) <= set(manifest.labels) else {}
    return manifest.labels, label_map, limits


def _half_of(backbone: str) -> int:
    """Return half the number of stages below a backbone's head."""
    import torch

    from headstart.models.backbones import create_backbone

    with torch.device("meta"):  # only the names are wanted
        return max(1, (len(create_backbone(backbone, weights="none").stages) - 1) // 2)


def _quick(settings: Settings) -> dict[str, Any]:
    """Shrink settings to those of a smoke run."""
    small: dict[str, Any] = {
        "image_size": _QUICK_SIDE, "max_per_class": _QUICK_IMAGES, "epochs": min(1, settings.get("epochs", 1)),
        "batch_size": min(_QUICK_BATCH, settings.get("batch_size", _QUICK_BATCH)), "views": 2, "engine": "torch",
    }  # fmt: skip
    if "resize" in settings:
        small["resize"] = [_QUICK_SIDE * side // settings["image_size"] for side in settings["resize"]]
    if "phase_epochs" in settings:
        small["phase_epochs"] = [1] * len(settings["phase_epochs"])
    return {**settings, **small}
