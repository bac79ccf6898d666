"""A cell that starts from a run's settings is what `train --config` would train."""

import pytest

from headstart.config import Config, dump_config, load_config, make_config
from headstart.studies.grid import make_cells

HEAD = {"data": "d", "strategy": "head", "lr": 1e-2, "head_init": "random", "choices": {"epochs": [5]}}
KNOWN = {"data": "d", "strategy": "head", "lr": 1e-3, "head_init": "source", "weights": "w.pth"}
FULL = {"data": "d", "strategy": "full", "lr": 3e-4, "head_init": "random"}
OWN = {"data": "d", "strategy": "mine", "lr": 3e-4, "table": {"phases": []}}


def settings(config: Config) -> dict[str, object]:
    open_ones = {key: None for key in ("head_init", "head_lr_mult") if key not in config.model_fields_set}
    return {**config.model_dump(exclude={"seed", "out", "choices"}), **open_ones}


@pytest.mark.parametrize("run", [HEAD, KNOWN, FULL, OWN], ids=["head", "known", "full", "own"])
@pytest.mark.parametrize("flags", [{}, {"lr": 0.5}, {"head_lr_mult": 10.0, "strategy": "full"}], ids=str)
@pytest.mark.parametrize(
    "change",
    [{}, {"optimizer": "sgd"}, {"head_init": "source"}, {"match": "a=1"}, {"head_lr_mult": "3"}, {"epochs": "7"}],
    ids=str,
)
@pytest.mark.parametrize("strategy", ["full", "lp-ft"])
def test_a_cell_is_what_train_would_make_of_it(tmp_path, run, flags, change, strategy):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config(run)))
    (cell,) = make_cells(
        load_config(path, flags), strategies=(strategy,), vary={key: [value] for key, value in change.items()}
    )
    alone = load_config(path, {**flags, "strategy": strategy, **change})
    assert settings(cell.config) == settings(alone)
    assert cell.config.choices == {}


@pytest.fixture
def load(tmp_path):
    def load(run, **flags):
        (tmp_path / "config.yaml").write_text(dump_config(make_config(run)))
        return load_config(tmp_path / "config.yaml", flags)

    return load


def test_another_optimizer_has_another_rate(load):
    adamw, sgd = make_cells(load(FULL), strategies=("full",), vary={"optimizer": ["adamw", "sgd"]})
    assert (adamw.config.lr, sgd.config.lr) == (3e-4, None)


def test_another_start_of_the_head_has_other_rates(load):
    random, source = make_cells(load(FULL), strategies=("full",), vary={"head_init": ["random", "source"]})
    assert (random.config.lr, random.config.head_lr_mult) == (3e-4, 10.0)
    assert source.config.lr is None
    assert "head_lr_mult" not in source.config.model_fields_set


def test_the_rates_of_a_head_that_knows_its_classes_are_not_those_of_full(load):
    head, full = make_cells(load(KNOWN), strategies=("head", "full"))
    assert (head.config.lr, full.config.lr, full.config.head_init) == (1e-3, None, "source")
    assert "head_lr_mult" not in full.config.model_fields_set


def test_what_was_asked_for_beside_a_run_holds_for_all(load):
    cells = make_cells(load(HEAD, lr=1e-2, head_lr_mult=10.0), strategies=("head", "full"), vary={"optimizer": ["sgd"]})
    assert [(cell.config.lr, cell.config.head_lr_mult) for cell in cells] == [(1e-2, 10.0)] * 2


def test_a_table_given_with_the_settings_is_not_that_of_another_strategy():
    own, full = make_cells(make_config(OWN), strategies=("mine", "full"))
    assert (own.config.table, full.config.table) == ({"phases": []}, None)
    assert own.config.lr == full.config.lr == 3e-4
