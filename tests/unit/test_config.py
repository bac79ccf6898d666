from pathlib import Path

import pytest

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
