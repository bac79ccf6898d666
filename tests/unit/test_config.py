from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.config import (
    Config,
    asked_values,
    command_words,
    description,
    dump_config,
    load_config,
    make_config,
    parse_assignments,
)
from headstart.errors import ConfigError


def test_a_written_config_reads_back_equal(tmp_path):
    config = make_config(
        {"data": "x", "map": "a=b,c=b", "resize": "256", "head_lr": 0.1, "time_limit": "2m", "lr": 1e-4}
    )
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config
    assert config.map == {"a": "b", "c": "b"}
    assert config.time_limit == 120
    assert config.resize == [256]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epohcs": 3}, "unknown setting 'epohcs'. Did you mean 'epochs'"),
        ({"optimizer": "sdg"}, "optimizer='sdg' is not one of adamw, adam, sgd. Did you mean 'sgd'"),
        ({"lr": float("nan")}, "lr=nan is not valid"),
        ({"lr": "inf"}, "lr='inf' is not valid"),
        ({"phase_epochs": "1,-1"}, "phase_epochs="),
        ({"phase_lrs": "0"}, "phase_lrs="),
        ({"map": "a"}, "name=value pairs"),
        ({"map": "{a"}, "map='{a' is not valid: expecting property name"),
        *(
            ({"max_per_class": value}, f"max_per_class={value!r} is not valid: expected N, or train=N,test=M, each at")
            for value in ("x", "-3", 0, "train=", "train=x", "train=2,test=0")
        ),
        *(
            ({"time_limit": value}, f"time_limit={value!r} is not valid: expected seconds, or 10m, 1h")
            for value in ("1h30", "abc", "10x", "")
        ),
        ({"split_seed": 2**32}, "split_seed=4294967296 is not valid"),
        ({"resize": "1,2,3"}, "one number"),
        ({"head_lr": 0.1, "head_lr_mult": 3.0}, "give one of them"),
        ({"match": "a=1", "head_init": "random"}, "head_init=random uses none; leave one out"),
        ({"match": "a=1", "head_hidden": 8}, "leave out head_hidden"),
        ({"match": "a"}, "name=value pairs"),
        ({"head_init": "source", "weights": "none"}, "needs pretrained weights"),
    ],
)
def test_wrong_settings_are_one_line_with_a_way_out(values, message):
    with pytest.raises(ConfigError) as caught:
        make_config(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_assignments_are_yaml():
    assert parse_assignments(["epochs=3", "head-lr=0.1", "best_epoch=true"]) == {
        "epochs": 3, "head_lr": 0.1, "best_epoch": True,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_assignments(["epochs=[1"])


def test_a_match_means_the_source_and_numbers_may_be_numbers(tmp_path):
    config = make_config({"match": "hot_dog=934,other=rest"})
    assert (config.head_init, config.match) == ("source", {"hot_dog": "934", "other": "rest"})
    (tmp_path / "c.yaml").write_text("match: {hot_dog: 934, ants: ant}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.head_init, config.match) == ("source", {"hot_dog": 934, "ants": "ant"})
    (tmp_path / "d.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "d.yaml") == config


def run_config(folder: Path, text: str) -> Path:
    """The settings of a run: those in a folder with a description of the machine."""
    (folder / "environment.json").write_text("{}")
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


def test_only_what_was_asked_for_is_written_and_a_run_brings_its_decisions(tmp_path):
    config = make_config({"data": "x", "epochs": 3})
    assert dump_config(config) == "data: x\nepochs: 3\n"
    again = load_config(run_config(tmp_path, dump_config(config)), {"epochs": 4})
    assert (again.epochs, again.repeat, again.model_fields_set) == (4, str(tmp_path), {"data", "epochs", "repeat"})
    assert load_config(run_config(tmp_path, ""), {"repeat": "other"}).repeat == "other"


def test_a_table_is_that_of_its_own_strategy_only(tmp_path):
    text = dump_config(make_config({"data": "x", "strategy": "mine", "table": {"phases": []}}))
    path = run_config(tmp_path, text)
    assert load_config(path, {"strategy": "mine", "epochs": 2}).table == {"phases": []}
    assert load_config(path, {"strategy": "full"}).table is None


def test_what_version_0_1_may_have_decided_is_not_taken_as_asked_for(tmp_path):
    every = make_config({}).model_dump(mode="json", exclude={"repeat"})
    every |= {"data": "x", "lr": 3e-4, "head_init": "source", "head_lr_mult": 1.0, "epochs": 7}
    every["choices"] = {"stop_after": [2]}
    assert asked_values(every) == {"data": "x", "epochs": 7}
    assert asked_values({**every, "head_lr_mult": 3.0}) == {"data": "x", "epochs": 7, "head_lr_mult": 3.0}
    with pytest.raises(ConfigError, match="unknown setting 'epohcs'"):
        make_config(asked_values({**every, "epohcs": 3}))


def test_a_file_of_ones_own_holds_for_any_strategy(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 0.5\nhead_lr_mult: 3.0\n")
    config = load_config(tmp_path / "c.yaml", {"strategy": "full", "optimizer": "sgd", "match": "a=1"})
    assert (config.lr, config.head_lr_mult) == (0.5, 3.0)


def test_a_description_names_all_words_that_a_setting_takes():
    assert description("augment") == "none, flip, crop or strong"
    assert description("optimizer") == "adamw, adam or sgd"


def typed(config: Config) -> Config:
    """Read the words of a command back, as the command line does."""
    words = iter(command_words(config.asked())[3:])
    return load_config(None, {flag[2:].replace("-", "_"): word for flag, word in zip(words, words, strict=True)})


@pytest.mark.parametrize(
    "pairs",
    [
        {"bird": "animal", "hot dog": "2"}, {"a,b": "c"}, {"a=b": "c", "d": "e=f"}, {" a": "b "}, {"a": "b.yaml"},
        {"{": "}"}, {'"': "\\"}, {"ä": "犬"},
    ],
)  # fmt: skip
def test_names_of_any_letters_are_read_back_from_a_command(pairs):
    config = make_config({"data": "d", "map": pairs, "match": pairs})
    again = typed(config)
    assert (again.map, again.match) == (pairs, pairs)


def test_pairs_are_written_as_one_would_type_them():
    words = command_words({"data": "d", "match": {"hot dog": 934, "bee": "rest"}, "abolished": 3})
    assert words[3:] == ["--match", "hot dog=934,bee=rest"]


def test_a_command_has_what_was_asked_for_also_where_that_is_the_default():
    config = make_config({"data": "d", "strategy": "full", "head_lr_mult": 10.0, "monitor": False, "repeat": "r"})
    words = ["--strategy", "full", "--head-lr-mult", "10.0", "--no-monitor"]
    assert command_words(config.asked()) == ["headstart", "train", "d", *words]
    assert command_words(config.asked(), "strategy")[3:] == words[2:]


# Setting -> (what people write in Python, what it means).
IN_PYTHON = {
    "data": [(Path("photos"), "photos")],
    "layout": [("class", "class")],
    "map": [({0: "ants", 1: 7}, {"0": "ants", "1": "7"})],
    "exclude": [("ants", ["ants"]), (["ants", 3], ["ants", "3"]), (("a", "b"), ["a", "b"]), (0, ["0"])],
    "max_per_class": [(np.int64(5), 5), ({"train": 5}, {"train": 5})],
    "test_fraction": [(np.float32(0.25), 0.25)],
    "validation_fraction": [(0.25, 0.25)],
    "split_seed": [(np.int32(3), 3)],
    "leaks": [("keep", "keep")],
    "skip_bad": [(np.bool_(True), True)],
    "backbone": [("lite1", "lite1")],
    "weights": [(Path("runs/a"), "runs/a"), (None, None)],
    "head_init": [("source", "source")],
    "match": [({"ants": 310, 1: "rest"}, {"ants": 310, "1": "rest"})],
    "head_hidden": [(64, 64)],
    "dropout": [(0, 0.0)],
    "image_size": [(np.int64(96), 96)],
    "resize": [(256, [256]), ((256, 320), [256, 320]), (np.array([256, 320]), [256, 320])],
    "interpolation": [("bilinear", "bilinear"), (None, None)],
    "decoder": [("pillow-scaled", "pillow-scaled")],
    "strategy": [("full", "full")],
    "table": [({"phases": [{"rules": {"*": 1}}]}, {"phases": [{"rules": {"*": 1}}]})],
    "stages": [(2, 2)],
    "phases": [(2, 2)],
    "layer_decay": [(1, 1.0)],
    "lora_rank": [(4, 4)],
    "lora_alpha": [(8, 8.0)],
    "adapter_width": [(4, 4)],
    "l2sp_alpha": [(1, 1.0)],
    "l2sp_beta": [(0, 0.0)],
    "epochs": [(np.int64(3), 3)],
    "phase_epochs": [(3, [3]), ((1, 2), [1, 2])],
    "phase_lrs": [(1e-3, [1e-3]), (np.array([0.5, 0.25]), [0.5, 0.25])],
    "solver": [("loop", "loop")],
    "batch_norm": [("fixed", "fixed")],
    "lr": [(1, 1.0), (np.float64(0.5), 0.5)],
    "head_lr": [(1, 1.0)],
    "head_lr_mult": [(2, 2.0)],
    "batch_size": [(16, 16)],
    "optimizer": [("sgd", "sgd")],
    "momentum": [(0.5, 0.5)],
    "weight_decay": [(0, 0.0)],
    "decay_all": [(True, True)],
    "loss_reduction": [("sum", "sum")],
    "schedule": [("step", "step")],
    "warmup": [(0, 0.0)],
    "step_epochs": [(3, 3)],
    "clip_norm": [(1, 1.0), (None, None)],
    "accumulate": [(2, 2)],
    "label_smoothing": [(0, 0.0)],
    "mixup": [(1, 1.0)],
    "cutmix": [(1, 1.0)],
    "ema": [(0.5, 0.5)],
    "augment": [(None, "none"), ("flip", "flip")],
    "views": [(2, 2)],
    "best_epoch": [(True, True)],
    "select_by": [("accuracy", "accuracy")],
    "patience": [(2, 2)],
    "select_on": [("reported", "reported")],
    "refit": [(False, False)],
    "selection_score": [(True, True)],
    "time_limit": [(90, 90.0), (timedelta(minutes=2), 120.0), ("2m", 120.0)],
    "memory_limit": [(8, 8.0), ("800MB", 0.8)],
    "monitor": [(False, False)],
    "log": [(None, "none")],
    "keep_checkpoints": [(True, True)],
    "precision": [(32, "32")],
    "engine": [("torch", "torch")],
    "cache": [(False, False)],
    "tune": [(False, "off"), (True, "auto")],
    "device": [(torch.device("cpu"), "cpu"), (torch.device("cuda", 1), "cuda:1")],
    "channels_last": [(False, False)],
    "threads": [(2, 2)],
    "seed": [(np.int64(7), 7)],
    "repeat": [(Path("runs/a"), "runs/a")],
    "out": [(Path("runs/b"), "runs/b")],
}
# The same in YAML, where that is another word.
IN_YAML = {
    "map": ("{0: ants, 1: 7}", {"0": "ants", "1": "7"}),
    "exclude": ("[ants, 3]", ["ants", "3"]),
    "resize": ("256", [256]),
    "phase_epochs": ("3", [3]),
    "phase_lrs": ("1e-3", [1e-3]),
    "precision": ("32", "32"),
    "tune": ("off", "off"),
    "augment": ("none", "none"),
    "log": ("null", "none"),
    "time_limit": ("10m", 600.0),
    "lr": ("1e-3", 1e-3),
    "match": ("{ants: 310, 1: rest}", {"ants": 310, "1": "rest"}),
}


def test_natural_values_are_known_for_every_setting():
    assert IN_PYTHON.keys() == Config.model_fields.keys()


@pytest.mark.parametrize("name", IN_PYTHON)
def test_what_is_natural_in_python_is_understood(name):
    for value, meant in IN_PYTHON[name]:
        assert getattr(make_config({name: value}), name) == meant
        assert type(getattr(make_config({name: value}), name)) is type(meant)


@pytest.mark.parametrize("name", IN_YAML)
def test_what_is_natural_in_yaml_is_understood_in_a_file_and_by_set(name, tmp_path):
    text, meant = IN_YAML[name]
    (tmp_path / "c.yaml").write_text(f"{name}: {text}\n")
    assert getattr(load_config(tmp_path / "c.yaml"), name) == meant
    assert getattr(load_config(None, parse_assignments([f"{name}={text}"])), name) == meant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": ["a", "b"]}, r"data=.*expected one folder, table or catalogue name; got a list of 2"),
        ({"map": {True: "ants"}}, r"map=.*expected a name; YAML reads yes, no, on and off as True, so put such a"),
        ({"map": 3}, r"map=3 .*expected name=value pairs"),
        ({"exclude": [1.5]}, r"exclude=.*expected a name; got 1.5"),
        ({"phase_epochs": "1,x"}, r"phase_epochs=.*x"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_with_what_was_expected(values, message):
    with pytest.raises(ConfigError, match=message):
        make_config(values)
