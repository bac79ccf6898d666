"""A run folder that version 0.1 wrote is still read, by everything that reads runs."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from headstart.stats.confusion import read_confusion

FIXTURES = Path(__file__).parents[1] / "fixtures"
LABELS = ["apple", "leaf", "sky"]
SMALL = ("--backbone", "simple-cnn", "--image-size", "16", "--augment", "flip")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `old` in the current one, with its pictures in `fruit` beside it."""
    shutil.copytree(FIXTURES / "fruit", tmp_path / "fruit")
    folder = shutil.copytree(FIXTURES / "run-0.1", tmp_path / "old")
    for name in ("manifest.parquet", "predictions.parquet"):
        make_absolute(folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path("old")


def make_absolute(file: Path, root: Path) -> None:
    """Put the folder before the paths of a table, as they had it before they came into the repository."""
    table = pq.read_table(file)
    paths = [str(root / path) for path in table.column("path").to_pylist()]
    column = table.schema.get_field_index("path")
    pq.write_table(table.set_column(column, table.schema.field("path"), pa.array(paths, pa.string())), file)


def figures(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return values


def check_same(found: Mapping[str, Any], stored: Mapping[str, Any], tolerance: float) -> None:
    """Compare figures: counts and shares exactly, what is computed from probabilities nearly."""
    for key in ("split", "num_images", "accuracy", "balanced_accuracy", "macro_f1", "per_class"):
        assert found[key] == stored[key], key
    assert read_confusion(found) == read_confusion(stored)
    for key in ("log_loss", "ece"):
        assert found[key] == pytest.approx(stored[key], abs=tolerance), key


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def copy_with(run: Path, target: Path, changes: Sequence[tuple[str, str, str]]) -> Path:
    """Copy a run and change a place in each of some files."""
    shutil.copytree(run, target)
    for name, before, after in changes:
        edit(target / name, before, after)
    return target


def test_evaluate(headstart, old):
    outcome = headstart("evaluate", old, "fruit", "--format", "json", "--predictions", "rows.parquet")
    understood = "data: 27 images of 3 classes: apple 9, leaf 9, sky 9\nsplits: train 15, validation 12\n"
    assert (outcome.code, outcome.err) == (0, understood)
    check_same(json.loads(outcome.out), figures(old), 1e-3)
    assert json.loads(outcome.out)["seen_by_the_model"] == []
    found, stored = pq.read_table("rows.parquet"), pq.read_table(old / "predictions.parquet")
    assert found.column_names == stored.column_names
    assert found.select(["path", "label", "predicted"]) == stored.select(["path", "label", "predicted"])


def test_evaluate_knows_what_the_run_has_seen(headstart, old):
    outcome = headstart("evaluate", old, "fruit", "--split", "train")
    assert outcome.code == 0
    seen = "note: the model was trained on 15 of these 15 images, so the figure is optimistic\n"
    assert outcome.err.endswith(f"validation 12\n{seen}")
    # Its model folder finds the manifest beside it.
    assert headstart("evaluate", old / "model", "fruit", "--split", "train").err == outcome.err


@pytest.mark.parametrize("model", ["old", "old/model", "copied"])
def test_predict(headstart, old, model):
    shutil.copytree(old / "model", "copied")
    outcome = headstart("predict", model, "fruit/val", "--format", "json", "--top-k", "3")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    stored = pq.read_table(old / "predictions.parquet").to_pylist()
    assert [row["label"] for row in found] == [row["predicted"] for row in stored]
    for row, wanted in zip(found, stored, strict=True):
        assert Path(row["path"]).resolve() == Path(wanted["path"])
        probabilities = {each["label"]: each["probability"] for each in row["top"]}
        assert probabilities == pytest.approx({label: wanted[f"p_{label}"] for label in LABELS}, abs=1e-3)


def test_report(headstart, old):
    outcome = headstart("report", old)
    assert (outcome.code, outcome.err) == (0, "drawing where the network of old looks\n")
    page = (old / "report.html").read_text()
    assert "0.833" in page
    assert "Left out of this page" not in page
    explanations = json.loads((old / "explanations" / "explanations.json").read_text())
    assert explanations["images"]
    names = {path.name for path in (old / "report").iterdir()}
    assert {"accuracy.png", "confusion.png", "loss.png"} <= names


def test_compare(headstart, old):
    seed = [("config.yaml", "\nseed: 3\n", "\nseed: 4\n"), ("metrics.json", '"seed": 3', '"seed": 4')]
    copy_with(old, Path("other-seed"), seed)
    copy_with(old, Path("other-rate"), [("config.yaml", "\nlr: 0.003\n", "\nlr: 0.004\n")])
    outcome = headstart("compare", old, "other-seed", "other-rate", "--format", "json")
    assert outcome.code == 0, outcome.err
    comparison = json.loads(outcome.out)
    rows = {len(row["seeds"]): row for row in comparison["rows"]}
    assert rows[2]["seeds"] == [3, 4]
    assert rows[1]["seeds"] == [3]
    accuracy = figures(old)["accuracy"]["value"]
    for row in rows.values():
        assert row["accuracies"] == [accuracy] * len(row["seeds"])
        assert (row["strategy"], row["backbone"]) == ("scratch", "simple-cnn")
        assert row["trainable_parameters"] == figures(old)["trainable_parameters"]
    assert comparison["ranked_by"] == "accuracy"
    assert comparison["num_images"] == 12


def test_repeat(headstart, old):
    outcome = headstart("train", "--config", old / "config.yaml", "--out", "again")
    assert outcome.code == 0, outcome.err
    found, stored = figures(Path("again")), figures(old)
    check_same(found, stored, 0.02)
    for key in ("strategy", "backbone", "seed", "trainable_parameters", "epochs_run", "best_epochs"):
        assert found[key] == stored[key], key
    # The number of epochs was chosen then; nothing is selected again.
    with Path("again/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fit"], row["epoch"]) for row in rows] == [("final", str(epoch)) for epoch in range(1, 7)]
    weights, known = load_file("again/model/model.safetensors"), load_file(old / "model/model.safetensors")
    assert weights.keys() == known.keys()
    for name, tensor in weights.items():
        assert tensor.sub(known[name]).abs().max() < 0.01, name


def test_start_from_its_weights(headstart, old):
    outcome = headstart("train", "fruit", *SMALL, "--weights", old, "--strategy", "head", "--epochs", 1, "--out", "new")
    assert outcome.code == 0, outcome.err
    # All of its classes are among the data's, so its head goes on.
    assert figures(Path("new"))["head_starts_from"] == {"apple": "0 (apple)", "leaf": "1 (leaf)", "sky": "2 (sky)"}
    assert "the rows are those of old" in outcome.err
    delta = headstart("delta", "new", "--out", "new.safetensors")
    assert delta.code == 0, delta.err
    assert Path("new.safetensors").stat().st_size < Path("new/model/model.safetensors").stat().st_size / 10
    assert headstart("rebuild", "new.safetensors", "--weights", old, "--out", "rebuilt").code == 0
    model = Path("model.safetensors")
    assert Path("rebuilt", model).read_bytes() == Path("new/model", model).read_bytes()


def test_delta_of_random_weights_is_refused(headstart, old):
    outcome = headstart("delta", old)
    assert outcome.code == 2
    assert outcome.err == "error: old started from random weights, so all of it is new; copy old/model instead\n"


def test_a_finished_run_is_not_resumed(headstart, old):
    outcome = headstart("train", "--resume", old)
    assert outcome.code == 0
    assert outcome.err == "old is already complete; nothing was done\n"
    assert "accuracy 0.833" in outcome.out


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_unfinished_run_goes_on_or_is_refused_in_one_line(headstart, old, has_begun):
    stored = figures(old)
    shutil.rmtree(old / "model")
    for name in ("metrics.json", "predictions.parquet", *(() if has_begun else ("metrics.csv",))):
        (old / name).unlink()
    outcome = headstart("train", "--resume", old)
    if outcome.code == 0:
        check_same(figures(old), stored, 0.02)
        return
    assert outcome.code == 2
    *notes, error = outcome.err.splitlines()
    assert error.startswith("error: ")
    assert len(notes) <= 1
    assert not (old / "metrics.json").exists()
