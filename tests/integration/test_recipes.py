"""Every recipe from data to verdict as a smoke run, begun by its notebook, and what is shown before."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from headstart.cli.recipes import train_command
from headstart.demo.snacks import render_snacks
from headstart.errors import HeadstartError
from headstart.studies.lessons import make_lesson
from headstart.studies.recipes import RECIPES, find_recipe
from tests.helpers.pictures import write_folder

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# What each recipe is tried with: the notebook's network, and in one recipe a second one beside it.
BACKBONES = {
    "hotdog": "lite0",
    "hotdog-gluon": None,
    "animals-vehicles": "lite0",
    "ants-bees": "lite0,simple-cnn",
    "pretrain-transfer": None,
}


@pytest.fixture(scope="module")
def snacks(tmp_path_factory):
    return render_snacks(tmp_path_factory.mktemp("data") / "snacks", train_per_class=6, test_per_class=6, size=64)


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    counts = {f"{split}/{name}": 2 for split in ("train", "test") for name in TEN}
    return write_folder(tmp_path_factory.mktemp("data") / "ten", counts)


def run_notebook(name):
    """Run a notebook's cells in one namespace, as a kernel would; Jupyter adds nothing that could fail differently."""
    path = Path(__file__).parents[2] / "examples" / f"{name}.ipynb"
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("name", RECIPES)
def test_a_notebook_begins_and_the_command_line_goes_through_every_step(
    headstart, snacks, ten, tmp_path, monkeypatch, name
):
    """What the notebook has trained in its empty folder, offline, the command line finds; then it trains the rest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    if name != "pretrain-transfer":  # which draws the pictures itself, as all of them would
        shutil.copytree(ten if name == "animals-vehicles" else snacks, "snacks-small")
    namespace = run_notebook(name)
    begun = namespace["outcomes"]["lesson"].comparison
    assert len(begun.rows) >= 2
    assert not begun.failed
    data, out, backbone = namespace["lesson"].data, namespace["lesson"].out, BACKBONES[name]
    trained = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert len(trained) >= len(begun.rows)

    words = ("--backbone", backbone) if backbone else ()
    outcome = headstart("recipe", "run", name, "--quick", "--data", data, "--out", out, *words)
    assert outcome.code == 0, outcome.err
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    recipe, lesson = find_recipe(name), make_lesson(name, quick=True, data=data, out=out, backbone=backbone)
    summary = json.loads((out / "recipe.json").read_text())
    assert list(summary["parts"]) == [part.name for part in recipe.parts]
    for part in lesson.parts:
        found = summary["parts"][part.name]
        assert not found["left_out"], found["left_out"]
        rows = found["comparison"]["rows"]
        assert {row["name"] for row in rows} == {cell.name for cell in lesson.cells(part)}
        assert all((out / folder / "metrics.json").is_file() for row in rows for folder in row["runs"])
        assert set(found["trained"]) == {row["name"] for row in rows}
        assert all(f"published: {figure.cell} {figure.accuracy}" in outcome.out for figure in part.published)
    changed = "data, network and length" if backbone else "data and length"
    figures = [line for line in outcome.out.splitlines() if line.startswith("published: ") and ", here " in line]
    assert [line for line in figures if not line.endswith(f" (not the lesson's {changed})")] == []
    assert (out / "contact-sheet.png").is_file()
    assert f"report: {out / 'report-lesson.html'}" in outcome.out
    assert summary["parts"]["lesson"]["comparison"]["verdict"][0] in (out / "report-lesson.html").read_text()
    assert "source head of " in outcome.out
    assert "trained by" in outcome.out
    marked = {
        row["name"]
        for part in summary["parts"].values()
        for row in part["comparison"]["rows"]
        if row["selected_on_reported"]
    }
    assert bool(marked) == (name == "ants-bees")
    assert not any("honest" in row for row in marked)
    if lesson.source is not None:
        assert (out / "source-network" / "seed0" / "model" / "model.safetensors").is_file()
        config = lesson.cells(lesson.parts[0])[-1].config
        assert config.strategy == "scratch" or config.weights == str(out / "source-network" / "seed0")
    if name == "pretrain-transfer":  # again: the same tables, and nothing is trained
        times = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
        again = headstart("recipe", "run", name, "--quick", "--data", data, "--out", out, *words)
        assert again.out == outcome.out
        assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")} == times
        assert times == trained


def test_a_printed_recipe_can_be_edited_and_run_and_writes_below_its_folder_only(
    headstart, snacks, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    printed = headstart("recipe", "print", "pretrain-transfer").out
    assert printed == RECIPES["pretrain-transfer"].read_text()
    table = "{strategy: mine, table: {phases: [{rules: {'*': 1}}]}}"
    edited = printed.replace("fine-tuned source", "my table").replace("{strategy: full}", table)
    (tmp_path / "mine.yaml").write_text(edited)
    words = ("mine.yaml", "--quick", "--backbone", "simple-cnn", "--data", snacks, "--out", "lesson")
    shown = headstart("recipe", "show", *words)
    assert "with the table of this cell" in shown.out
    outcome = headstart("recipe", "run", *words)
    assert outcome.code == 0, outcome.err
    assert "trained by my table: phase 1" in outcome.out
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml", "lesson"}


def test_a_part_that_was_named_and_is_left_out_is_a_failure(headstart, snacks, tmp_path):
    words = ("--part", "backbones", "--backbone", "lite0", "--quick", "--data", snacks, "--out", tmp_path / "lesson")
    outcome = headstart("recipe", "run", "ants-bees", *words)
    assert (outcome.code, "left out: it puts several networks" in outcome.out) == (1, True)


def test_weights_that_cannot_be_had_are_one_line(headstart, snacks, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    outcome = headstart("recipe", "run", "hotdog", "--quick", "--data", snacks, "--out", tmp_path / "lesson")
    assert outcome.code == 2
    assert [line for line in outcome.err.splitlines() if "error: " in line] == [outcome.err.splitlines()[-1]]
    assert "resnet18" in outcome.err
    assert "lite0 needs no download" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hotdgo",), "Did you mean 'hotdog'"),
        (("mine.yaml",), "cannot read mine.yaml: No such file"),
        (("hotdog", "--part", "froze"), "Did you mean 'frozen'"),
        (("hotdog", "--source", "snacks"), "trains no source network"),
        (("hotdog", "--backbone", "lite0,lite1"), "compares networks"),
        (("animals-vehicles", "--data", "nowhere"), "nowhere"),
        (("ants-bees", "--backbone", "lite9"), "unknown backbone 'lite9'"),
        (("pretrain-transfer", "--weights", "nowhere.pth"), "no weight file at nowhere.pth"),
    ],
)
def test_unusable_options(headstart, tmp_path, words, message):
    outcome = headstart("recipe", "run", *words, "--out", tmp_path / "lesson")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "lesson").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_there_is_a_page_with_the_command_and_what_was_published(name):
    page = (Path(__file__).parents[2] / "docs" / "lessons" / f"{name}.md").read_text(encoding="utf-8")
    assert f"$ headstart recipe run {name}" in page  # with what it printed
    assert all(figure.accuracy in page for part in find_recipe(name).parts for figure in part.published)


def test_list_names_all(headstart):
    outcome = headstart("recipe", "list")
    assert [line.split()[0] for line in outcome.out.splitlines()] == list(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_that_are_shown_are_the_cells(headstart, monkeypatch, snacks, name):
    """Each `headstart train` line, typed as it is, has the settings that the recipe runs."""
    shown = headstart("recipe", "show", name, "--data", snacks, "--out", "lesson")
    assert shown.code == 0, shown.err
    lesson = make_lesson(name, data=snacks, out="lesson")
    cells = [cell for part in lesson.parts for cell in lesson.cells(part)]
    cells += [lesson.pretraining()] if lesson.source is not None else []
    cells = [cell for position, cell in enumerate(cells) if cell not in cells[:position]]
    commands = [line.strip() for line in shown.out.splitlines() if line.strip().startswith("headstart train")]
    assert sorted(commands) == sorted(train_command(cell, lesson.out) for cell in cells)
    caught = []

    def catch(config, **rest):
        caught.append(config)
        raise HeadstartError("caught")

    monkeypatch.setattr("headstart.experiment.train", catch)
    for cell in cells:
        headstart(*shlex.split(train_command(cell, lesson.out))[1:])
    folders = [f"lesson/{cell.slug}/seed0" for cell in cells]
    assert caught == [
        cell.config.model_copy(update={"out": folder}) for cell, folder in zip(cells, folders, strict=True)
    ]
    assert len(set(folders)) == len(folders)
    for figure in (figure for part in lesson.parts for figure in part.published):
        assert f"published: {figure.cell} {figure.accuracy}" in shown.out
