from pathlib import Path

import pytest

from headstart.config import (
    Config,
    command_words,
    description,
    dump_config,
    ineffective_settings,
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
        ({"strategy": "scratch", "weights": "a.pth"}, "starts from random weights"),
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


def write(path: Path) -> Path:
    choices = {"stop_after": [2]}
    config = make_config({"data": "x", "strategy": "mine", "table": {"phases": []}, "lr": 0.5, "choices": choices})
    path.write_text(dump_config(config))
    return path


def test_what_a_run_decided_holds_for_its_own_settings_only(tmp_path):
    path = write(tmp_path / "c.yaml")
    same = load_config(path, {"out": "elsewhere", "data": "x"})
    assert same.choices == {"stop_after": [2]}
    assert same.lr == 0.5
    longer = load_config(path, {"epochs": 10})
    assert longer.choices == {}
    assert longer.table is not None
    other = load_config(path, {"strategy": "full"})
    assert (other.strategy, other.table, other.lr, other.choices) == ("full", None, None, {})
    assert load_config(path, {"strategy": "full", "lr": 0.1}).lr == 0.1
    assert load_config(path, {"optimizer": "sgd"}).lr is None


def test_a_file_of_ones_own_holds_for_any_strategy(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 0.5\nhead_lr_mult: 3.0\n")
    config = load_config(tmp_path / "c.yaml", {"strategy": "full", "optimizer": "sgd", "match": "a=1"})
    assert (config.lr, config.head_lr_mult) == (0.5, 3.0)


def test_a_description_names_all_words_that_a_setting_takes():
    assert description("leaks") == "images that copy one that judges them (drop, error or keep)"
    assert description("optimizer") == "adamw, adam or sgd"


def test_settings_without_effect_are_named():
    lines = ineffective_settings(make_config({"strategy": "head", "head_lr_mult": 5.0, "stages": 2, "momentum": 0.5}))
    assert [line.split()[0] for line in lines] == ["stages", "head_lr_mult", "momentum"]
    assert ineffective_settings(make_config({"strategy": "full", "head_lr_mult": 5.0})) == []


def typed(values) -> Config:
    """Read the words of a command back, as the command line does."""
    words = iter(command_words(values)[3:])
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
    again = typed(config.model_dump())
    assert (again.map, again.match) == (pairs, pairs)


def test_pairs_are_written_as_one_would_type_them():
    words = command_words({"data": "d", "match": {"hot dog": 934, "bee": "rest"}})
    assert words[3:] == ["--match", "hot dog=934,bee=rest"]


def test_a_default_that_a_repeat_would_decide_otherwise_is_written_out():
    config = make_config({"data": "d", "strategy": "full", "head_init": "source", "head_lr_mult": 10.0})
    assert typed(config.model_dump()).head_lr_mult == 10.0
    assert "head_lr_mult" in typed(config.model_dump()).model_fields_set
    for other in ({"head_init": "random"}, {"strategy": "head"}, {"head_lr": 0.1}):
        assert "--head-lr-mult" not in command_words({**config.model_dump(), **other})
    is_open = make_config({"data": "d", "strategy": "full", "head_init": "source"}).model_dump(exclude_unset=True)
    assert "--head-lr-mult" not in command_words(is_open)
