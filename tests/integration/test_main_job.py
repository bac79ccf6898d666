"""From a folder of pictures to a run folder, and back to predictions."""

import csv
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import headstart
from headstart.config import make_config
from headstart.display import Display
from headstart.errors import UnreadableImageError
from headstart.experiment import train
from headstart.runs import open_run
from headstart.studies.compare import compare_runs
from headstart.types import Interval, StepChoice
from tests.helpers.command_line import TINY


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "fruit"
    return headstart.fit(
        image_folder, backbone="simple-cnn", image_size=32, strategy="scratch", augment="flip", epochs=12, out=str(out)
    )


def test_the_run_folder_is_whole(trained):
    names = {str(path.relative_to(trained.path)) for path in trained.path.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml", "resolved.json", "environment.json", "data_report.json", "plan.json", "manifest.parquet",
        "metrics.csv", "metrics.json", "predictions.parquet",
        "model/model.safetensors", "model/config.json", "model/preprocessor_config.json", "model/labels.txt",
        "model/README.md", "model/graph.xml", "model/graph.bin",
    }  # fmt: skip


def test_it_learns_and_reports_what_the_design_names(trained):
    metrics = trained.metrics()
    assert metrics["accuracy"]["value"] > 0.8  # three colours
    assert metrics["split"] == "validation"
    assert metrics["num_images"] == 18
    assert metrics["selected_on_reported"] is False
    assert set(metrics["time_s"]) == {"total", "data", "cache", "train", "evaluate"}
    assert metrics["accuracy"]["low"] < metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
    assert {"balanced_accuracy", "macro_f1", "log_loss", "ece", "per_class", "confusion"} <= metrics.keys()
    num_right = sum(row.get(label, 0) for label, row in metrics["confusion"].items())
    assert num_right == round(metrics["accuracy"]["value"] * 18)


def test_metrics_csv_has_a_row_per_epoch(trained):
    with (trained.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert all(float(row[key]) >= 0 for row in rows for key in ("train_loss", "val_loss", "lr", "val_accuracy"))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_predictions_are_what_the_loaded_model_says(trained):
    table = pq.read_table(trained.path / "predictions.parquet").to_pydict()
    classifier = headstart.load(trained.path)
    assert classifier.labels == ("apple", "leaf", "sky")
    probabilities = classifier.predict_proba(table["path"])
    expected = np.stack([table[f"p_{label}"] for label in classifier.labels], axis=1)
    assert np.array_equal(probabilities, expected.astype(np.float32))
    metrics = trained.metrics()
    assert (metrics["engine"], metrics["precision"]) == classifier.engine
    predicted = [classifier.labels[i] for i in probabilities.argmax(1)]
    assert predicted == table["predicted"]
    right = [a == b for a, b in zip(predicted, table["label"], strict=True)]
    assert np.mean(right) == metrics["accuracy"]["value"]


def test_paths_pictures_and_arrays_agree(trained, image_folder):
    paths = sorted((image_folder / "val").rglob("*.png"))[:3]
    classifier = headstart.load(trained.path / "model")
    from_paths = classifier.predict_proba(paths)
    from_pictures = classifier.predict_proba([Image.open(path) for path in paths])
    assert np.array_equal(from_paths, from_pictures)
    one = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert np.allclose(classifier.predict_proba(one[None]), from_paths[:1], atol=1e-6)


def test_the_same_config_repeats_bit_for_bit(trained, headstart, tmp_path):
    outcome = headstart("train", "--config", trained.path / "config.yaml", "--out", tmp_path / "again")
    assert outcome.code == 0, outcome.err
    first, second = ((path / "model" / "model.safetensors").read_bytes() for path in (trained.path, tmp_path / "again"))
    assert first == second


def test_evaluate_gives_the_runs_own_figure(trained, headstart, image_folder, tmp_path):
    outcome = headstart(
        "evaluate", trained.path, image_folder, "--format", "json", "--predictions", tmp_path / "p.parquet"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["accuracy"] == trained.metrics()["accuracy"]
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 18
    plain = headstart("evaluate", trained.path, image_folder / "val")  # class folders without splits
    assert plain.code == 0, plain.err
    assert f"{trained.metrics()['accuracy']['value']:.3f}" in plain.out


class Replacing(Display):
    """Puts another picture in the place of an image as soon as training has begun."""

    def __init__(self, image, other):
        self.image, self.other = image, other

    def begin_training(self, title, num_steps, done):
        self.image.write_bytes(self.other.read_bytes())


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_that_is_replaced_during_training_stops_it(make_folder, tmp_path, split):
    folder = make_folder({"train/apple": 8, "train/leaf": 8, "test/apple": 4, "test/leaf": 4})
    images = sorted((folder / split).glob("*/*"))
    config = make_config({
        "data": str(folder), "out": str(tmp_path / "run"), "backbone": "simple-cnn", "image_size": 32,
        "strategy": "scratch", "epochs": 2, "monitor": False, "decoder": "pillow-scaled",
    })  # fmt: skip
    with pytest.raises(UnreadableImageError, match="it has changed since the data was checked"):
        train(config, display=Replacing(images[0], images[-1]))
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_predict_reads_files_folders_globs_and_goes_on_after_a_bad_one(trained, headstart, image_folder, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    good = sorted((image_folder / "val" / "apple").iterdir())
    outcome = headstart(
        "predict", trained.path, good[0], bad, image_folder / "val" / "sky", "--format", "json", "--top-k", 2
    )
    assert outcome.code == 1  # not all was done
    assert "1 file could not be read; its row says why" in outcome.err
    rows = json.loads(outcome.out)
    assert len(rows) == 8
    assert rows[0]["label"] == "apple"
    assert rows[1]["error"]
    assert len(rows[2]["top"]) == 2
    globbed = headstart("predict", trained.path, image_folder / "val" / "leaf" / "*.png", "--format", "csv")
    assert globbed.code == 0
    assert len(list(csv.DictReader(globbed.out.splitlines()))) == 3
    wide = headstart("predict", trained.path, bad, good[0], "--format", "csv", "--top-k", 9)
    header = "path,label,probability,label_2,probability_2,label_3,probability_3,error"
    assert wide.out.splitlines()[0] == header  # of three classes, and with the first file unreadable
    assert "Did you mean 'json'" in headstart("predict", trained.path, bad, "--format", "jsn").err
    table = headstart("predict", trained.path, good[0])
    assert good[0].name in table.out
    parquet = headstart("predict", trained.path, *good, "--format", "parquet", "--out", tmp_path / "p.parquet")
    assert parquet.code == 0
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 6


def test_nothing_is_written_beside_the_images(trained, image_folder):
    assert all(path.suffix in (".jpg", ".png") for path in image_folder.rglob("*") if path.is_file())
    assert sorted(path.name for path in image_folder.parent.iterdir()) == ["fruit"]


def test_train_prints_accuracy_folder_and_next_command(headstart, image_folder, tmp_path):
    out = tmp_path / "run"
    outcome = headstart("train", image_folder, *TINY, "--epochs", 1, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "accuracy" in outcome.out
    assert f"run folder: {out}" in outcome.out
    assert f"headstart predict {out}" in outcome.out
    assert "epoch 1: loss" in outcome.err  # no terminal: plain lines
    again = headstart("train", image_folder, *TINY, "--epochs", 1, "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert headstart("train", image_folder, *TINY, "--epochs", 1, "--out", out, "--overwrite").code == 0


def test_selection_uses_a_part_of_train_and_refits_on_all(headstart, image_folder, tmp_path):
    out = tmp_path / "run"
    words = ("train", image_folder, *TINY, "--epochs", 6, "--patience", 3, "--lr", "0.01", "--out", out)
    outcome = headstart(*words)
    assert outcome.code == 0, outcome.err
    resolved, metrics = open_run(out).resolved(), json.loads((out / "metrics.json").read_text())
    rows = headstart_rows(out)
    assert {row["val_split"] for row in rows if row["fit"] == "selection"} == {"inner validation"}
    selection = [float(row["val_loss"]) for row in rows if row["fit"] == "selection"]
    assert [*resolved.stop_after] == [selection.index(min(selection)) + 1] == metrics["epochs_run"]
    assert len([row for row in rows if row["fit"] == "final"]) == metrics["epochs_run"][0]
    assert metrics["selected_on_reported"] is False
    repeat = headstart("train", "--config", out / "config.yaml", "--out", tmp_path / "again")
    assert repeat.code == 0, repeat.err
    models = [(path / "model" / "model.safetensors").read_bytes() for path in (out, tmp_path / "again")]
    assert models[0] == models[1]


def test_selecting_on_the_reported_images_is_marked(headstart, image_folder, tmp_path):
    out = tmp_path / "run"
    words = ("train", image_folder, *TINY, "--epochs", 2, "--best-epoch", "--select-on", "reported", "--out", out)
    outcome = headstart(*words)
    assert outcome.code == 0, outcome.err
    assert json.loads((out / "metrics.json").read_text())["selected_on_reported"] is True
    assert "optimistic" in outcome.err
    assert "optimistic, because these images also selected the model" in outcome.out
    assert "**These images also selected the model" in (out / "model" / "README.md").read_text()


def test_validation_selects_and_test_is_reported(headstart, make_folder, tmp_path):
    counts = {
        f"{split}/{label}": n for split, n in (("train", 8), ("valid", 4), ("test", 5)) for label in ("apple", "sky")
    }
    outcome = headstart("train", make_folder(counts), *TINY, "--epochs", 3, "--best-epoch", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["split"], metrics["num_images"]) == ("test", 10)
    assert {row["val_split"] for row in headstart_rows(tmp_path / "run")} == {"validation"}


def test_a_folder_without_splits_gets_one_in_the_manifest(headstart, make_folder, tmp_path):
    outcome = headstart("train", make_folder({"apple": 10, "sky": 10}), *TINY, "--epochs", 1, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    manifest = pq.read_table(tmp_path / "run" / "manifest.parquet").to_pydict()
    assert sorted(set(manifest["split"])) == ["test", "train"]
    assert manifest["split"].count("test") == 4


def test_a_split_that_is_made_parts_no_group(headstart, make_folder, tmp_path):
    """Four pictures of each thing, named by a table of images."""
    folder = make_folder({"apple": 24, "sky": 24})
    paths = sorted(folder.rglob("*.*"))
    rows = [f"{path},{path.parent.name},{path.parent.name} {int(path.stem) // 4}" for path in paths]
    (tmp_path / "images.csv").write_text("\n".join(["path,label,group", *rows]))
    words = ("train", tmp_path / "images.csv", *TINY, "--epochs", 2, "--best-epoch", "--out", tmp_path / "run")
    outcome = headstart(*words)
    assert outcome.code == 0, outcome.err
    manifest = pq.read_table(tmp_path / "run" / "manifest.parquet").to_pydict()
    splits = {}
    for group, split in zip(manifest["group"], manifest["split"], strict=True):
        splits.setdefault(group, set()).add(split)
    assert len(splits) == 12
    assert all(len(each) == 1 for each in splits.values())
    assert {split for each in splits.values() for split in each} == {"train", "test"}

    # Every figure of the run is over groups, and is the same everywhere.
    run = open_run(tmp_path / "run")
    metrics = run.metrics()
    figures = Interval(**metrics["accuracy"])
    assert metrics["num_groups"] == 3
    assert "in 3 groups" in figures.method
    assert f"accuracy {figures} on {metrics['num_images']} test images in 3 groups" in outcome.out
    assert compare_runs({"run": [run]}).rows[0].accuracy == figures
    assert f"{figures.low:.3f} to {figures.high:.3f}, {figures.method}" in (run.model_folder / "README.md").read_text()


def test_a_batch_size_of_zero_is_the_usual_one_on_a_cpu(headstart, image_folder, tmp_path):
    for size in (0, 32):
        words = ("train", image_folder, *TINY, "--epochs", 1, "--tune", "off", "--batch-size", size)
        outcome = headstart(*words, "--device", "cpu", "--out", tmp_path / f"{size}")
        assert outcome.code == 0, outcome.err
    found, usual = ((tmp_path / size / "model" / "model.safetensors").read_bytes() for size in ("0", "32"))
    assert found == usual


def test_a_table_of_ones_own_and_a_time_limit(headstart, image_folder, tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text(
        "pretrained: false\nphases:\n"
        "  - {name: top, epochs: 400, lr: 0.001, rules: {conv1: null, '*': 1}}\n"
        "  - {name: all, epochs: 400, lr: 0.0005, rules: {'*': 1}}\n"
    )
    words = ("train", image_folder, "--backbone", "simple-cnn", "--image-size", 32, "--strategy", table)
    outcome = headstart(*words, "--time-limit", "2s", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    epochs = [*open_run(tmp_path / "run").resolved().epochs]
    assert 1 <= epochs[0] < 400
    expected_s = int(re.search(r"time limit 2 s: epochs per phase .*, about (\d+) s", outcome.err)[1])
    assert expected_s <= 2 or epochs == [1, 1]
    phases = [row["phase_name"] for row in headstart_rows(tmp_path / "run")]
    assert phases == ["top"] * epochs[0] + ["all"] * epochs[1]


def test_a_table_is_kept_with_the_run_and_replayed_without_its_file(headstart, image_folder, tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text("pretrained: false\nphases: [{epochs: 1, lr: 0.001, rules: {'*': 1}}]\n")
    words = ("--backbone", "simple-cnn", "--image-size", 32, "--augment", "flip")
    first = headstart("train", image_folder, *words, "--strategy", table, "--out", tmp_path / "run")
    assert first.code == 0, first.err
    again = ("train", "--config", tmp_path / "run" / "config.yaml", "--out")
    repeat = (image_folder, *words, "--strategy", table, "--repeat", tmp_path / "run")
    outcome = headstart("train", *repeat, "--out", tmp_path / "b")
    assert "decided anew" not in outcome.err
    table.write_text("pretrained: false\nphases: [{epochs: 1, lr: 0.5, rules: {'*': 1}}]\n")
    changed = headstart("plan", *repeat)
    assert "note: table is not as in" in changed.err
    table.unlink()
    outcome = headstart(*again, tmp_path / "again")
    assert outcome.code == 0, outcome.err
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "b", "again")]
    assert models[0] == models[1] == models[2]
    assert "repeat" not in (tmp_path / "again" / "config.yaml").read_text()


def test_lite0_trains_its_head_offline(headstart, image_folder, tmp_path):
    out = tmp_path / "run"
    outcome = headstart("train", image_folder, "--image-size", 64, "--epochs", 2, "--out", out)
    assert outcome.code == 0, outcome.err
    assert json.loads((out / "metrics.json").read_text())["accuracy"]["value"] > 0.8
    saved = load_file(out / "model" / "model.safetensors")
    assert saved["classifier.weight"].shape == (3, 1280)
    more = headstart(  # its weights start another run
        "train",
        image_folder,
        "--weights",
        out,
        "--strategy",
        "full",
        "--epochs",
        0,
        "--image-size",
        64,
        "--out",
        tmp_path / "b",
    )
    assert more.code == 0, more.err
    again = load_file(tmp_path / "b" / "model" / "model.safetensors")
    assert torch.equal(again["conv_stem.weight"], saved["conv_stem.weight"])


def headstart_rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_fit_shows_what_goes_on_unless_it_is_to_be_silent(image_folder, tmp_path, capsys):
    settings = {"backbone": "simple-cnn", "image_size": 32, "strategy": "scratch", "epochs": 1}
    headstart.fit(image_folder, out=tmp_path / "shown", **settings)
    shown = capsys.readouterr().err.splitlines()
    assert "data: 54 images of 3 classes: apple 18, leaf 18, sky 18" in shown
    assert any("epoch 1: loss" in line for line in shown)
    headstart.fit(image_folder, out=tmp_path / "silent", display=Display(), **settings)
    assert capsys.readouterr() == ("", "")


def test_what_timing_decides_is_recorded_and_repeated_to_the_byte(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.training.tuning._WORTH_TUNING_S", 0.0)
    settings = {"backbone": "simple-cnn", "image_size": 32, "strategy": "scratch", "epochs": 2, "precision": "auto"}
    choices = iter([StepChoice(False), StepChoice(True)])

    def timed(*_, **__):
        return next(choices)

    monkeypatch.setattr("headstart.experiment.experiment.choose_step", timed)
    silent = {"display": Display(), "data": image_folder}
    first = headstart.fit(out=tmp_path / "a", **settings, **silent)
    other = headstart.fit(out=tmp_path / "b", **settings, **silent)
    again = headstart.fit(out=tmp_path / "c", repeat=first.path, **settings, **silent)
    assert [run.resolved().steps[0].channels_last for run in (first, other, again)] == [False, True, False]
    weights = [(run.model_folder / "model.safetensors").read_bytes() for run in (first, again)]
    assert weights[0] == weights[1]
