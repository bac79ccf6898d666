"""Run folders to report on: a real one, and made ones with whatever labels and files a test needs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import headstart
from headstart import runs
from headstart.config import dump_config, make_config
from headstart.data.manifest import ImageRecord, Manifest, write_manifest
from headstart.history import MetricsLog
from headstart.resolved import Resolved
from headstart.stats.metrics import classification_metrics
from headstart.types import InputSpec
from tests.helpers.pictures import draw_picture
from tests.helpers.reports import history


@pytest.fixture(scope="session")
def real_run(image_folder, tmp_path_factory) -> Path:
    """A run that really trained: two phases, the second with two rates. Shared: write reports elsewhere."""
    torch.set_num_threads(1)
    table = {
        "phases": [
            {"name": "head", "lr": 0.01, "rules": {"head": 1, "*": None}},
            {"name": "all", "lr": 0.001, "epochs": 3, "rules": {"head": 10, "*": 1}},
        ]
    }
    folder = tmp_path_factory.mktemp("runs")
    (folder / "two-rates.yaml").write_text(json.dumps(table))
    settings = {"backbone": "simple-cnn", "image_size": 32, "weights": "none", "augment": "flip", "epochs": 2}
    strategy = str(folder / "two-rates.yaml")
    return headstart.fit(image_folder, strategy=strategy, out=str(folder / "real"), **settings).path


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a finished run folder."""

    def make(
        name: str = "made",
        labels: Sequence[str] = ("apple", "leaf"),
        *,
        num_images: int = 40,
        rows: Sequence[dict[str, Any]] | None = None,
        phases: Sequence[tuple[str, int]] = (("head", 2),),
        metrics: dict[str, Any] | None = None,
        stop_after: tuple[int, ...] | None = None,
        **settings: Any,
    ) -> Path:
        rng = np.random.default_rng(0)
        targets = np.arange(num_images) % len(labels)
        logits = rng.normal(size=(num_images, len(labels))) + 1.5 * np.eye(len(labels))[targets]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        pictures = [tmp_path / "pictures" / f"{number}.png" for number in range(num_images)]
        pictures[0].parent.mkdir(exist_ok=True)
        for path in pictures:
            draw_picture("apple", rng).save(path)
        lengths = [epochs for _, epochs in phases]
        epochs = tuple(settings.get("phase_epochs", lengths))
        resolved = Resolved(strategy="head", lr=0.01, head_lr=0.1, epochs=epochs, stop_after=stop_after)
        shared = {"data": str(tmp_path / "fruit"), "backbone": "simple-cnn", "lr": 0.01, "phase_epochs": lengths}
        config = make_config({**shared, **settings})
        stages = [{"stage": stage, "parameters": 10, "trainable": 10, "learning_rates": rates}
                  for stage, rates in (("body", []), ("head", [0.01]))]  # fmt: skip
        plan = [{"name": title, "epochs": epochs, "batch_norm": "fixed", "parameters": 20, "trainable": 10,
                 "stages": stages, "solver": "loop" if epochs else "lbfgs"} for title, epochs in phases]  # fmt: skip
        found = classification_metrics(p, targets, labels)
        found |= {"split": "validation", "selected_on_reported": False, "strategy": "head", "seed": 0,
                  "backbone": "simple-cnn", "trainable_parameters": 10, "time_s": {"total": 1.5}}  # fmt: skip
        files = {
            "config.yaml": dump_config(config),
            "resolved.json": resolved.to_json(),
            "environment.json": json.dumps({"python": "3.11", "git_commit": None, "packages": {"torch": "2.15"}}),
            "data_report.json": json.dumps({"counts": {"validation": dict.fromkeys(labels, 3)}, "warnings": ["w1"]}),
            "plan.json": json.dumps({"strategy": "head", "phases": plan}),
            "metrics.json": json.dumps({**found, **(metrics or {})}),
            "model/preprocessor_config.json": json.dumps({"input_spec": InputSpec((32, 32), 36).to_dict()}),
        }
        run = runs.create_run_folder(tmp_path / name, files)
        records = [ImageRecord(str(path), int(t), s, None, "0") for path, t in zip(pictures, targets, strict=True)
                   for s in ("train", "validation")]  # fmt: skip
        with (run.path / runs.MANIFEST).open("wb") as file:
            write_manifest(Manifest("fruit", tuple(labels), tuple(records)), file)
        names = np.array(labels, dtype=object)
        columns = {"path": [str(path) for path in pictures], "label": names[targets], "predicted": names[p.argmax(1)]}
        columns |= {f"p_{label}": p[:, i].astype(np.float32) for i, label in enumerate(labels)}
        runs.write_parquet(run.path / runs.PREDICTIONS, pa.table(columns))
        log = MetricsLog(run.path / runs.HISTORY)
        for row in history(*phases) if rows is None else rows:
            log.append(row)
        return run.path

    return make
