"""The record of a run: what is written into its folder, and when."""

import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headstart import runs
from headstart.config import Config, dump_config, make_config
from headstart.data.catalog import licence_of_data
from headstart.data.manifest import ImageRecord, Manifest, write_manifest
from headstart.experiment.experiment import Experiment
from headstart.files import write_atomic, write_json
from headstart.inference.model_card import render_model_card
from headstart.machine import environment
from headstart.models.classifier import ClassifierNetwork
from headstart.resolved import Resolved
from headstart.runs import Run
from headstart.training.plan_table import tabulate_plan

_SCORE = Path(runs.CHECKPOINTS) / "selection" / "score.json"


def create(experiment: Experiment, out: Path, *, overwrite: bool) -> Run:
    """Create the folder of a run, with all that is known before it trains.

    Raises:
        RunError: The folder is occupied, or cannot be written.
    """
    assert experiment.report is not None
    buffer = io.BytesIO()
    write_manifest(experiment.manifest, buffer)
    model = experiment.model
    tables = tabulate_plan(experiment.plan, model.network, model.stages)
    plan = {"strategy": experiment.plan.strategy, "phases": [asdict(table) for table in tables]}
    files: dict[str, bytes | str] = {
        runs.CONFIG: dump_config(_config_to_repeat(experiment)),
        runs.RESOLVED: experiment.resolved.to_json(),
        runs.ENVIRONMENT: json.dumps(environment(experiment.config.seed), indent=2),
        runs.DATA_REPORT: json.dumps(experiment.report.to_dict(), indent=2, ensure_ascii=False),
        runs.PLAN: json.dumps(plan, indent=2),
        runs.MANIFEST: buffer.getvalue(),
    }
    return runs.create_run_folder(out, files, overwrite=overwrite)


def _config_to_repeat(experiment: Experiment) -> Config:
    """Return the settings for config.yaml: with the table that a file held, and without the run that was repeated.

    The file, and the run, may not be there any more when this run is repeated.
    """
    asked = experiment.config
    resolved = experiment.resolved
    if resolved.table is not None:
        asked = asked.model_copy(update={"strategy": resolved.strategy, "table": resolved.table})
    return make_config(asked.model_dump(exclude_unset=True, exclude={"repeat"}))


def add_refused_engines(run: Run, reasons: Sequence[str]) -> None:
    """Note in environment.json which engines this machine has and did not use, and why."""
    if not reasons:
        return
    facts = run.environment()
    known = facts.get("refused_engines", [])
    facts["refused_engines"] = list(dict.fromkeys([*known, *reasons]))
    write_json(run.path / runs.ENVIRONMENT, facts)


def write_resolved(run: Run, resolved: Resolved) -> None:
    """Write what has been decided since the run began."""
    write_atomic(run.path / runs.RESOLVED, resolved.to_json())


def write_score(run: Run, score: dict[str, Any]) -> None:
    """Keep the score of the settings until the run is finished."""
    write_json(run.path / _SCORE, score)


def read_score(run: Run) -> dict[str, Any] | None:
    """Return the score that was kept, or None."""
    if not (run.path / _SCORE).exists():
        return None
    score: dict[str, Any] = json.loads((run.path / _SCORE).read_bytes())
    return score


def score_of(
    figures: dict[str, Any], manifest: Manifest, records: Sequence[ImageRecord], seconds: float
) -> dict[str, Any]:
    """Return what ranks settings: figures on images that are not reported."""
    images = sorted(f"{record.sha256} {manifest.labels[record.label]}\n" for record in records)
    return {
        "split": manifest.selection or "inner validation",
        "num_images": len(records),
        "log_loss": figures["log_loss"],
        "accuracy": figures["accuracy"]["value"],
        # Two scores compare only where they are of the same images.
        "images_sha256": hashlib.sha256("".join(images).encode()).hexdigest(),
        "time_s": round(seconds, 2),
    }


def write_card(run: Run, experiment: Experiment, model: ClassifierNetwork, metrics: dict[str, Any]) -> None:
    """Write the model card."""
    licence = licence_of_data(experiment.config.data)
    card = render_model_card(model, metrics, data_name=experiment.manifest.name, data_licence=licence)
    write_atomic(run.model_folder / "README.md", card)


def write_metrics(run: Run, metrics: dict[str, Any]) -> None:
    """Write the final figures; last, because a run with this file counts as complete."""
    write_json(run.path / runs.METRICS, metrics)


def remove_checkpoints(run: Run) -> None:
    """Remove what a finished run needs no more: three to four times the bytes of its weights."""
    shutil.rmtree(run.path / runs.CHECKPOINTS, ignore_errors=True)
