"""A group that is named by the user and stands on both sides of given splits."""

import json
import shutil
from pathlib import Path

import pytest

from headstart import experiment
from headstart.config import make_config
from headstart.display import Display
from headstart.experiment.tools import evaluate_folder
from headstart.report import write_report
from headstart.runs import Run
from headstart.tables import print_metrics
from tests.helpers.displays import Remembering
from tests.helpers.pictures import COLOURS, write_folder

REASON = "2 groups of these images are in other splits too"
REFUSAL = (
    "error: in {table}, 2 groups are in more than one split: 'p0' (3 train, 3 test), 'p1' (3 train, 3 test). What is "
    "learnt from one part of a group helps with the other, so the figures would be optimistic. Give each group one "
    "split, or leave out the column split: then Headstart splits by groups. --leaks keep goes on and marks the "
    "figures\n"
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in which the groups p0 and p1 are in train and test, and others are not."""
    counts = {f"{split}/{label}": size for split, size in {"train": 4, "test": 3}.items() for label in COLOURS}
    folder = write_folder(tmp_path_factory.mktemp("grouped") / "data", counts)
    rows = ["path,label,split,group"]
    for path in sorted(folder.rglob("*.*")):
        split, label, name = path.parts[-3:]
        number = int(path.stem)
        group = f"p{number}" if number < 2 else f"{split} {number}"
        rows.append(f"{split}/{label}/{name},{label},{split},{group}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder / "list.csv"


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> Run:
    """A run that kept the groups."""
    settings = {"backbone": "simple-cnn", "image_size": 16, "strategy": "scratch", "augment": "flip", "epochs": 1}
    out = str(tmp_path_factory.mktemp("runs") / "run")
    display = Remembering()
    found = experiment.train(
        make_config({**settings, "data": str(table), "leaks": "keep", "out": out}), display=display
    )
    said += display.said
    return found


@pytest.mark.parametrize("command", ["train", "plan", "lr-find", "compare", "rank", "data show"])
def test_every_command_that_reads_splits_stops(headstart, table, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    words = {"rank": ("--backbones", "lite0,lite1"), "compare": ("--strategies", "head,full")}
    outcome = headstart(*command.split(), table, *words.get(command, ()))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == REFUSAL.format(table=table)
    assert not list(tmp_path.iterdir())


def test_kept_groups_mark_the_figure_everywhere(run, said, capsys, headstart, tmp_path):
    assert "note: kept 2 groups in more than one split, first 'p0' (3 train, 3 test)" in said
    assert run.metrics()["shared_groups"] == 2
    assert run.data_report()["shared_groups"][1] == {"group": "p1", "counts": {"train": 3, "test": 3}}
    print_metrics(run.metrics(), brief=True)
    assert f"; optimistic, because {REASON}\n" in capsys.readouterr().out
    card = (run.model_folder / "README.md").read_text()
    assert f"**{REASON}, so these figures are optimistic.**" in card
    assert "No epoch and no setting was chosen on these images" in card
    page = write_report([run.path], tmp_path / "page.html").read_text()
    assert f"† {REASON}, so every figure marked † is optimistic. Keep each group in one split" in page

    other = shutil.copytree(run.path, tmp_path / "other")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(f"{config}seed: 1\n")
    outcome = headstart("compare", run.path, other, "--out", tmp_path / "study")
    assert outcome.code == 0, outcome.err
    assert f"{run.metrics()['accuracy']['value']:.3f}*" in outcome.out
    assert "Groups of the reported images are in other splits too, in the runs of scratch (leaks=keep)" in outcome.out
    assert json.loads((tmp_path / "study" / "comparison.json").read_text())["rows"][0]["shared_groups"] == 2


def test_an_evaluation_says_which_groups_the_model_knows(run, table):
    seen = evaluate_folder(run.path, str(table), display=Display(), engine="torch")["seen_by_the_model"]
    assert seen == [
        "6 of these 9 images have a group that the model was also trained on, judged by its name, so the figure is "
        "optimistic"
    ]
