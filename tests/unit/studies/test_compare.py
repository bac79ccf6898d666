"""Studies: cells, folders that resume, ranking, and what is refused."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from headstart import experiment, runs
from headstart.config import Config, dump_config, make_config
from headstart.data.manifest import ImageRecord, Manifest, write_manifest
from headstart.display import Display
from headstart.errors import ConfigError, DataError, HeadstartError, RunError
from headstart.experiment import tools
from headstart.experiment.resolve import decide
from headstart.runs import open_run
from headstart.stats.intervals import wilson_interval
from headstart.studies.cells import run_cells
from headstart.studies.compare import compare, compare_runs
from headstart.studies.grid import make_cells, parse_vary
from headstart.studies.progress import TimeLeft, duration
from headstart.studies.reported import common_groups, group_runs, read_reported
from headstart.types import StepChoice
from tests.helpers.pictures import COLOURS

TINY = {
    "backbone": "simple-cnn", "image_size": 32, "augment": "flip", "epochs": 1, "batch_size": 8, "tune": "off",
    "engine": "torch", "precision": "32", "threads": 1, "monitor": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.glob("*/seed*/**/*")
        if path.is_file()
    }


# Cells


def test_cells_combine_strategies_backbones_and_values():
    shared, backbones = Config(epochs=2, seed=4, out="x"), ("lite0", "resnet18")
    cells = make_cells(shared, strategies=("head", "full"), backbones=backbones, vary={"lr": [1e-3, 0.1]})
    assert [cell.name for cell in cells] == [
        f"{backbone}: {strategy}, lr={lr}"
        for backbone in ("lite0", "resnet18") for strategy in ("head", "full") for lr in (0.001, 0.1)
    ]  # fmt: skip
    last = cells[-1].config
    assert (last.backbone, last.strategy, last.lr, last.epochs) == ("resnet18", "full", 0.1, 2)
    assert not {"seed", "out"} & last.model_fields_set
    assert len({cell.slug for cell in cells}) == 8


def test_a_setting_without_effect_makes_no_further_cell():
    cells = make_cells(Config(), strategies=("head", "full"), vary=parse_vary(["head-lr-mult=1,10,100"]))
    assert [cell.name for cell in cells] == ["head", *(f"full, head_lr_mult={m}" for m in (1, 10, 100))]
    assert cells[-1].config.head_lr_mult == 100.0


def test_what_a_table_that_is_not_read_yet_may_use_is_varied(tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text("parts: lora\nphases: [{rules: {'*': 1}}]")
    for setting, values in {"lora_rank": "2,8", "lora_alpha": "8,16", "stages": "1,2", "solver": "loop,lbfgs"}.items():
        cells = make_cells(Config(), strategies=[str(table)], vary=parse_vary([f"{setting}={values}"]))
        assert [cell.name for cell in cells] == [f"mine, {setting}={value}" for value in values.split(",")]
    cells = make_cells(Config(), strategies=[str(table)], vary=parse_vary(["head_lr_mult=1,10"]))
    assert [cell.name for cell in cells] == ["mine"]


def test_scratch_beside_given_weights_starts_from_random_ones():
    scratch, full = make_cells(Config(weights="w.pth", strategy="full"), strategies=("scratch", "full"))
    assert (scratch.config.weights, full.config.weights) == (None, "w.pth")


def test_scratch_is_compared_with_a_head_that_starts_from_the_source():
    shared = Config(head_init="source", match={"a": "934"}, strategy="full")
    scratch, full = make_cells(shared, strategies=("scratch", "full"))
    assert (scratch.config.head_init, scratch.config.match, full.config.head_init) == ("random", {}, "source")
    cells = make_cells(Config(), strategies=("scratch", "head"), vary={"head_init": ["random", "source"]})
    assert [cell.name for cell in cells] == ["scratch", "head, head_init=random", "head, head_init=source"]


def test_two_tables_of_one_name_are_refused(tmp_path):
    for folder, lr in (("a", 1e-3), ("b", 1e-2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(f"phases: [{{lr: {lr}, rules: {{'*': 1}}}}]")
    with pytest.raises(ConfigError, match="two strategies are called 'mine'"):
        make_cells(Config(), strategies=[str(tmp_path / name / "mine.yaml") for name in "ab"])


def test_values_that_hold_commas():
    assert parse_vary(["phase_epochs=1,2;3,4"]) == {"phase_epochs": ["1,2", "3,4"]}
    cells = make_cells(Config(), strategies=("lp-ft",), vary={"phase_epochs": ["1,2", "3,4"]})
    assert [cell.config.phase_epochs for cell in cells] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"learning_rate": ["1"]}, "no such setting"),
        ({"leaning_rate_lr": ["1"]}, "no such setting"),
        ({"split_seed": ["0", "1"]}, "the same images"),
        ({"seed": ["0", "1"]}, "use --seeds"),
        ({"lr": ["1e-3", "1e-3"]}, "no two alike"),
        ({"lr": ["high"]}, "--vary lr=high: lr='high' is not valid"),
    ],
)
def test_what_cannot_be_varied_is_refused(vary, message):
    with pytest.raises(ConfigError, match=message):
        make_cells(Config(), strategies=("full",), vary=vary)


@pytest.fixture
def planned(monkeypatch):
    """What a study would run, and where; nothing is."""
    found = []

    def run_cells(cells, seeds, out, **rest):
        found.append((cells, out))
        return {}

    monkeypatch.setattr("headstart.studies.compare.run_cells", run_cells)
    return found


@pytest.mark.parametrize(("flags", "is_scored"), [((), True), (("--no-selection-score",), False)])
def test_a_runs_settings_are_scored_unless_that_was_refused(headstart, planned, tmp_path, flags, is_scored):
    (tmp_path / "config.yaml").write_text(dump_config(Config(data="fruit")))
    words = ("fruit", "--config", tmp_path / "config.yaml", "--strategies", "head,full")
    assert "every cell failed" in headstart("compare", *words, *flags)[2]
    assert [cell.config.selection_score for cell in planned[0][0]] == [is_scored] * 2


@pytest.mark.parametrize("selection_score", [True, False])
def test_an_explicit_choice_to_score_or_not_holds_beside_a_table_of_ones_own(planned, selection_score):
    table = {"phases": [{"rules": {"*": 1}}]}
    config = Config(data="fruit", strategy="mine", table=table, selection_score=selection_score)
    with pytest.raises(RunError, match="every cell failed"):
        compare(config, strategies=("mine", "head"))
    assert [cell.config.selection_score for cell in planned[0][0]] == [selection_score] * 2
    assert planned[0][0][0].config.table == table


@pytest.mark.parametrize(
    ("data", "folder"),
    [("photos.v1", "photos.v1"), ("photos.v2/", "photos.v2"), ("lists/table.csv", "table")],
)
def test_a_study_is_called_as_its_runs_are(planned, tmp_path, monkeypatch, data, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="every cell failed"):
        compare(Config(data=data), strategies=("head", "full"))
    assert planned[0][1] == Path("runs") / f"compare-{folder}"


# Studies that train


@pytest.fixture(scope="module")
def study(image_folder, tmp_path_factory):
    torch.set_num_threads(1)
    config = make_config({**TINY, "data": str(image_folder), "out": str(tmp_path_factory.mktemp("study") / "s")})
    return config, compare(config, strategies=("scratch", "head"), seeds=2)


def test_a_study_has_a_run_for_every_cell_and_seed(study):
    config, comparison = study
    out = Path(config.out)
    assert {row.name: row.seeds for row in comparison.rows} == {"scratch": (0, 1), "head": (0, 1)}
    assert all(path.parent.parent == out for row in comparison.rows for path in row.runs)
    saved = json.loads((out / "comparison.json").read_text())
    assert saved["rows"][0]["runs"] == [f"{comparison.rows[0].name}/seed{seed}" for seed in (0, 1)]
    assert comparison.ranked_by == "selection"
    assert comparison.num_selection_images == 6  # a fifth of 36, two of each of three classes
    assert not list(out.glob("*/*/checkpoints"))
    for row in comparison.rows:
        metrics = [open_run(path).metrics() for path in row.runs]
        assert row.accuracies == tuple(each["accuracy"]["value"] for each in metrics)
        assert row.selection_log_loss == pytest.approx(sum(each["selection"]["log_loss"] for each in metrics) / 2)
        assert row.peak_memory_mb is None or row.peak_memory_mb > 50
    assert comparison.rows[0].selection_log_loss <= comparison.rows[1].selection_log_loss


def test_a_second_call_trains_nothing(study):
    config, comparison = study
    before = files_of(Path(config.out))
    again = compare(config, strategies=("scratch", "head"), seeds=2)
    assert files_of(Path(config.out)) == before
    assert again == comparison


def test_a_study_from_a_source_head_trains_as_train_does_and_goes_on(study, tmp_path):
    config, comparison = study
    source = next(row.runs[0] for row in comparison.rows if row.name == "scratch")
    config = make_config({**TINY, "data": config.data, "weights": str(source), "out": str(tmp_path / "s")})
    compare(config, strategies=("head", "full"), seeds=1)  # it knows the classes, so its head goes on
    found = {name: open_run(tmp_path / "s" / name / "seed0").resolved() for name in ("head", "full")}
    alone = experiment.train(config.model_copy(update={"strategy": "head", "out": str(tmp_path / "alone")})).resolved()
    assert found["head"].head_init == alone.head_init == "source"
    assert found["head"].lr == alone.lr == 1e-3
    assert found["full"].head_lr == found["full"].lr
    before = files_of(tmp_path / "s")
    compare(config, strategies=("head", "full"), seeds=1)
    assert files_of(tmp_path / "s") == before


def test_a_run_is_no_place_for_a_study(study):
    config, comparison = study
    run = comparison.rows[0].runs[0]
    with pytest.raises(ConfigError, match="is a run; name another folder"):
        compare(config.model_copy(update={"out": str(run)}), strategies=("scratch", "head"))


def test_an_unfinished_run_is_resumed_and_a_new_seed_is_added(study, tmp_path):
    config, _ = study
    out = tmp_path / "s"
    shutil.copytree(config.out, out)
    broken, model = out / "head" / "seed1", Path("model") / "model.safetensors"
    weights = (broken / model).read_bytes()
    shutil.rmtree(broken / "model")
    (broken / "metrics.json").unlink()
    before = {name: file for name, file in files_of(out).items() if not name.startswith("head/seed1")}
    comparison = compare(config.model_copy(update={"out": str(out)}), strategies=("head", "scratch"), seeds=3)
    after = files_of(out)
    assert {name: after[name] for name in before} == before
    assert (broken / model).read_bytes() == weights
    assert {row.seeds for row in comparison.rows} == {(0, 1, 2)}


def test_a_new_seed_takes_over_what_timing_chose_for_the_others(study, tmp_path):
    config, _ = study
    shutil.copytree(Path(config.out) / "head" / "seed0", tmp_path / "s" / "head" / "seed0")
    begun, choice = open_run(tmp_path / "s" / "head" / "seed0"), StepChoice(precision="bf16")
    timed = begun.resolved().replace(steps=(choice,), stop_after=(1,))
    (begun.path / "resolved.json").write_text(timed.to_json())
    cells = make_cells(config.model_copy(update={"batch_size": 0}), strategies=("head",))
    run_cells(cells, [0, 1], tmp_path / "s")
    added = open_run(tmp_path / "s" / "head" / "seed1").resolved()
    assert (added.steps, added.stop_after) == ((choice,), None)
    assert added.batch_size == timed.batch_size == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"epochs": 2}, r"epochs=1 \(here 2\)"), ({"lr": 0.5}, r"lr=.* \(here 0.5\)"), ({"resize": [40]}, "resize=None")],
)
def test_a_folder_with_other_settings_is_refused(study, changes, message):
    config, _ = study
    before = files_of(Path(config.out))
    with pytest.raises(RunError, match=f"seed0 holds a run with other settings: .*{message}.*choose another --out"):
        compare(config.model_copy(update=changes), strategies=("partial", "scratch", "head"), seeds=2)
    assert files_of(Path(config.out)) == before


def test_a_folder_with_other_images_is_refused(study, make_folder):
    config, _ = study
    other = make_folder({f"{split}/{label}": 4 for split in ("train", "val") for label in COLOURS}, seed=9)
    before = files_of(Path(config.out))
    with pytest.raises(DataError, match=r"other images, labels or splits: 54 of its 54 .* 24 are new"):
        compare(config.model_copy(update={"data": str(other)}), strategies=("scratch", "head"), seeds=2)
    assert files_of(Path(config.out)) == before


def test_bad_settings_of_the_last_cell_are_found_before_the_first_trains(image_folder, tmp_path):
    config = make_config({**TINY, "data": str(image_folder), "out": str(tmp_path / "s")})
    for strategies, vary, message in (
        (("scratch", "hed"), {}, "Did you mean 'head'"),
        (("scratch", "partial"), {"stages": [99]}, "partial, stages=99: .*stages"),
        (("scratch",), {"backbone_": [1]}, "no such setting"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(config, strategies=strategies, vary=vary, seeds=1)
    with pytest.raises(ConfigError, match="nothing to compare it with"):
        compare(config, strategies=("head",))
    assert not (tmp_path / "s").exists()


def test_a_cell_that_fails_leaves_the_others_alone(headstart, image_folder, tmp_path):
    table = tmp_path / "odd.yaml"
    table.write_text("phases:\n  - rules: {nothing.like.this: 1.0, '*': null}\n")
    words = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items() if key != "monitor"]
    words += ["--no-monitor", "--vary", "lr=1e-3,1e30", "--seeds", "1", "--out", tmp_path / "s"]
    code, out, err = headstart("compare", image_folder, "--strategies", f"scratch,{table}", *words, "--format", "json")
    assert code == 1, err
    comparison = json.loads(out)
    assert [row["name"] for row in comparison["rows"]] == ["scratch, lr=1e-3"]
    assert "loss became" in comparison["failed"]["scratch, lr=1e30"]
    assert set(comparison["failed"]) == {"scratch, lr=1e30", "odd, lr=1e-3", "odd, lr=1e30"}
    assert sum("failed and is left out" in line for line in comparison["verdict"]) == 3
    assert "the others go on" in err
    cells = make_cells(make_config({**TINY, "data": str(image_folder)}), strategies=("scratch",), vary={"lr": ["1e30"]})
    with pytest.raises(RunError, match="scratch, lr=1e30 failed: seed 0: the loss became"):
        run_cells(cells, [0], tmp_path / "s")


# The score that ranks


def table_of(folder: Path, path: Path, splits: dict[str, str], swap: dict[str, str] | None = None) -> Path:
    """Write a manifest of a folder; `swap` exchanges labels of the reported images."""
    lines = ["path,label,split"]
    for file in sorted(folder.glob("*/*/*")):
        split, label = splits[file.parent.parent.name], file.parent.name
        label = (swap or {}).get(label, label) if split in ("test", "val") else label
        lines.append(f"{file},{label},{split}")
    path.write_text("\n".join(lines))
    return path


def fitted(data: Path, out: Path, **changes):
    settings = {**TINY, "strategy": "scratch", "selection_score": True, **changes}
    return experiment.train(make_config({**settings, "data": str(data), "out": str(out)}))


def fits_of(run) -> list[str]:
    return [row["fit"] for row in run.history()]


def test_the_score_does_not_depend_on_the_reported_images(image_folder, tmp_path):
    splits = {"train": "train", "val": "val"}
    plain = table_of(image_folder, tmp_path / "plain.csv", splits)
    swapped = table_of(image_folder, tmp_path / "swapped.csv", splits, {"apple": "leaf", "leaf": "sky", "sky": "apple"})
    one, other = (fitted(data, tmp_path / data.stem, epochs=4, lr=3e-3) for data in (plain, swapped))
    scores = [run.metrics()["selection"] for run in (one, other)]
    for score in scores:
        assert score.pop("time_s") > 0
    assert scores[0] == scores[1]
    assert (scores[0]["split"], scores[0]["num_images"]) == ("inner validation", 6)
    assert one.metrics()["log_loss"] != other.metrics()["log_loss"]
    assert fits_of(one) == ["selection"] * 4 + ["final"] * 4
    unscored = fitted(plain, tmp_path / "unscored", epochs=4, lr=3e-3, selection_score=False)
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (one, unscored)]
    assert weights[0] == weights[1]  # scoring leaves the model as it would have been
    assert "selection" not in unscored.metrics()


def test_a_validation_split_beside_a_test_split_scores_the_final_model(make_folder, tmp_path):
    sizes = {"train": 6, "val": 3, "test": 2}
    data = make_folder({f"{split}/{label}": size for split, size in sizes.items() for label in COLOURS})
    run = fitted(data, tmp_path / "run")
    measured = tools.evaluate_folder(run.path, str(data), display=Display(), split="validation", engine="torch")
    score = run.metrics()["selection"]
    assert (score["split"], score["num_images"], run.metrics()["split"]) == ("validation", 9, "test")
    assert score["log_loss"] == pytest.approx(measured["log_loss"], abs=1e-6)
    assert fits_of(run) == ["final"]


@pytest.mark.parametrize("refit", [True, False])
def test_a_run_that_selects_its_epoch_is_scored_by_that_fit(image_folder, tmp_path, refit):
    run = fitted(image_folder, tmp_path / "run", epochs=3, best_epoch=True, refit=refit, lr=3e-3)
    rows = run.history()
    chosen = "selection" if refit else "final"
    assert sum(row["fit"] == chosen for row in rows) == 3
    best = min(row["val_loss"] for row in rows if row["fit"] == chosen)
    assert run.metrics()["selection"]["log_loss"] == pytest.approx(best, abs=1e-4)


def test_where_the_reported_images_choose_the_epoch_others_score(image_folder, tmp_path):
    run = fitted(image_folder, tmp_path / "run", epochs=2, best_epoch=True, select_on="reported")
    assert fits_of(run) == ["selection"] * 2 + ["final"] * 2
    assert run.metrics()["selection"]["split"] == "inner validation"
    comparison = compare_runs({"scratch": [run]})
    assert any("select_on=reported" in line for line in comparison.verdict)


class _Stops(Display):
    """Interrupts a fit at its first step."""

    def __init__(self, moment):
        self._moment, self._title = moment, ""

    def begin_training(self, title, num_steps, done):
        self._title = title

    def step(self):
        if self._title == self._moment:
            raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["training", "scratch selection"])
def test_an_interrupted_run_keeps_its_score(image_folder, tmp_path, moment):
    config = {**TINY, "strategy": "scratch", "selection_score": True, "data": str(image_folder), "epochs": 2}
    whole = experiment.train(make_config({**config, "out": str(tmp_path / "whole")}))
    stopped = make_config({**config, "out": str(tmp_path / "stopped")})
    with pytest.raises(KeyboardInterrupt):
        experiment.train(stopped, display=_Stops(moment))
    run = experiment.resume(tmp_path / "stopped")
    assert fits_of(run) == fits_of(whole)
    score, expected = ({**each.metrics()["selection"], "time_s": 0} for each in (run, whole))
    assert score == expected


# Runs that exist: made by hand, so that what is right and what is scored can be chosen


def fake_run(
    folder: Path,
    right: str,
    score: float | None = None,
    *,
    seed=0,
    images="i",
    chosen="c",
    groups=None,
    first_label=0,
    **settings,
):
    """Write a run that reports `len(right)` images of two classes in turn, and was right where `right` has a 1."""
    records = []
    for n in range(len(right)):
        name = f"{images}{n:03}"
        label = (first_label + n) % 2
        records.append(ImageRecord(f"/{folder.name}/{name}", label, "validation", groups and groups[n], name))
    manifest = Manifest("set", ("ant", "bee"), tuple(records))
    labels = [manifest.labels[record.label] for record in records]
    wrong = {"ant": "bee", "bee": "ant"}
    predicted = [label if one == "1" else wrong[label] for label, one in zip(labels, right, strict=True)]
    metrics = {
        "split": "validation", "num_images": len(right), "seed": seed, "selected_on_reported": False,
        "accuracy": asdict(wilson_interval(right.count("1"), len(right))), "backbone": "lite0",
        "strategy": settings.get("strategy", "head"), "trainable_parameters": 10, "time_s": {"total": 3.0},
    }  # fmt: skip
    if score is not None:
        metrics["selection"] = {
            "split": "inner validation", "num_images": 5, "log_loss": score, "accuracy": 0.5, "images_sha256": chosen,
            "time_s": 1.0,
        }  # fmt: skip
    folder.mkdir(parents=True)
    config = make_config({"data": str(folder), "seed": seed, **settings})
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "resolved.json").write_text(decide(config, ("ant", "bee")).to_json())
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with (folder / "manifest.parquet").open("wb") as file:
        write_manifest(manifest, file)
    table = {"path": [record.key for record in records], "label": labels, "predicted": predicted}
    for name in manifest.labels:
        table[f"p_{name}"] = [float(name == one) for one in predicted]
    runs.write_parquet(folder / "predictions.parquet", pa.table(table))
    return open_run(folder)


def test_the_rank_follows_the_score_and_not_the_accuracy(tmp_path):
    lucky, good = fake_run(tmp_path / "a", "1" * 20, 0.5), fake_run(tmp_path / "b", "1" * 15 + "0" * 5, 0.2)
    comparison = compare_runs({"lucky": [lucky], "good": [good]})
    assert [row.name for row in comparison.rows] == ["good", "lucky"]
    assert [row.rank for row in comparison.rows] == [1, 2]
    assert comparison.differences["lucky"].difference == pytest.approx(-0.25)
    assert "5 images that are not reported" in comparison.verdict[0]
    assert [row.seconds for row in comparison.rows] == [2.0, 2.0]


def test_of_classes_of_one_size_the_first_by_name_is_the_baseline(tmp_path):
    cells = {name: [fake_run(tmp_path / name, "1" * 20, first_label=1)] for name in ("a", "b")}
    comparison = compare_runs(cells)
    assert comparison.baseline.label == "ant"
    assert "Always saying 'ant' would get 0.500 on these images." in comparison.verdict


@pytest.mark.parametrize("is_first", [True, False])
def test_groups_count_whichever_of_the_runs_knows_them(tmp_path, is_first):
    """A folder has no groups; a table of the same images may name them."""
    right = "1" * 16 + "0" * 4
    plain = fake_run(tmp_path / "plain", right)
    grouped = fake_run(tmp_path / "grouped", right, groups=[str(n // 4) for n in range(20)])
    cells = {"grouped": [grouped], "plain": [plain]} if is_first else {"plain": [plain], "grouped": [grouped]}
    comparison = compare_runs(cells)
    assert comparison.num_groups == 5
    assert comparison.rows[0].accuracy == comparison.rows[1].accuracy
    assert "in 5 groups" in comparison.rows[0].accuracy.method


def test_groups_of_two_runs_are_joined_where_they_overlap(tmp_path):
    pairs = fake_run(tmp_path / "pairs", "1" * 8, groups=["a", "a", "b", "b", "c", "c", None, None])
    chain = fake_run(tmp_path / "chain", "1" * 8, groups=[None, "x", "x", None, "y", "y", None, None])
    found = common_groups([read_reported(pairs), read_reported(chain)])
    assert [found.tolist().index(number) for number in found.tolist()] == [0, 0, 0, 0, 4, 4, 6, 7]


@pytest.mark.parametrize("scores", [(None, None), (0.5, None), (0.5, 0.2)])
def test_without_comparable_scores_the_first_is_called_optimistic(tmp_path, scores):
    cells = {
        name: [fake_run(tmp_path / name, right, score, chosen=name)]
        for name, right, score in zip(("a", "b"), ("1" * 20, "1" * 15 + "0" * 5), scores, strict=True)
    }
    comparison = compare_runs(cells)
    assert (comparison.ranked_by, comparison.rows[0].name) == ("accuracy", "a")
    assert "optimistic" in comparison.verdict[0]


@pytest.mark.parametrize(("num_seeds", "words"), [(1, "With one seed"), (2, "Two seeds say little"), (3, None)])
def test_few_seeds_are_called_few(tmp_path, num_seeds, words):
    cells = {
        name: [fake_run(tmp_path / f"{name}{seed}", right, 0.5, seed=seed) for seed in range(num_seeds)]
        for name, right in (("a", "1" * 20), ("b", "1" * 15 + "0" * 5))
    }
    said = [line for line in compare_runs(cells).verdict if "how much seeds differ" in line]
    assert [line.startswith(words or "-") for line in said] == [True] * bool(words)


def test_images_are_compared_by_content_and_class(tmp_path):
    a, same = fake_run(tmp_path / "a", "110" * 5), fake_run(tmp_path / "elsewhere", "011" * 5)
    assert compare_runs({"a": [a], "same": [same]}).num_images == 15
    fewer, others = fake_run(tmp_path / "b", "110" * 4), fake_run(tmp_path / "c", "110" * 5, images="j")
    with pytest.raises(DataError, match=r"15 and .* 12; 3 are in the first alone and 0 in the second, such as /a/i012"):
        compare_runs({"a": [a], "b": [fewer]})
    with pytest.raises(DataError, match="15 are in the first alone and 15 in the second"):
        compare_runs({"a": [a], "c": [others]})


def test_runs_that_differ_in_the_seed_alone_are_one_cell(tmp_path):
    made = [
        fake_run(tmp_path / "0", "10" * 5), fake_run(tmp_path / "1", "11" * 5, seed=1),
        fake_run(tmp_path / "2", "11", strategy="full"), fake_run(tmp_path / "3", "11", strategy="full", lr=0.1),
        fake_run(tmp_path / "4", "1" * 10, strategy="scratch"), fake_run(tmp_path / "5", "1" * 10, strategy="scratch"),
    ]  # fmt: skip
    grouped = group_runs([run.path for run in reversed(made)])
    assert {name: [run.path.name for run in each] for name, each in grouped.items()} == {
        "head": ["0", "1"], "full, lr=0.0003": ["2"], "full, lr=0.1": ["3"],
        f"scratch ({tmp_path}/4)": ["4"], f"scratch ({tmp_path}/5)": ["5"],
    }  # fmt: skip
    with pytest.raises(RunError, match="named twice"):
        group_runs([made[0].path, made[1].path, made[0].path])


def test_table_json_and_csv_say_the_same(headstart, tmp_path):
    fake_run(tmp_path / "a", "1101" * 10, 0.5)
    fake_run(tmp_path / "b", "1111" * 10, 0.2, strategy="full")
    words = ["compare", tmp_path / "a", tmp_path / "b"]
    code, table, _ = headstart(*words)
    assert code == 0
    saved = json.loads(headstart(*words, "--format", "json", "--out", tmp_path / "study")[1])
    assert [row["name"] for row in saved["rows"]] == ["full", "head"]
    rows = list(csv.DictReader(headstart(*words, "--format", "csv")[1].splitlines()))
    difference = saved["differences"]["head"]
    for plain, row in zip(rows, saved["rows"], strict=True):
        assert (plain["name"], int(plain["rank"])) == (row["name"], row["rank"])
        assert float(plain["accuracy"]) == row["accuracy"]["value"]
        assert (float(plain["low"]), float(plain["high"])) == (row["accuracy"]["low"], row["accuracy"]["high"])
        line = next(line for line in table.splitlines() if f"{row['rank']}. {row['name']}" in line)
        assert f"{row['accuracy']['value']:.3f}" in line
        assert f"{row['accuracy']['low']:.3f} to {row['accuracy']['high']:.3f}" in line
    assert float(rows[1]["first_minus_this"]) == difference["difference"]
    assert float(rows[1]["first_minus_this_p_holm"]) == difference["p_holm"]
    assert f"{100 * difference['difference']:+.1f} points" in table
    assert all(line in table for line in saved["verdict"])
    assert (tmp_path / "study" / "comparison.csv").read_text().splitlines()[0].startswith("rank,name,")
    assert json.loads((tmp_path / "study" / "comparison.json").read_text())["verdict"] == saved["verdict"]


def test_what_a_comparison_replaces_and_what_comes_next_are_said(headstart, tmp_path):
    strategies = {"head": "1101", "full": "1111", "partial": "1011"}
    head, full, partial = (fake_run(tmp_path / name, right, strategy=name).path for name, right in strategies.items())
    assert f"next: headstart report {full} {head}\n" in headstart("compare", full, head)[2]
    out = tmp_path / "study"
    for runs_of, replaced in (
        ((head, full), ""),
        ((head, full, partial), ""),
        ((head, partial), "full, head, partial"),
    ):
        err = headstart("compare", *runs_of, "--out", out)[2]
        assert err.count("note: this replaces") == bool(replaced)
        assert f"the comparison of {replaced} in {out}. Their runs are still there" in err or not replaced
        assert f"--comparison {out / 'comparison.json'}\n" in err
    assert err.splitlines()[-1].startswith(f"next: headstart report {head} {partial} ")
    (out / "comparison.json").write_text("damaged")
    assert headstart("compare", head, full, "--out", out)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "one run, with nothing to compare it with"),
        (["a", "nothing"], "nothing is no run folder"),
        (["a", "b", "--epochs", "3"], "leave out epochs"),
        (["a", "b", "--strategies", "head,full"], "leave out strategies"),
        (["a", "b", "--seeds", "3"], "leave out seeds"),
        (["fruit", "--strategies", "head,full", "--vary", "lr"], "setting=value"),
        ([], "no data given"),
        (["fruit", "--format", "xml"], "There are: table, json, csv"),
    ],
)
def test_unusable_words_are_refused(headstart, tmp_path, monkeypatch, words, message):
    fake_run(tmp_path / "a", "1101")
    fake_run(tmp_path / "b", "1111")
    monkeypatch.chdir(tmp_path)
    code, _, err = headstart("compare", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_comparing_runs_that_exist_loads_no_torch(tmp_path):
    folders = [str(fake_run(tmp_path / name, "1101").path) for name in ("a", "b")]
    code = (
        "import sys; from headstart.studies.compare import compare_runs\n"
        "from headstart.studies.reported import group_runs\n"
        f"compare_runs(group_runs({folders!r})).to_csv(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unfinished_run_is_refused(tmp_path):
    run = fake_run(tmp_path / "a", "1101")
    (run.path / "metrics.json").unlink()
    with pytest.raises(HeadstartError, match="not finished"):
        compare_runs({"a": [run]})


# Time left


def test_time_left_follows_from_the_runs_that_are_done():
    left = TimeLeft([("a", 1.0), ("b", 3.0), ("a", 1.0), ("b", 3.0)])
    assert left.left() is None
    left.done("a", 10.0)
    assert left.left(running_s=5.0) == pytest.approx(30 - 5 + 10 + 30)
    left.done("b", 50.0)
    assert left.left() == pytest.approx(60.0)
    left.drop("b")
    assert left.left(running_s=100.0) == 0.0
    left.done("a", 12.0)
    assert left.left() == 0.0
    assert [duration(s) for s in (45, 600, 9000)] == ["45 s", "10 min", "2.5 h"]
