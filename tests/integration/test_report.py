"""`headstart report`: explanations are drawn once, several runs are compared, and TensorBoard's files say the same."""

import json
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from headstart.runs import open_run
from headstart.training.consumers import drawn_in_tensorboard
from headstart.training.events import EpochDone, FitStarted
from tests.helpers.command_line import TINY


def scalars(folder):
    """Read event files back: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_report_draws_explanations_once(headstart, image_folder, tmp_path, monkeypatch):
    for number, lr in enumerate(("1e-3", "2e-3")):
        out = tmp_path / f"run{number}"
        outcome = headstart("train", image_folder, *TINY, "--epochs", 1, "--lr", lr, "--out", out)
        assert outcome.code == 0, outcome.err
    first, second = tmp_path / "run0", tmp_path / "run1"
    outcome = headstart("report", first, "--no-explain")
    assert outcome.code == 0, outcome.err
    assert not (first / "explanations").exists()
    assert f"report: {first}/report.html" in outcome.out
    assert "No Grad-CAM pictures were made" in (first / "report.html").read_text()
    outcome = headstart("report", first, "--title", "Fruit & more")
    assert "drawing where the network" in outcome.err
    explained = json.loads((first / "explanations" / "explanations.json").read_text())
    assert explained["images"]
    page = (first / "report.html").read_text()
    assert "<title>Fruit &amp; more</title>" in page
    assert "Grad-CAM shows" in page
    assert page.count("Grad-CAM: evidence") == sum(len(image["has_evidence"]) for image in explained["images"])
    monkeypatch.chdir(tmp_path)
    outcome = headstart("report", first, second)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("drawing where the network") == 1  # the first has its pictures already
    assert "report: report.html" in outcome.out
    assert "First is scratch, lr=" in (tmp_path / "report.html").read_text()


def test_report_says_what_it_cannot_do(headstart, tmp_path):
    outcome = headstart("report", tmp_path / "nothing")
    assert outcome.code == 2
    assert "there is no run folder" in outcome.err


def test_where_a_report_cannot_be_nothing_is_drawn(headstart, image_folder, tmp_path):
    outcome = headstart("train", image_folder, *TINY, "--epochs", 1, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    (tmp_path / "file").write_text("")
    (tmp_path / "other.json").write_text('{"rows": [{"name": "x", "seeds": [0], "runs": ["x"]}]}')
    for words, message in (
        (("--out", tmp_path / "file" / "q.html"), "file is a file, not a folder"),
        (("--comparison", tmp_path / "other.json"), "other.json is not about"),
    ):
        outcome = headstart("report", tmp_path / "run", *words)
        assert outcome.code == 2
        assert message in outcome.err
        assert not (tmp_path / "run" / "explanations").exists()


def test_a_damaged_run_is_refused_before_the_pictures_of_any_are_drawn(headstart, image_folder, tmp_path):
    outcome = headstart("train", image_folder, *TINY, "--epochs", 1, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    (tmp_path / "damaged" / "metrics.json").write_text("{}")
    outcome = headstart("report", tmp_path / "run", tmp_path / "damaged", "--out", tmp_path / "page.html")
    assert outcome.code == 2
    assert "holds no accuracy" in outcome.err
    assert not (tmp_path / "run" / "explanations").exists()


def test_report_and_compare_say_where_the_runs_of_a_study_are(headstart, tmp_path):
    for name in ("head", "full"):
        (tmp_path / "study" / name / "seed0").mkdir(parents=True)
        (tmp_path / "study" / name / "seed0" / "config.yaml").write_text("{}")
    study, cells = tmp_path / "study", [tmp_path / "study" / name for name in ("head", "full")]
    for words in (["report", study], ["compare", study]):
        outcome = headstart(*words)
        assert outcome.code == 2
        assert f"name its runs: {study}/*/seed*" in outcome.err
    assert f"name its runs: {study}/head/seed*" in headstart("compare", *cells).err
    assert "(no config.yaml there)" in headstart("compare", tmp_path / "a", tmp_path / "b").err


def test_event_files_say_what_the_table_says(headstart, image_folder, tmp_path):
    words = ("--strategy", "full", "--weights", "none", "--epochs", 2, "--best-epoch", "--log", "tensorboard")
    outcome = headstart("train", image_folder, *TINY, *words, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    rows = open_run(tmp_path / "run").history()
    assert {row["fit"] for row in rows} == {"selection", "final"}
    for fit in ("selection", "final"):
        own = [row for row in rows if row["fit"] == fit]
        split = own[0]["val_split"].replace(" ", "_")
        columns = {
            "loss/train": "train_loss", "accuracy/train": "train_accuracy", f"loss/{split}": "val_loss",
            f"accuracy/{split}": "val_accuracy", "learning_rate/lowest": "lr", "learning_rate/head": "head_lr",
            "phase": "phase",
        }  # fmt: skip
        found = scalars(tmp_path / "run" / "tensorboard" / fit)
        assert found.keys() == columns.keys()
        for tag, column in columns.items():
            assert [step for step, _ in found[tag]] == list(range(1, len(own) + 1))
            assert [value for _, value in found[tag]] == pytest.approx([row[column] for row in own], rel=1e-6)


def test_rows_that_come_again_after_a_resume_replace_their_events(tmp_path):
    for kept, losses in ((0, (1.0, 2.0, 3.0)), (1, (20.0, 30.0, 40.0))):
        rows = ({"phase": 1, "epoch": epoch, "train_loss": loss} for epoch, loss in enumerate(losses, kept + 1))
        events = [FitStarted(4, kept, kept), *(EpochDone(row, best="") for row in rows)]
        assert list(drawn_in_tensorboard(iter(events), tmp_path / "events")) == events  # they are passed on
    assert scalars(tmp_path / "events")["loss/train"] == [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]


def test_without_the_package_nothing_is_trained(headstart, image_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    outcome = headstart("train", image_folder, *TINY, "--log", "tensorboard", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "pip install 'headstart[tensorboard]'" in outcome.err
    assert not (tmp_path / "run").exists()
