"""What people do around a run: measure a model on a folder, find a learning rate, keep only what a run changed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart import runs
from headstart.config import Config
from headstart.data.dataset import load_dataset
from headstart.data.manifest import ImageRecord, read_manifest
from headstart.display import Display
from headstart.engines.engine import NUM_SAMPLES
from headstart.engines.samples import made_pictures
from headstart.errors import DataError, RunError
from headstart.experiment.experiment import Experiment
from headstart.experiment.network import build_backbone
from headstart.experiment.reading import show_report
from headstart.experiment.settings import strategy_of
from headstart.features.supply import FeatureSupply
from headstart.files import make_parent
from headstart.inference.evaluate import evaluate
from headstart.inference.predict import load
from headstart.inference.torch_model import add_graph
from headstart.models.backbones import create_backbone
from headstart.models.classifier import ClassifierNetwork
from headstart.models.delta import load_delta, read_factors, read_info, save_delta
from headstart.models.saved import load_classifier, save_classifier
from headstart.training.lr_find import LEFT_OUT, RangeTest, find_lr
from headstart.training.plan import Phase
from headstart.training.rest_row import start_rest_row
from headstart.types import Layout

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def evaluate_folder(
    model: Path,
    data: str,
    *,
    display: Display,
    layout: Layout = "auto",
    label_map: dict[str, str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    predictions: Path | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Measure a saved model on labelled images, matching labels by name.

    Args:
        model: Run folder or model folder.
        data: Folder, manifest or catalogue name; a folder without splits is taken whole.
        display: Told what goes on.
        layout: How the folders of the data are read; see `headstart.data.layouts`.
        label_map: Classes of the data to merge.
        exclude: Classes of the data to leave out.
        split: Name of the split to measure on; default: the one that a run on this data would report.
        predictions: File to write with a row per image, or None.
        skip_bad: Whether unreadable images are left out.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        engine: `auto`, `openvino`, `torch-compiled` or `torch`.
        precision: `auto`, `32` or `bf16`.

    Returns:
        The figures of metrics.json.

    Raises:
        HeadstartError: The model, the data or the split is not usable.
    """
    if predictions is not None:
        runs.check_output(predictions, data, "--predictions")
    classifier = load(model, device=device, engine=engine, precision=precision)
    manifest, report = load_dataset(
        data,
        layout=layout,
        label_map=label_map,
        exclude=exclude,
        leaks="keep",
        skip_bad=skip_bad,
        single_split_ok=True,
        progress=display.progress,
        known=classifier.labels,
    )
    show_report(report, display)

    # The images to measure on.
    chosen = split
    if not chosen:
        chosen = manifest.reported if manifest.reported in manifest.splits else manifest.splits[0]
    records = manifest.of_split(chosen)
    if not records:
        raise DataError(f"{data} has no split {chosen!r}; it has {', '.join(manifest.splits)}")
    seen = _overlap_with_training(model, records)
    for line in seen:
        display.note(line)

    metrics, table = evaluate(classifier, records, manifest.labels, source=manifest.source, progress=display.progress)
    classifier.tell_refused(display)
    if predictions is not None:
        make_parent(predictions)
        runs.write_parquet(predictions, table)
    return {**metrics, "split": chosen, "seen_by_the_model": seen}


def _overlap_with_training(model: Path, records: Sequence[ImageRecord]) -> list[str]:
    """Say how many of the images a run has learnt from or selected on; a model folder alone does not know."""
    run = runs.run_of_model(model)
    if run is None:
        return []
    known = read_manifest(run.path / runs.MANIFEST)
    config = run.config()

    # The same images.
    uses = {"was trained on": "train"}
    selecting = known.reported if config.select_on == "reported" else known.selection
    if selecting is not None and config.selects and run.resolved().stop_after is None:
        uses["selected its epoch on"] = selecting
    lines = []
    for use, split in uses.items():
        used = {record.sha256 for record in known.of_split(split)}
        num_used = sum(record.sha256 in used for record in records)
        if num_used:
            lines.append(f"the model {use} {num_used} of these {len(records)} images, so the figure is optimistic")

    # Other images of the same groups.
    trained_groups = {record.group for record in known.of_split("train")} - {None}
    num_of_trained = sum(record.group in trained_groups for record in records)
    if num_of_trained:
        lines.append(
            f"{num_of_trained} of these {len(records)} images have a group that the model was also trained on, judged "
            "by its name, so the figure is optimistic"
        )
    return lines


def find_learning_rate(
    config: Config, plot: Path, *, low: float, high: float, num_steps: int, display: Display
) -> tuple[RangeTest, str]:
    """Run a range test for the first phase of a config's plan that is trained; nothing is kept of the model.

    Args:
        config: Settings; what acts on the whole of training (mixing, averaging, clipping, accumulation) is left out.
        plot: File that the caller will draw the result into; refused among the user's images.
        low: First learning rate.
        high: Last learning rate.
        num_steps: Steps between them.
        display: Told what goes on.

    Returns:
        What the test saw, and the setting that the suggestion is a value for.

    Raises:
        HeadstartError: Settings or data are not usable, or the plot could not be written.
        TrainingError: The loss was never finite, or the test was too short to show a slope.
    """
    runs.check_output(plot, config.data, "--plot", *PICTURE_SUFFIXES, ".pdf", ".svg")
    left_out = [name for name, off in LEFT_OUT.items() if getattr(config, name) != off]
    if left_out:
        display.note(f"the range test leaves out {', '.join(left_out)}")
    experiment = Experiment.prepare(config, display=display)
    model = experiment.model
    fabric = experiment.fabric

    def supply_of(trial: ClassifierNetwork) -> FeatureSupply:
        """Feed a copy of the network with the training images."""
        return experiment.supply(experiment.train, model=trial)

    fabric.to_device(model.network)
    start_rest_row(model, supply_of(model), None, display.note)
    index = _first_trained(experiment.plan.phases)
    result = find_lr(
        model,
        experiment.plan.phases[index],
        supply_of,
        experiment.fit_settings,
        fabric,
        low=low,
        high=high,
        num_steps=num_steps,
    )
    return result, _rate_setting(experiment, index)


def _first_trained(phases: Sequence[Phase]) -> int:
    """Return the number of the first phase that is trained and not solved; 0 where all are solved."""
    for index, phase in enumerate(phases):
        if phase.solver == "loop":
            return index
    return 0


def _rate_setting(experiment: Experiment, index: int) -> str:
    """Name the setting that decides the rate of a phase."""
    config = experiment.config
    phases = experiment.plan.phases
    strategy = strategy_of(config)
    if strategy.table is not None:
        return f"lr of phase {phases[index].name!r} in the table"
    if config.phase_lrs or 0 < index < len(phases) - 1:
        return f"--phase-lrs, number {index + 1}:"
    if index == 0 and strategy.row.starts_with_head:
        return "--head-lr"
    return "--lr"


def write_delta(path: Path, out: Path) -> None:
    """Write a file of only what a run changed in the pretrained network that it started from.

    Args:
        path: Run folder.
        out: The file.

    Raises:
        ConfigError: `out` is a folder.
        RunError: The run is not finished, there was nothing pretrained, or the file cannot be written.
        ModelError: The weights that it started from are not there.
    """
    runs.check_output(out, "", "--out")
    run = runs.open_run(path)
    run.metrics()  # refuses a run that is not finished
    base = build_backbone(run.config(), run.resolved())
    if base.weights == "none":
        raise RunError(f"{path} started from random weights, so all of it is new; copy {run.model_folder} instead")
    make_parent(out)
    save_delta(load_classifier(run.model_folder), base, out, factors=read_factors(run.model_folder))


def rebuild_model(delta: Path, out: Path, *, weights: str | None = None) -> None:
    """Put a file of `write_delta` onto its pretrained network, and write the model folder.

    Args:
        delta: The file.
        out: Model folder, not there yet or empty.
        weights: Weight file or run folder that it was trained from; None: the published weights of its backbone.

    Raises:
        ModelError: The file is no delta, or belongs on other weights.
        RunError: The folder is occupied or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty; choose another --out")
    runs.check_parent(out)
    info = read_info(delta)
    base = create_backbone(info.backbone, weights=weights)
    if base.spec.size != info.spec.size:  # position embeddings were made for the size
        base = create_backbone(info.backbone, weights=weights, image_size=info.spec.size[0])
    save_classifier(load_delta(delta, base), out)
    add_graph(out, made_pictures(info.spec, NUM_SAMPLES))
