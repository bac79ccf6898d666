"""Run a lesson: look at the data, show the source's head, train the cells of each part, compare them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.data.manifest import Manifest
from headstart.demo.snacks import render_snacks
from headstart.errors import ConfigError, ModelError
from headstart.files import write_json
from headstart.runs import Run, refuse_inside, sole_writer
from headstart.studies.cells import run_cells
from headstart.studies.compare import Comparison, compare_runs, with_failures
from headstart.studies.lessons import SOURCE, Lesson
from headstart.studies.progress import StudyProgress
from headstart.studies.recipes import Part

_TRAINED = ("name", "epochs", "trainable", "parameters")  # what is said of a phase


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        part: The part of the recipe.
        runs: Name of each cell -> its runs.
        comparison: What they say together; None for a source network, and where nothing was trained.
        left_out: The reason why nothing was trained, or ''.
        has_failed: Whether anything that was to be trained was not.
    """

    part: Part
    runs: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    comparison: Comparison | None = None
    left_out: str = ""
    has_failed: bool = False


def run_lesson(
    lesson: Lesson, *, progress: StudyProgress | None = None
) -> Iterator[Manifest | dict[str, Any] | Outcome]:
    """Run a lesson, and yield what each step says as soon as it is done.

    That is the data (with a contact sheet in the lesson's folder), the network to start from as `describe_backbone`
    says it, and each part. Cells that are finished in the folder are not run again. `recipe.json` there holds what is
    known so far.

    Args:
        lesson: The lesson, from `make_lesson`.
        progress: Shows how far the lesson is.

    Raises:
        HeadstartError: Data, weights or a folder is not usable, or another command runs a lesson there.
    """
    refuse_inside(lesson.out, lesson.data, "--out")
    with sole_writer(lesson.out):
        yield from _steps(lesson, progress or StudyProgress(None))


def _steps(lesson: Lesson, progress: StudyProgress) -> Iterator[Manifest | dict[str, Any] | Outcome]:
    """Yield the data, the network to start from, and each part."""
    from headstart.experiment.sheet import show_data
    from headstart.models.backbones import create_backbone, describe_backbone

    first = lesson.cells(lesson.parts[0])[0].config
    with progress:
        manifest = show_data(first, lesson.out / "contact-sheet.png", display=progress.of_run())
    yield manifest
    if lesson.source is not None:
        part = Part(name=SOURCE, question="the source network", cells=(SOURCE,))
        yield Outcome(part, _train_source(lesson, progress))
    yield describe_backbone(create_backbone(lesson.backbones[0], weights=lesson.weights))
    for part in lesson.parts:
        outcome = _run_part(lesson, part, progress)
        _write_summary(lesson, outcome)
        yield outcome


def _train_source(lesson: Lesson, progress: StudyProgress) -> dict[str, tuple[Run, ...]]:
    """Train the network to start from, on pictures that are drawn first where the lesson says so."""
    folder = Path(lesson.source or "")
    if lesson.drawing and not folder.exists():
        with progress:
            # Another seed than the catalogue's: those pictures may be the target.
            render_snacks(folder, seed=1, **lesson.drawing, progress=progress.of_run().progress)
    return run_cells([lesson.pretraining()], [0], lesson.out, progress=progress)


def _run_part(lesson: Lesson, part: Part, progress: StudyProgress) -> Outcome:
    """Run the cells of a part and compare them; a part that cannot be run here is left out."""
    if part.needs == "backbones" and len(lesson.backbones) < 2:
        return Outcome(part, left_out="it puts several networks side by side; name them: --backbone NAME,NAME")
    failed: dict[str, str] = {}
    try:
        runs = run_cells(lesson.cells(part), lesson.seeds, lesson.out, progress=progress, failed=failed)
    except (ConfigError, ModelError) as error:
        if part.needs != "source classes":
            raise
        return Outcome(part, left_out=str(error))
    if not runs:
        reasons = [f"{name}: {why}" for name, why in failed.items()]
        return Outcome(part, left_out="; ".join(reasons), has_failed=True)
    comparison = with_failures(compare_runs(runs), failed)
    write_json(lesson.comparison_file(part), comparison.to_dict(relative_to=lesson.out))
    return Outcome(part, runs, comparison, has_failed=bool(failed))


def _write_summary(lesson: Lesson, outcome: Outcome) -> None:
    """Write a part into recipe.json, beside what was noted of others before."""
    file = lesson.out / "recipe.json"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, LookupError, TypeError):  # none there, or a damaged one
        known = dict(json.loads(file.read_bytes())["parts"])
    comparison = None
    if outcome.comparison is not None:
        comparison = outcome.comparison.to_dict(relative_to=lesson.out)
    part = {
        "question": outcome.part.question,
        "left_out": outcome.left_out,
        "published": [figure.model_dump() for figure in outcome.part.published],
        "comparison": comparison,
        "trained": trained_parameters(outcome.runs),
    }
    summary = {
        "recipe": lesson.recipe.name,
        "title": lesson.recipe.title,
        "question": lesson.recipe.question,
        "quick": lesson.is_quick,
        "data": lesson.data,
        "backbones": list(lesson.backbones),
        "weights": lesson.weights,
        "seeds": list(lesson.seeds),
        "notes": list(lesson.recipe.notes),
        "parts": {**known, outcome.part.name: part},
    }
    write_json(file, summary)


def trained_parameters(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[dict[str, Any]]]:
    """Return, per cell, what each phase of its first run trained: name, epochs, trainable and all parameters."""
    trained: dict[str, list[dict[str, Any]]] = {}
    for cell, found in runs.items():
        if not found:
            continue
        trained[cell] = []
        for phase in found[0].plan()["phases"]:
            trained[cell].append({key: phase[key] for key in _TRAINED})
    return trained
