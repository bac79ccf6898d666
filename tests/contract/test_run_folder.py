"""The run folder is the contract: the names in its files, which every reader, ours or not, goes by."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from headstart import experiment
from headstart.config import make_config
from tests.helpers.pictures import COLOURS

FILES = {
    "config.yaml", "data_report.json", "environment.json", "manifest.parquet", "metrics.csv", "metrics.json",
    "model/README.md", "model/config.json", "model/labels.txt", "model/model.safetensors",
    "model/preprocessor_config.json", "plan.json", "predictions.parquet", "resolved.json",
}  # fmt: skip
METRICS = {
    "accuracy", "backbone", "balanced_accuracy", "baseline", "best_epochs", "confusion", "device", "ece", "engine",
    "epochs_run",
    "labels", "log_loss", "macro_f1", "num_images", "peak_memory_mb", "per_class", "precision", "seed",
    "selected_on_reported", "shared_groups", "split", "strategy", "time_s", "trainable_parameters",
    "unchanged_trainable_tensors", "worst_class",
}  # fmt: skip
# Below a key of metrics.json.
OF_METRICS = {
    "accuracy": {"value", "low", "high", "level", "method"},
    "baseline": {"label", "accuracy", "is_even"},
    "worst_class": {"label", "recall", "num_images"},
    "time_s": {"total", "data", "cache", "train", "evaluate"},
    "selection": {"split", "num_images", "log_loss", "accuracy", "images_sha256", "time_s"},
}
PHASE = {
    "name", "epochs", "batch_norm", "boundary", "parameters", "trainable", "stages", "solver", "penalty",
}  # fmt: skip
HISTORY = [
    "fit", "phase", "phase_name", "epoch", "step", "lr", "head_lr", "train_loss", "train_accuracy", "val_split",
    "val_loss", "val_accuracy", "time_s",
]  # fmt: skip
ENVIRONMENT = {
    "time", "command", "seed", "python", "platform", "cpu", "cores", "git_commit", "packages",
}  # fmt: skip
DATA_REPORT = {
    "source", "counts", "label_map", "splits_made", "ignored_files", "unreadable", "leaks", "leaks_policy",
    "shared_groups", "duplicates", "conflicts", "grey_range", "warnings",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has everything to write down: a score, a choice of the epoch, a refit."""
    torch.set_num_threads(1)
    settings = {
        "data": str(image_folder), "backbone": "simple-cnn", "image_size": 16, "augment": "flip", "epochs": 2,
        "strategy": "scratch", "best_epoch": True, "selection_score": True, "threads": 1,
    }  # fmt: skip
    out = tmp_path_factory.mktemp("contract") / "run"
    return experiment.train(make_config({**settings, "out": str(out)})).path


@pytest.fixture(scope="module")
def tuned(run: Path, image_folder: Path) -> Path:
    """A run whose head starts from the rows of the other."""
    settings = {
        "data": str(image_folder), "backbone": "simple-cnn", "image_size": 16, "augment": "flip", "epochs": 1,
        "strategy": "head", "weights": str(run), "threads": 1,
    }  # fmt: skip
    return experiment.train(make_config({**settings, "out": str(run.with_name("tuned"))})).path


def read(run: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / name).read_text())
    return values


def test_files(run):
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} >= FILES


def test_metrics(run, tuned):
    metrics = read(run, "metrics.json")
    assert metrics.keys() == METRICS | {"selection"}
    for key, names in OF_METRICS.items():
        assert metrics[key].keys() == names, key
    assert list(metrics["per_class"]) == metrics["labels"] == list(COLOURS)
    for row in metrics["per_class"].values():
        assert row.keys() == {"precision", "recall", "f1", "num_images"}
    assert list(metrics["confusion"]) == list(COLOURS)
    assert read(tuned, "metrics.json").keys() == METRICS | {"head_starts_from"}


def test_plan(run):
    plan = read(run, "plan.json")
    assert plan.keys() == {"strategy", "phases"}
    for phase in plan["phases"]:
        assert phase.keys() == PHASE
        for stage in phase["stages"]:
            assert stage.keys() == {"stage", "parameters", "trainable", "learning_rates"}


def test_history(run):
    with (run / "metrics.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == HISTORY
    assert list(dict.fromkeys(row["fit"] for row in rows)) == ["selection", "final"]
    assert list(dict.fromkeys(row["val_split"] for row in rows)) == ["inner validation", "validation"]


def test_what_was_asked_and_what_was_decided(run, image_folder):
    asked = yaml.safe_load((run / "config.yaml").read_text())
    assert asked == {
        "data": str(image_folder), "backbone": "simple-cnn", "image_size": 16, "augment": "flip", "epochs": 2,
        "strategy": "scratch", "best_epoch": True, "selection_score": True, "threads": 1, "out": str(run),
    }  # fmt: skip
    decided = read(run, "resolved.json")
    assert decided.keys() == {
        "strategy", "table", "lr", "head_lr", "batch_size", "head_init", "match", "epochs", "is_timed", "stop_after",
        "steps", "grey_range", "engines",
    }  # fmt: skip
    assert (decided["epochs"], len(decided["stop_after"]), len(decided["steps"])) == ([2], 1, 1)


def test_environment(run):
    environment = read(run, "environment.json")
    assert environment.keys() - {"refused_engines"} == ENVIRONMENT
    assert {"headstart", "torch", "timm", "numpy", "pillow"} <= environment["packages"].keys()


def test_data_report(run):
    report = read(run, "data_report.json")
    assert report.keys() == DATA_REPORT
    assert {split: list(counts) for split, counts in report["counts"].items()} == {
        "train": list(COLOURS),
        "validation": list(COLOURS),
    }


def test_manifest(run, image_folder):
    table = pq.read_table(run / "manifest.parquet")
    assert {field.name: str(field.type) for field in table.schema} == dict.fromkeys(
        ("path", "label", "split", "group", "sha256"), "string"
    )
    assert json.loads(table.schema.metadata[b"headstart"]) == {"name": image_folder.name, "labels": list(COLOURS)}
    row = table.to_pylist()[0]
    assert row["path"] == str(image_folder / "train" / "apple" / "000.jpg")
    assert len(row["sha256"]) == 64


def test_predictions(run):
    table = pq.read_table(run / "predictions.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        **dict.fromkeys(("path", "label", "predicted"), "string"),
        **{f"p_{label}": "float" for label in COLOURS},
    }
    manifest = pq.read_table(run / "manifest.parquet").to_pylist()
    assert table.column("path").to_pylist() == [row["path"] for row in manifest if row["split"] == "validation"]


def test_model(run):
    config = read(run, "model/config.json")
    assert config.keys() == {
        "architecture", "num_classes", "num_features", "label_names", "pretrained_cfg", "headstart",
    }  # fmt: skip
    assert config["headstart"].keys() == {
        "format", "library", "backbone", "weights", "head_hidden", "dropout", "licence", "weights_sha256",
        "graph",
    }  # fmt: skip
    graph = config["headstart"]["graph"]
    assert graph.keys() == {"precision", "made_from", "xml_sha256", "bin_sha256"}
    for name in ("xml", "bin"):
        content = (run / "model" / f"graph.{name}").read_bytes()
        assert graph[f"{name}_sha256"] == hashlib.sha256(content).hexdigest()
    assert (run / "model" / "labels.txt").read_text().split() == list(COLOURS)
    assert "input_spec" in read(run, "model/preprocessor_config.json")
