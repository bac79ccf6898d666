"""A cell has what was asked for, and nothing of what was decided for other settings."""

import pytest

from headstart.config import Config, dump_config, load_config, make_config
from headstart.studies.grid import make_cells

OWN = {"data": "d", "strategy": "mine", "table": {"phases": []}}
# As a run of version 0.1 wrote it: every setting, whether it was asked for or not, and what was decided.
OLD = {"data": "d", "strategy": "head", "lr": 1e-2, "head_init": "random", "epochs": 7, "choices": {"epochs": [7]}}


def asked(config: Config) -> dict[str, object]:
    return config.model_dump(exclude_unset=True, exclude={"data", "backbone"})


@pytest.fixture
def load(tmp_path):
    """Return a function that gives the settings of a run, with flags on top, as `--config` does."""

    def load(text, **flags):
        (tmp_path / "environment.json").write_text("{}")
        (tmp_path / "config.yaml").write_text(text)
        return load_config(tmp_path / "config.yaml", flags)

    return load


def test_a_run_brings_what_was_asked_for_and_not_what_it_decided(load):
    config = load(dump_config(make_config({"data": "d", "strategy": "head", "epochs": 7})))
    assert config.repeat is not None
    head, full = make_cells(config, strategies=("head", "full"))
    assert asked(head.config) == {"strategy": "head", "epochs": 7}
    assert asked(full.config) == {"strategy": "full", "epochs": 7}


def test_what_was_asked_for_holds_for_all(load):
    config = load(dump_config(make_config({"data": "d", "lr": 0.5})), head_lr_mult=3.0)
    cells = make_cells(config, strategies=("head", "full"), vary={"optimizer": ["sgd"]})
    assert [(cell.config.lr, cell.config.head_lr_mult) for cell in cells] == [(0.5, 3.0)] * 2


def test_of_a_run_of_version_0_1_what_may_have_been_decided_is_left_open(load):
    every = {**make_config({}).model_dump(mode="json"), **OLD}
    every.pop("repeat")
    config = load(dump_yaml(every))
    assert asked(config).keys() == {"epochs", "repeat"}
    (cell,) = make_cells(config, strategies=("full",))
    assert asked(cell.config) == {"strategy": "full", "epochs": 7}


def dump_yaml(values):
    import yaml

    return yaml.safe_dump(values)


def test_one_that_starts_from_random_weights_gets_none():
    config = make_config({"data": "d", "weights": "w.pth", "head_init": "source"})
    head, scratch = make_cells(config, strategies=("head", "scratch"))
    assert asked(head.config) == {"strategy": "head", "weights": "w.pth", "head_init": "source"}
    assert asked(scratch.config) == {"strategy": "scratch"}


def test_a_varied_setting_that_means_nothing_makes_no_further_cell():
    cells = make_cells(make_config({"data": "d"}), strategies=("head", "full"), vary={"head_lr_mult": [3, 10]})
    assert [cell.name for cell in cells] == ["head", "full, head_lr_mult=3", "full, head_lr_mult=10"]


def test_a_table_given_with_the_settings_is_not_that_of_another_strategy():
    own, full = make_cells(make_config(OWN), strategies=("mine", "full"))
    assert (own.config.table, full.config.table) == ({"phases": []}, None)
