"""A recipe's file: what it may say, and what one from a stranger is refused."""

import json
import typing
from pathlib import Path

import pytest

from headstart.config import Config
from headstart.errors import ConfigError, ModelError
from headstart.studies.lessons import make_lesson
from headstart.studies.recipes import RECIPES, find_recipe
from headstart.studies.recipes.schema import NOT_OF_A_CELL, WORDINGS

SMALL = {
    "title": "Mine",
    "question": "Does it work?",
    "data": "snacks",
    "backbones": ["simple-cnn"],
    "takes": "seconds",
    "settings": {"epochs": 2, "resize": [256]},
    "presets": {"slow": {"lr": "1e-5"}, "long": {"epochs": 9}},
    "cells": {"a": {"strategy": "scratch"}, "b": {"use": ["slow", "long"], "strategy": "full", "lr": 0.1}},
    "parts": [{"name": "lesson", "question": "Which?", "cells": ["a", "b"]}],
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes SMALL with other keys (None: without), or a text, and gives its path."""

    def write(changes=None, text=None):
        file = tmp_path / "mine.yaml"
        values = {key: value for key, value in {**SMALL, **(changes or {})}.items() if value is not None}
        file.write_text(json.dumps(values) if text is None else text)  # JSON is YAML, and has no aliases
        return file

    return write


def with_cell(**settings):
    return {"cells": {**SMALL["cells"], "a": settings}}


def test_a_cell_has_the_settings_of_all_then_of_its_presets_then_its_own(write):
    recipe = find_recipe(write())
    assert recipe.name == "mine"
    assert recipe.settings_of("a") == {"epochs": 2, "resize": [256], "strategy": "scratch"}
    assert recipe.settings_of("b") == {"epochs": 9, "resize": [256], "strategy": "full", "lr": 0.1}


def test_half_of_the_stages_is_counted_when_the_network_is_known(write):
    file = write(with_cell(strategy="partial", stages="half"))
    for backbone, half in (("resnet18", 2), ("lite0", 4)):
        lesson = make_lesson(file, backbone=backbone, weights="none", fetch=False)
        assert lesson.config("a").stages == half


def test_numbers_of_rows_hold_for_the_weights_that_they_are_of(write, tmp_path):
    for suffix, weights, match in (
        ("", "w.safetensors", {"hot_dog": 934}),
        (".params", "w.params", {"hot_dog": 934}),
        (".params", "w.safetensors", {}),
    ):
        (tmp_path / weights).touch()
        file = write({**with_cell(match={"hot_dog": 934}), "match_suffix": suffix})
        config = make_lesson(file, weights=tmp_path / weights, fetch=False).config("a")
        assert (config.match, config.head_init) == (match, "source")


def test_a_smoke_run_needs_no_size_and_shortens_every_phase(write):
    file = write(with_cell(strategy="gradual", phase_epochs=[3, 4, 5]))
    config = make_lesson(file, quick=True, fetch=False).config("a")
    assert (config.image_size, config.resize, config.epochs, config.phase_epochs) == (32, [36], 1, [1, 1, 1])


def test_limits_of_one_split_are_enough(write):
    lesson = make_lesson(write({"train_per_class": 3}), fetch=False)
    assert lesson.config("a").max_per_class == {"train": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key titel. Did you mean 'title'?"),
        (
            {"parts": [{**SMALL["parts"][0], "publishd": []}]},
            r"unknown key parts\[0\].publishd. Did you mean 'published'",
        ),
        ({"source": {"alway": True}}, "unknown key source.alway. Did you mean 'always'"),
        ({"title": None}, "title is missing"),
        ({"name": "other"}, "leave out 'name'"),
        ({"parts": []}, "parts="),
        ({"backbones": {"a": 1}}, "backbones={'a': 1} is not valid: input should be a valid list"),
        ({"parts": SMALL["parts"] * 2}, "'lesson' is named twice"),
        ({"parts": [{**SMALL["parts"][0], "cells": ["a", "c"]}]}, "parts.lesson: cell 'c' is not known"),
        ({"parts": [{**SMALL["parts"][0], "cells": ["a", "a"]}]}, "parts.lesson: 'a' is named twice"),
        ({"parts": [{**SMALL["parts"][0], "needs": "backbone"}]}, r"parts\[0\].needs='backbone' is not valid"),
        (
            {"parts": [{**SMALL["parts"][0], "published": [{"cell": "c", "accuracy": 1, "source": "x"}]}]},
            "parts.lesson.published: cell of this part 'c' is not known",
        ),
        (with_cell(use="slo"), "cells.a: preset 'slo' is not known. Did you mean 'slow'"),
        (with_cell(use=3), "cells.a.use=3 is not valid"),
        (with_cell(epoch=3), "cells.a: unknown setting 'epoch'. Did you mean 'epochs'"),
        (with_cell(lr="fast"), "cells.a: lr='fast' is not valid"),
        (with_cell(strategy="scratch", head_init="source"), "cells.a: head_init=source needs pretrained weights"),
        ({"source": {"settings": {"lr": -1}}}, "source: lr=-1"),
        ({"settings": {"epochz": 1}}, "settings: unknown setting 'epochz'"),
        ({"presets": {"slow": {"lrr": 1}, "long": {}}}, "presets.slow: unknown setting 'lrr'"),
    ],
)
def test_a_mistake_is_one_line_with_the_file_and_the_place(write, changes, message):
    file = write(changes)
    with pytest.raises(ConfigError, match=message) as caught:
        find_recipe(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds nothing"),
        ("- 1", "holds a list"),
        ("a: [", "line 1, column 5"),
        ("a: 2020-13-45", "not valid YAML: month must be"),
        ("a: 1\na: 2", "line 2, column 1: 'a' is there twice"),
        ("a: &x [1]\nb: [*x, *x]", "line 2, column 5: aliases"),
        ("[" * 1000, "nested too deeply"),
        ("a: " + "x" * (1 << 20), "larger than any recipe"),
        ('"\\e[31mred": 1', r"unknown key '\\x1b\[31mred'"),
    ],
)
def test_a_text_that_is_no_recipe_is_refused(write, text, message):
    with pytest.raises(ConfigError, match=message):
        find_recipe(write(text=text))


def test_a_file_runs_no_code(write, tmp_path):
    file = write(text=f"a: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
        find_recipe(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        *({"settings": {key: value}} for key, value in {
            "data": "/etc", "map": "/etc/x.yaml", "max_per_class": "/etc/x.yaml", "seed": 1, "threads": 9999,
            "out": "/etc/x", "repeat": "/etc/x", "weights": "/etc/x.pth", "match": "/etc/x.yaml",
            "strategy": "/etc/x.yaml", "backbone": "hf-hub:someone/net", "device": "meta",
        }.items()),
        {"presets": {"slow": {"out": "/etc/x"}, "long": {}}},
        with_cell(out="/etc/x"),
        with_cell(weights="https://example.org/net.pth"),
        with_cell(strategy="mine.yaml"),
        with_cell(strategy="../mine"),
        with_cell(backbone="https://example.org/net"),
        with_cell(backbone="timm/hf-hub:someone/net"),
        with_cell(backbone="local-dir:/etc"),
        {"source": {"settings": {"weights": "/etc/x.pth"}}},
        {"source": {"settings": {"data": "/etc"}}},
        {"backbones": ["hf-hub:someone/net"]},
        {"backbones": ["../net"]},
        {"map": "/etc/x.yaml"},
        {"out": "/etc/x"},
        {"parts": [{**SMALL["parts"][0], "name": "a/../../../x"}]},
        {"parts": [{**SMALL["parts"][0], "name": ".."}]},
        {"title": "\x1b[31mred"},
        {"notes": ["two\nlines"]},
        {"cells": {**SMALL["cells"], "c\x07": {}}},
        with_cell(strategy="mine", table={"phases": [{"name": "\x1b[31m", "rules": {"*": 1}}]}),
    ],
)  # fmt: skip
def test_what_a_stranger_must_not_decide_is_refused(write, changes):
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        find_recipe(write(changes))


def test_every_setting_that_takes_a_text_is_decided_about():
    """A text may name a file. One that a new setting takes belongs into NOT_OF_A_CELL, WORDINGS or this list."""
    safe = {"match", "table"}  # as mappings only; a table is checked when a plan is made of it

    def takes_text(annotation):
        options = typing.get_args(annotation)
        return annotation in (str, typing.Any) or (
            typing.get_origin(annotation) is not typing.Literal and any(map(takes_text, options))
        )

    found = {name for name, field in Config.model_fields.items() if takes_text(field.annotation)}
    assert found - set(NOT_OF_A_CELL) - set(WORDINGS) == safe


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backbones": ["lite9"]}, ModelError, "unknown backbone 'lite9'"),
        (with_cell(backbone="lite9"), ModelError, "unknown backbone 'lite9'"),
        (with_cell(strategy="ful"), ConfigError, "cells.a: strategy 'ful' is not known. Did you mean 'full'"),
        (with_cell(strategy="head", table={"phases": [{"rules": {"*": 1}}]}), ConfigError, "name the table otherwise"),
    ],
)
def test_what_is_not_known_is_refused_before_anything_is_fetched(write, monkeypatch, changes, error, message):
    monkeypatch.setattr("headstart.studies.lessons.data_set_folder", lambda *_: pytest.fail("fetched"))
    with pytest.raises(error, match=message):
        make_lesson(write(changes))


def test_a_name_that_is_not_known_offers_others():
    with pytest.raises(ConfigError, match=r"Did you mean 'hotdog'.* or a YAML file of your own"):
        find_recipe("hotdgo")
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.yaml"):
        find_recipe("nowhere.yaml")


def test_the_example_of_the_documentation_is_a_recipe(write):
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    recipe = find_recipe(write(text=example))
    assert recipe.settings_of("half, low rate") == {
        "epochs": 10, "augment": "crop", "strategy": "partial", "stages": "half", "lr": 1e-4,
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_each_of_headstarts_own_is_a_file(name):
    assert find_recipe(name) == find_recipe(RECIPES[name])
    assert Path(RECIPES[name]).name == f"{name}.yaml"
