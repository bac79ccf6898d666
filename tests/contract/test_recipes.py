"""Every recipe's resolved optimizer groups, transforms and phases against the numbers of its lesson, written out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from headstart.display import Display
from headstart.experiment.experiment import fit_settings
from headstart.experiment.network import build_model, build_plan
from headstart.experiment.reading import read_data
from headstart.experiment.resolve import decide
from headstart.studies.lessons import make_lesson
from headstart.studies.recipes import RECIPES, find_recipe
from headstart.studies.teaching import Outcome, _write_summary
from headstart.training.optim import build_optimizer
from headstart.training.plan import resolve
from headstart.training.schedules import lr_factor
from tests.helpers.pictures import write_folder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CROPPED = {"size": (224, 224), "resize": (256, 256), "filter": "bilinear", "augment": "crop"}
ADAMW = {"optimizer": "AdamW", "decay": {0.0, 0.01}, "loss": "mean", "schedule": "one-cycle"}
GLUON_MEAN = {"loss": "mean"}

# What all cells of a lesson have in common.
COMMON = {
    "hotdog": {
        **CROPPED, "optimizer": "SGD", "momentum": 0.0, "decay": {0.001}, "batch": 128, "loss": "sum",
        "schedule": "constant",
    },
    "hotdog-gluon": {
        **CROPPED, "optimizer": "SGD", "momentum": 0.0, "decay": {0.001}, "batch": 128, "loss": "sum",
        "schedule": "constant",
    },
    "animals-vehicles": {
        "size": (224, 224), "resize": (224, 224), "filter": "bilinear", "augment": "flip", "optimizer": "Adam",
        "decay": {0.0}, "batch": 32, "loss": "mean", "schedule": "constant",
    },
    "ants-bees": {
        "size": (224, 224), "resize": 256, "filter": "bilinear", "augment": "crop", "optimizer": "SGD",
        "momentum": 0.9, "decay": {0.0}, "batch": 4, "loss": "mean", "schedule": "step", "best": "accuracy",
        "select_on": "reported",
    },
    "pretrain-transfer": {
        "size": (96, 96), "resize": 112, "filter": "bilinear", "augment": "crop", "optimizer": "AdamW",
        "decay": {0.0, 0.01}, "batch": 32, "loss": "mean", "schedule": "one-cycle",
    },
}  # fmt: skip

# Cell -> its phases as (epochs, {learning rate: number of tensors}), and what differs from what is common.
# ResNet-18 has 62 tensors: 15 in each of layer2, layer3 and layer4, 2 in the head. Its second version has 58.
CELLS = {
    "hotdog": {
        "fine-tuned": ([(5, {5e-5: 60, 5e-4: 2})], {}),
        "from scratch": ([(5, {5e-4: 62})], {}),
        "fine-tuned rate x4": ([(5, {2e-4: 60, 2e-3: 2})], {}),
        "fine-tuned rate x20": ([(5, {1e-3: 60, 1e-2: 2})], {}),
        "fine-tuned rate x100": ([(5, {5e-3: 60, 5e-2: 2})], {}),
        "fine-tuned 15 epochs": ([(15, {5e-5: 60, 5e-4: 2})], {"schedule": "cosine"}),
        "from scratch 15 epochs": ([(15, {5e-4: 62})], {"schedule": "cosine"}),
        "fine-tuned AdamW": ([(10, {3e-4: 60, 3e-3: 2})], ADAMW),
        "from scratch AdamW": ([(10, {1e-3: 62})], ADAMW),
        "fine-tuned head x1": ([(5, {5e-5: 62})], {}),
        "fine-tuned head x100": ([(5, {5e-5: 60, 5e-3: 2})], {}),
        "backbone frozen": ([(5, {5e-4: 2})], {}),
        "head and last 1 stages": ([(5, {5e-5: 15, 5e-4: 2})], {}),
        "head and last 2 stages": ([(5, {5e-5: 30, 5e-4: 2})], {}),
        "head and last 3 stages": ([(5, {5e-5: 45, 5e-4: 2})], {}),
        "source row untrained": ([(0, {})], {"head_init": "source"}),
        "source row backbone frozen": ([(5, {5e-4: 2})], {"head_init": "source"}),
        "source row fine-tuned": ([(5, {5e-5: 60, 5e-4: 2})], {"head_init": "source"}),
    },
    "hotdog-gluon": {
        "fine-tuned": ([(5, {0.01: 56, 0.1: 2})], GLUON_MEAN),
        "from scratch": ([(5, {0.1: 58})], GLUON_MEAN),
        "fine-tuned summed": ([(5, {7.8125e-5: 56, 7.8125e-4: 2})], {}),
        "from scratch summed": ([(5, {7.8125e-4: 58})], {}),
        "features frozen": ([(5, {0.1: 2})], GLUON_MEAN),
        "source row untrained": ([(0, {})], {"head_init": "source"}),
        "source row features frozen": ([(5, {0.1: 2})], {**GLUON_MEAN, "head_init": "source"}),
        "source row fine-tuned": ([(5, {0.01: 56, 0.1: 2})], {**GLUON_MEAN, "head_init": "source"}),
    },
    "animals-vehicles": {
        "simple-cnn from scratch": ([(10, {1e-3: 12})], {"norm": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}),
        "head": ([(10, {1e-3: 2})], {}),
        "gradual unfreezing": ([(5, {1e-3: 2}), (5, {1e-4: 17}), (5, {1e-5: 32})], {}),
        "all but the head frozen": ([(5, {1e-3: 2})], {}),
        "nothing frozen": ([(5, {1e-4: 62})], {}),
        "first half frozen": ([(10, {1e-5: 32})], {}),
        "head batch 8": ([(10, {1e-3: 2})], {"batch": 8}),
        "head batch 128": ([(10, {1e-3: 2})], {"batch": 128}),
    },
    "ants-bees": {
        "feature extraction": ([(5, {1e-3: 2})], {}),
        "fine-tuned": ([(5, {1e-3: 62})], {}),
        "fine-tuned 1e-4 with head 1e-3": ([(5, {1e-4: 60, 1e-3: 2})], {}),
        "extraction then all": ([(5, {1e-3: 2}), (5, {1e-4: 62})], {}),
        "honest: feature extraction": ([(5, {1e-3: 2})], {"select_on": "auto"}),
        "honest: fine-tuned": ([(5, {1e-3: 62})], {"select_on": "auto"}),
        "honest: fine-tuned 1e-4 with head 1e-3": ([(5, {1e-4: 60, 1e-3: 2})], {"select_on": "auto"}),
        "honest: extraction then all": ([(5, {1e-3: 2}), (5, {1e-4: 62})], {"select_on": "auto"}),
        "feature extraction 25 epochs": ([(25, {1e-3: 2})], {}),
        "fine-tuned 25 epochs": ([(25, {1e-3: 62})], {}),
        "fine-tuned 0.0001": ([(5, {1e-4: 62})], {}),
        "fine-tuned 0.01": ([(5, {1e-2: 62})], {}),
    },
    "pretrain-transfer": {
        "from scratch": ([(10, {1e-3: 62})], {}),
        "head on the source": ([(10, {1e-2: 2})], {}),
        "fine-tuned source": ([(10, {3e-4: 60, 3e-3: 2})], {}),
    },
}
ALL = [(recipe, cell) for recipe, cells in CELLS.items() for cell in cells]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory):
    """Each recipe on two classes."""
    folder = write_folder(tmp_path_factory.mktemp("two"), {f"{s}/{c}": 1 for s in ("train", "test") for c in "ab"})
    weights = tmp_path_factory.mktemp("weights") / "source.safetensors"
    weights.touch()
    return {name: make_lesson(name, data=folder, weights=weights) for name in RECIPES}


# Written before recipes were files: "recipe, situation" -> cell -> all that it sets.
SETTINGS = json.loads((Path(__file__).parent / "recipe_settings.json").read_text())
TWO, SPELLED = ("hot_dog", "not_hot_dog"), ("Hot-Dog", "not-hotdog")
TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Weights, classes of the data, name of its reported split, and options.
SITUATIONS = {
    "weights": ("WEIGHTS", TWO, "test", {}),
    "quick": (None, TWO, "test", {"quick": True}),
    "params": ("WEIGHTS.params", SPELLED, "val", {}),
    "ten classes": ("WEIGHTS", TEN, "test", {}),
    "mobilenet_v2": ("WEIGHTS", TEN, "test", {"backbone": "mobilenet_v2"}),
    "networks": (None, TWO, "test", {"backbone": "vgg16,lite0,simple-cnn"}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_all_that_a_cell_sets_is_as_it_was(tmp_path, monkeypatch, case):
    name, _, situation = case.partition(", ")
    weights, labels, reported, options = SITUATIONS[situation]
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "DATA", {f"{split}/{label}": 1 for split in ("train", reported) for label in labels})
    for file in ("WEIGHTS", "WEIGHTS.params"):
        (tmp_path / file).touch()
    lesson = make_lesson(name, data="DATA", weights=weights, **options)
    cells = [cell for part in lesson.parts for cell in lesson.cells(part)]
    cells += [lesson.pretraining()] if lesson.source is not None else []
    found = {cell.name: cell.config.model_dump(mode="json", exclude_unset=True) for cell in cells}
    assert found == SETTINGS[case]


def cells_of(lesson):
    return {cell.name: cell.config for part in lesson.parts if part.needs != "backbones" for cell in lesson.cells(part)}


def test_the_table_below_names_every_cell(lessons):
    assert {name: set(cells_of(lesson)) for name, lesson in lessons.items()} == {n: set(c) for n, c in CELLS.items()}


@pytest.mark.parametrize(("recipe", "cell"), ALL, ids=[f"{recipe}: {cell}" for recipe, cell in ALL])
def test_a_cell_has_the_numbers_of_its_lesson(lessons, recipe, cell):
    phases, differing = CELLS[recipe][cell]
    expected = {"best": "", "select_on": "auto", "head_init": "random", "norm": IMAGENET, **COMMON[recipe], **differing}
    config = cells_of(lessons[recipe])[cell]
    resolved = decide(config, ("a", "b"))
    # Random weights, because the published ones are not at hand; the source's rows are another test's.
    new = resolved.replace(head_init="random")
    model = build_model(config.model_copy(update={"weights": "none"}), new, ("a", "b"))
    spec = model.spec
    assert (spec.size, spec.resize, spec.interpolation) == (expected["size"], expected["resize"], expected["filter"])
    assert (spec.mean, spec.std) == expected["norm"]
    assert config.augment == expected["augment"]
    assert (config.batch_size, config.loss_reduction) == (expected["batch"], expected["loss"])
    assert resolved.head_init == expected["head_init"]
    assert (config.select_by if config.best_epoch else "") == expected["best"]
    assert config.select_on == expected["select_on"]
    assert (config.accumulate, config.precision, config.label_smoothing, config.mixup, config.ema) == (1, "32", 0, 0, 0)
    plan = build_plan(config, resolved, model)
    assert [phase.epochs for phase in plan.phases] == [epochs for epochs, _ in phases]
    for phase, (epochs, rates) in zip(plan.phases, phases, strict=True):
        if epochs:
            check_phase(config, model, phase, rates, expected)


def check_phase(config, model, phase, rates, expected):
    resolved = resolve(phase, model.network, model.stages)
    settings = fit_settings(config)
    optimizer = build_optimizer(
        settings.optimizer, dict(model.network.named_parameters()), resolved.learning_rates,
        momentum=settings.momentum, weight_decay=settings.weight_decay, decay_all=settings.decay_all,
    )  # fmt: skip
    assert type(optimizer).__name__ == expected["optimizer"]
    found: dict[float, int] = {}
    for group in optimizer.param_groups:
        found[group["lr"]] = found.get(group["lr"], 0) + len(group["params"])
        assert group.get("momentum", 0) == expected.get("momentum", 0)
        assert not group.get("nesterov", False)
    assert sorted(found) == pytest.approx(sorted(rates))
    assert [found[rate] for rate in sorted(found)] == [rates[rate] for rate in sorted(rates)]
    assert {group["weight_decay"] for group in optimizer.param_groups} == expected["decay"]
    assert phase.solver == "loop"
    trains_backbone = sum(rates.values()) > 2 and config.backbone != "simple-cnn"
    assert resolved.trains_batch_statistics == trains_backbone
    # Tutorials leave BatchNorm in training mode; the lesson without a tutorial has Headstart's own defaults.
    assert config.batch_norm == ("auto" if expected["optimizer"] == "AdamW" and config.image_size == 96 else "batch")
    steps = 10
    factors = [
        lr_factor(settings.schedule, step, phase.epochs * steps, settings.warmup, settings.step_epochs * steps)
        for step in range(0, phase.epochs * steps, steps)
    ]
    if expected["schedule"] == "constant":
        assert factors == [1.0] * phase.epochs
    elif expected["schedule"] == "step":
        assert factors == pytest.approx([0.1 ** (epoch // 7) for epoch in range(phase.epochs)])
    else:
        assert settings.schedule == expected["schedule"]


def test_every_epoch_has_its_own_crop(lessons):
    for recipe, lesson in lessons.items():
        for config in cells_of(lesson).values():
            is_sparse = recipe != "pretrain-transfer" and config.head_init == "random"
            assert config.views >= (4 if is_sparse else 1) * max(config.phase_epochs or [config.epochs])


def test_sizes_and_classes_of_the_data(lessons, tmp_path):
    assert {name: find_recipe(name).data for name in RECIPES} == {
        "hotdog": "hotdog", "hotdog-gluon": "hotdog", "animals-vehicles": "cifar10-animals-vehicles",
        "ants-bees": "hymenoptera", "pretrain-transfer": "hotdog",
    }  # fmt: skip
    ten = {
        "airplane": "vehicle", "automobile": "vehicle", "bird": "animal", "cat": "animal", "deer": "animal",
        "dog": "animal", "frog": "animal", "horse": "animal", "ship": "vehicle", "truck": "vehicle",
    }  # fmt: skip
    folder = write_folder(tmp_path / "ten", {f"{split}/{name}": 1 for split in ("train", "test") for name in ten})
    config = next(iter(cells_of(make_lesson("animals-vehicles", data=folder, weights="none")).values()))
    assert config.map == ten
    # 2,000 and 400 images in two classes.
    assert config.max_per_class == {"train": 1000, "test": 200}
    manifest, _ = read_data(config, Display())
    assert manifest.counts() == {split: {"animal": 6, "vehicle": 4} for split in ("train", "test")}
    others = write_folder(tmp_path / "two", {f"{split}/{name}": 1 for split in ("train", "val") for name in "ab"})
    config = next(iter(cells_of(make_lesson("animals-vehicles", data=others, weights="none")).values()))
    assert (config.map, config.max_per_class) == ({}, {"train": 1000, "validation": 200})
    assert all(c.max_per_class is None for c in cells_of(lessons["hotdog"]).values())


def test_networks():
    assert {name: find_recipe(name).backbones[0] for name in RECIPES} == {
        "hotdog": "resnet18", "hotdog-gluon": "resnet18_v2", "animals-vehicles": "resnet18", "ants-bees": "resnet18",
        "pretrain-transfer": "resnet18",
    }  # fmt: skip
    cells = make_lesson("ants-bees", parts=["backbones"], fetch=False)
    assert [cell.name for cell in cells.cells(cells.parts[0])] == [
        f"{backbone}: {way}"
        for backbone in ("resnet18", "vgg16", "mobilenet_v2")
        for way in ("feature extraction", "fine-tuned")
    ]


def test_gluon_numbers_the_hot_dog_row_713_and_others_match_by_name(tmp_path):
    for weights, labels, match in (
        ("net.params", ("hotdog", "not-hotdog"), {"hotdog": 713}),
        ("net.params", ("hot_dog", "not_hot_dog"), {"hot_dog": 713}),
        ("net.safetensors", ("hotdog", "not-hotdog"), {}),
    ):
        folder = write_folder(tmp_path / labels[0], {f"{s}/{label}": 1 for s in ("train", "test") for label in labels})
        (tmp_path / weights).touch()
        lesson = make_lesson("hotdog-gluon", weights=tmp_path / weights, parts=["source-row"], data=folder)
        rows = [cell.config for cell in lesson.cells(lesson.parts[0]) if cell.name.startswith("source row")]
        assert [config.match for config in rows] == [match] * 3


def test_published_figures_belong_to_rows():
    published = {
        (name, figure.cell): figure.accuracy
        for name in RECIPES
        for part in find_recipe(name).parts
        for figure in part.published
        if figure.cell in part.cells
    }
    assert published == {
        ("hotdog", "fine-tuned"): "0.94", ("hotdog", "from scratch"): "0.83 to 0.85",
        ("hotdog-gluon", "fine-tuned"): "0.94", ("hotdog-gluon", "from scratch"): "0.83 to 0.85",
        ("hotdog-gluon", "fine-tuned summed"): "0.94", ("hotdog-gluon", "from scratch summed"): "0.83 to 0.85",
        ("ants-bees", "feature extraction 25 epochs"): "0.948", ("ants-bees", "fine-tuned 25 epochs"): "0.935",
    }  # fmt: skip


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"parts": 3}', "{}"])
def test_a_summary_that_is_damaged_is_written_anew(lessons, tmp_path, damaged):
    lesson = replace(lessons["hotdog"], out=tmp_path)
    (tmp_path / "recipe.json").write_text(damaged)
    for part in lesson.parts[:2]:
        _write_summary(lesson, Outcome(part, left_out="not now"))
    assert list(json.loads((tmp_path / "recipe.json").read_text())["parts"]) == [part.name for part in lesson.parts[:2]]
