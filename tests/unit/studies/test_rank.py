"""Ranking: the figures of each backbone, their order, and what is refused."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from headstart.config import dump_config, load_config, make_config
from headstart.engines.choose import open_engine
from headstart.errors import ConfigError, ModelError
from headstart.experiment import train
from headstart.experiment.experiment import Experiment
from headstart.features import table, trunk
from headstart.studies import rank as study
from headstart.studies.rank import rank
from tests.helpers.displays import Remembering

SETTINGS = {"image_size": 32, "engine": "torch", "precision": "32", "threads": 1}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(study, "_TIMED_S", 0.05)


@pytest.fixture
def settings(image_folder):
    return {**SETTINGS, "data": str(image_folder)}


def features_of(settings, backbone):
    """Compute the features of the training images in plain PyTorch."""
    experiment = Experiment.prepare(make_config({**settings, "backbone": backbone}))
    network, records = experiment.model.network.eval(), experiment.train
    head = dict(network.named_modules())[experiment.model.stages[-1].prefixes[0]]
    rows = []
    head.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].flatten(1).numpy()))
    from headstart.data.sources import FILES, read_picture
    from headstart.preprocessing import eval_view

    pixels = np.stack([eval_view(read_picture(FILES, record.key), experiment.model.spec) for record in records])
    with torch.no_grad():
        experiment.model.logits(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    return rows[0], np.array([record.label for record in records])


def test_the_probe_is_a_linear_classifier_on_the_features_of_the_head(settings):
    (row,) = rank(make_config(settings), ["lite0"])
    features, targets = features_of(settings, "lite0")
    assert (row.num_images, row.features) == features.shape == (36, 1280)
    assert row.parameters == 3_371_008 + 1280 * 3 + 3
    assert row.megabytes == pytest.approx(4 * (row.parameters + 42_000) / 1e6, rel=0.01)  # BatchNorm's statistics too
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    predicted = cross_val_predict(LogisticRegression(C=0.1), scaled, targets, cv=5)
    assert row.probe_accuracy == pytest.approx((predicted == targets).mean(), abs=0.12)
    assert 0 < row.probe_loss < np.log(3)
    assert row.images_per_s > 1
    assert row.engine == "torch 32"


def test_the_engine_that_is_timed_is_the_one_that_computed_the_features(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    opened = []
    monkeypatch.setattr(
        trunk, "open_engine", lambda *args, **rest: opened.append(open_engine(*args, **rest)) or opened[-1]
    )
    (row,) = rank(make_config({**settings, "engine": "auto", "precision": "auto"}), ["lite0"])
    ((engine, _, _),) = opened
    assert row.engine == f"{engine.name} {engine.precision}"


def test_order_ranks_and_notes(settings):
    display = Remembering()
    config = make_config({**settings, "epochs": 3})
    rows = rank(config, ["simple-cnn", "lite0"], display=display)
    assert [row.rank for row in rows] == [1, 2]
    assert {row.backbone for row in rows} == {"simple-cnn", "lite0"}
    assert rows[0].probe_loss < rows[1].probe_loss
    again = rank(config, ["lite0", "simple-cnn"])
    assert [(row.backbone, row.probe_loss, row.logme) for row in again] == [
        (row.backbone, row.probe_loss, row.logme) for row in rows
    ]
    assert any("simple-cnn has random weights" in line for line in display.said)
    assert "note: nothing is trained here, so epochs has no effect" in display.said


def test_of_a_run_only_what_was_meant_is_said_to_have_no_effect(settings, tmp_path):
    (tmp_path / "config.yaml").write_text(
        dump_config(make_config({**settings, "weights": "none", "lr": 0.5, "epochs": 3}))
    )
    (tmp_path / "environment.json").write_text("{}")
    display = Remembering()
    rank(load_config(tmp_path / "config.yaml"), ["simple-cnn"], display=display)
    assert display.said[0] == "note: nothing is trained here, so epochs, lr have no effect"


def test_a_run_uses_the_features_that_a_ranking_has_computed(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    rank(make_config(settings), ["lite0"])
    added = []
    original = table.FeatureTable.append
    monkeypatch.setattr(
        table.FeatureTable, "append", lambda self, keys, rows: (added.append(len(keys)), original(self, keys, rows))
    )
    own = {**settings, "backbone": "lite0", "views": 1, "epochs": 1, "monitor": False, "out": str(tmp_path / "run")}
    train(make_config(own))
    assert sum(added) == 0


def test_with_too_few_images_to_hold_out_logme_decides(make_folder):
    folder = make_folder({f"{split}/{label}": 1 for split in ("train", "val") for label in ("apple", "sky")})
    display = Remembering()
    rows = rank(make_config({**SETTINGS, "data": str(folder)}), ["lite0", "simple-cnn"], display=display)
    assert [row.probe_loss for row in rows] == [row.probe_accuracy for row in rows] == [None, None]
    assert rows[0].logme >= rows[1].logme
    assert any("ranked by LogME" in line for line in display.said)


@pytest.mark.parametrize("names", [[], ["lite0", "lite0"]])
def test_names_that_rank_nothing_are_refused(settings, names):
    with pytest.raises(ConfigError, match="no two alike"):
        rank(make_config(settings), names)


def test_unknown_names_and_foreign_weights_are_refused_before_anything_is_read(settings):
    with pytest.raises(ModelError, match="lite0"):
        rank(make_config({**settings, "data": "nowhere"}), ["lite0", "lite00"])
    with pytest.raises(ConfigError, match="one backbone"):
        rank(make_config({**settings, "weights": "a.pth"}), ["lite0", "simple-cnn"])


def test_a_head_that_is_no_linear_layer_is_refused(settings):
    with pytest.raises(ModelError, match="squeezenet1_1 cannot be ranked"):
        rank(make_config({**settings, "image_size": 64, "weights": "none"}), ["squeezenet1_1"])


def test_table_json_and_csv_say_the_same(settings, headstart):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "data"]
    words = ["rank", settings["data"], "--backbones", "simple-cnn", *flags]
    (saved,) = json.loads(headstart(*words, "--format", "json").out)
    (plain,) = csv.DictReader(io.StringIO(headstart(*words, "--format", "csv").out))
    table = headstart(*words).out
    assert list(plain) == list(saved)
    assert float(plain["probe_loss"]) == pytest.approx(saved["probe_loss"], abs=1e-6)
    line = next(line for line in table.splitlines() if "1. simple-cnn" in line)
    assert f"{saved['probe_loss']:.3f}" in line
    assert f"{saved['logme']:.3f}" in line
    assert f"{saved['parameters']:,}" in line
