"""What the strategy makes of the settings."""

import pytest

from headstart.config import make_config
from headstart.errors import ConfigError
from headstart.experiment.settings import ineffective_settings, strategy_of


def test_settings_without_effect_are_named_in_the_order_of_the_settings():
    given = {"strategy": "head", "head_lr_mult": 5.0, "stages": 2, "momentum": 0.5}
    assert list(ineffective_settings(make_config(given)).items()) == [
        ("stages", "strategy partial, lora, adapter or norm"),
        ("head_lr_mult", "a strategy that trains a new head beside pretrained parts"),
        ("momentum", "optimizer sgd"),
    ]
    assert ineffective_settings(make_config({"strategy": "full", "head_lr_mult": 5.0})) == {}


def test_a_default_is_never_called_without_effect():
    assert ineffective_settings(make_config({"strategy": "head", "phases": 3, "momentum": 0.9})) == {}


def test_a_file_of_ones_own_is_judged_before_it_is_read():
    given = make_config({"strategy": "not-there.yaml", "phase_epochs": [1], "lora_rank": 2, "phases": 2})
    assert list(ineffective_settings(given)) == ["phases", "phase_epochs"]


def test_a_table_is_read_and_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("pretrained: false\nparts: lora\nphases: [{rules: {'*': 1}}]\n")
    found = strategy_of(make_config({"strategy": str(file)}))
    assert (found.name, found.row.is_pretrained, found.row.parts) == ("mine", False, "lora")
    file.write_text("name: full\nphases: []\n")
    with pytest.raises(ConfigError, match="called 'full', as a strategy is; name it otherwise"):
        strategy_of(make_config({"strategy": str(file)}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "fulll"}, "strategy 'fulll' is not known. Did you mean 'full'"),
        ({"strategy": "scratch", "weights": "a.pth"}, "starts from random weights; leave out weights"),
        ({"strategy": "scratch", "head_init": "source"}, "head_init=source needs pretrained weights"),
    ],
)
def test_what_contradicts_the_strategy_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        strategy_of(make_config(settings))
