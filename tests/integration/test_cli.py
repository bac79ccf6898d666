"""What people type wrong: one line that says what to do, exit code 2, and no run folder."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import headstart as library
from tests.helpers.command_line import TINY


@pytest.fixture(scope="module")
def trained_run(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "fruit"
    settings = {"backbone": "simple-cnn", "image_size": 32, "strategy": "scratch", "epochs": 1}
    return library.fit(image_folder, out=str(out), **settings).path


def broken(make_folder, kind):
    """Make an input that cannot be used; return it with what the message must say."""
    counts = {"train/apple": 3, "train/sky": 3, "val/apple": 2, "val/sky": 2}
    folder = make_folder(counts)
    picture = folder / "train" / "apple" / "000.jpg"
    if kind == "one class":
        return make_folder({"only/apple": 3}, "single"), "one class"
    if kind == "no image":
        empty = folder.parent / "empty"
        (empty / "apple").mkdir(parents=True)
        (empty / "sky").mkdir()
        return empty, "no image"
    if kind == "empty class":
        (folder / "train" / "pear").mkdir()
        (folder / "val" / "pear").mkdir()
        return folder, "pear"
    if kind == "class missing in a split":
        for path in (folder / "val" / "sky").iterdir():
            path.unlink()
        (folder / "val" / "sky").rmdir()
        return folder, "sky"
    if kind == "a file":
        return picture, "000.jpg"
    if kind == "nothing there":
        return folder.parent / "dta", "Did you mean 'data'"
    if kind == "not an image":
        picture.write_text("no picture")
        return folder, "000.jpg"
    if kind == "truncated":
        picture.write_bytes(picture.read_bytes()[:-200])
        return folder, "000.jpg"
    picture.write_bytes(b"")
    return folder, "000.jpg"


KINDS = [
    "one class", "no image", "empty class", "class missing in a split", "a file", "nothing there", "not an image",
    "truncated", "zero bytes",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_data(headstart, make_folder, tmp_path, kind):
    source, message = broken(make_folder, kind)
    outcome = headstart("train", source, *TINY, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.strip().splitlines()) == 1
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--strategy", "haed"), "Did you mean 'head'"),
        (("--backbone", "resnet81"), "Did you mean 'resnet18'"),
        (("--set", "epohcs=3"), "Did you mean 'epochs'"),
        (("--optimizer", "adamm"), "Did you mean 'adam"),
        (("--lr", "-1"), "greater than 0"),
        (("--head-lr", "0.1", "--head-lr-mult", "5"), "give one of them"),
        (("--set", "epochs"), "key=value"),
        (("--device", "tpu"), "not one of auto, cpu"),
        (("--device", "cpu:1"), "no such device is visible"),
        (("--config", "missing.yaml"), "cannot read missing.yaml"),
        (("--map", "pear=fruit"), "pear"),
        (("--strategy", "partial", "--backbone", "lite0", "--stages", "99"), "stages=99"),
        (("--resize", "8"), "smaller than the input"),
        (("--phase-epochs", "1,2"), "has 1"),
    ],
)
def test_unusable_settings(headstart, image_folder, tmp_path, words, message):
    outcome = headstart("train", image_folder, *TINY, *words, "--out", tmp_path / "run")
    assert outcome.code == 2
    *before, error = outcome.err.strip().splitlines()
    assert error.startswith("error: ")
    assert [line.split(":")[0] for line in before] in ([], ["data", "splits"])
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_table_that_is_called_as_a_strategy_is_refused(headstart, image_folder, tmp_path):
    (tmp_path / "head.yaml").write_text("phases: [{name: all, epochs: 1, rules: {'*': 1}}]")
    words = ("train", image_folder, *TINY, "--strategy", tmp_path / "head.yaml", "--out", tmp_path / "run")
    outcome = headstart(*words)
    assert outcome.code == 2
    assert "is called 'head', as a strategy is; name it otherwise" in outcome.err
    (tmp_path / "head.yaml").write_text("name: mine\nphases: [{name: all, epochs: 1, rules: {'*': 1}}]")
    assert headstart(*words).code == 0


@pytest.mark.parametrize("words", [("train", "x", "--epoch", "5"), ("trian", "x"), ("data", "gte")])
def test_unknown_flags_and_commands_get_a_suggestion(headstart, words):
    outcome = headstart(*words)
    assert outcome.code == 2
    assert "ossible options: " in outcome.err or "Did you mean" in outcome.err


@pytest.mark.parametrize(
    "words", [("train",), ("train", "--out", "run"), ("plan",), ("lr-find",), ("rank",), ("compare",), ("data", "show")]
)
def test_no_data_named(headstart, words):
    outcome = headstart(*words)
    assert outcome.code == 2
    assert "no data given" in outcome.err


def test_an_output_folder_that_is_not_a_run_is_never_touched(headstart, image_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for flags in ((), ("--overwrite",)):
        outcome = headstart("train", image_folder, *TINY, "--out", tmp_path / "mine", *flags)
        assert outcome.code == 2
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("a file")
    assert headstart("train", image_folder, *TINY, "--out", tmp_path / "file" / "run").code == 2


def test_skip_bad_lists_what_it_leaves_out(headstart, make_folder, tmp_path):
    folder = make_folder({"train/apple": 4, "train/sky": 4, "val/apple": 2, "val/sky": 2})
    (folder / "train" / "apple" / "001.png").write_text("no picture")
    outcome = headstart("train", folder, *TINY, "--epochs", 1, "--skip-bad", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "001.png" in (tmp_path / "run" / "data_report.json").read_text()


def test_leaks_are_dropped_and_said_or_refused(headstart, make_folder, tmp_path):
    folder = make_folder({"train/apple": 4, "train/sky": 4, "val/apple": 2, "val/sky": 2})
    Image.open(folder / "val" / "sky" / "000.jpg").save(folder / "train" / "sky" / "copy.png")
    refused = headstart("train", folder, *TINY, "--epochs", 1, "--leaks", "error", "--out", tmp_path / "run")
    assert refused.code == 2
    assert "copy.png" in refused.err
    outcome = headstart("train", folder, *TINY, "--epochs", 1, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "copy.png" in outcome.err
    assert "copy.png" in (tmp_path / "run" / "data_report.json").read_text()


def test_debug_shows_the_traceback(headstart, monkeypatch):
    monkeypatch.setenv("HEADSTART_DEBUG", "1")
    assert "Traceback" in headstart("train", "nowhere").err


def test_ineffective_settings_are_notes(headstart, image_folder):
    outcome = headstart("plan", image_folder, *TINY, "--stages", 2, "--solver", "lbfgs")
    assert outcome.code == 0
    assert "note: stages has no effect here; it belongs to strategy partial" in outcome.err
    assert outcome.err.count("solver") == 1


def test_plan_prints_counts_rates_and_boundary(headstart, image_folder):
    outcome = headstart("plan", image_folder, "--strategy", "gradual", "--lr", "1e-5", "--head-lr", "1e-3")
    assert outcome.code == 0, outcome.err
    assert "3,843 / 3,374,851 (0.11 %)" in outcome.out
    assert "phase 3 of 3" in outcome.out
    for words in ("1.00e-03", "1.00e-04", "1.00e-05", "after blocks.5", "BatchNorm statistics: fixed", "frozen"):
        assert words in outcome.out


def test_lr_find_writes_a_plot(headstart, image_folder, tmp_path):
    words = ("lr-find", image_folder, *TINY, "--steps", 30, "--low", "1e-5", "--high", "1")
    outcome = headstart(*words, "--plot", tmp_path / "lr.png")
    assert outcome.code == 0, outcome.err
    assert "suggested: --lr" in outcome.out
    assert Image.open(tmp_path / "lr.png").size[0] > 500


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("--strategy", "lp-ft"), "--lr"),
        (("--strategy", "lp-ft", "--solver", "loop"), "--head-lr"),
        (("--strategy", "gradual"), "--head-lr"),
        (("--strategy", "gradual", "--solver", "lbfgs"), "--phase-lrs, number 2:"),
        (("--strategy", "gradual", "--phases", "2", "--phase-lrs", "1e-2,1e-3"), "--phase-lrs, number 1:"),
    ],
)
def test_lr_find_names_the_setting_of_the_phase_that_it_tested(headstart, image_folder, tmp_path, words, setting):
    outcome = headstart(
        "lr-find", image_folder, *TINY, *words, "--low", "1e-4", "--steps", 40, "--plot", tmp_path / "lr.png"
    )
    assert outcome.code == 0, outcome.err
    assert f"suggested: {setting} " in outcome.out


def test_data_show_counts_and_draws(headstart, image_folder, tmp_path):
    outcome = headstart("data", "show", image_folder, "--sheet", tmp_path / "sheet.png")
    assert outcome.code == 0, outcome.err
    assert "apple" in outcome.out
    assert "54" in outcome.out
    assert Image.open(tmp_path / "sheet.png").size[0] > 500
    words = ("data", "show", image_folder, "--augmented", "--backbone", "simple-cnn", "--augment", "strong")
    assert headstart(*words, "--sheet", tmp_path / "views.png").code == 0


def test_model_shows_stages_and_source_head(headstart):
    outcome = headstart("model", "resnet18")
    assert outcome.code == 0, outcome.err
    for words in ("Linear(512, 1000)", "layer4", "11,689,512", "BSD"):
        assert words in outcome.out


def test_data_list(headstart):
    outcome = headstart("data", "list")
    assert outcome.code == 0
    assert all(name in outcome.out for name in ("hotdog", "hymenoptera", "cifar10-animals-vehicles", "snacks"))


def test_help_is_quick_and_import_loads_no_torch():
    seconds = []
    while len(seconds) < 5 and min(seconds, default=1) >= 0.5:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "headstart", "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "train" in done.stdout
    # Processor time, which other work on the machine does not lengthen; nothing in it waits.
    assert min(seconds) < 0.5
    code = "import sys, headstart; headstart.Config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ""})


def test_nothing_is_written_among_the_images(headstart, make_folder, monkeypatch):
    folder = make_folder({"apple": 5, "sky": 5})
    monkeypatch.chdir(folder)
    picture = next(folder.glob("apple/*"))
    for words in (
        ("train", ".", *TINY),
        ("train", folder, *TINY, "--out", folder / "run"),
        ("data", "show", "."),
        ("predict", "no-run", ".", "--out", folder / "predicted.csv"),
        ("predict", "no-run", picture, "--out", picture),
        ("predict", "no-run", "apple/*", "--out", "apple/predicted.csv"),
        ("lr-find", ".", *TINY),
    ):
        outcome = headstart(*words)
        assert outcome.code == 2
        assert "lies among the images" in outcome.err
    assert sorted(path.name for path in folder.iterdir()) == ["apple", "sky"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lr-find", "nowhere", "--plot", "p.foo"), "ends in .png, .jpg, .jpeg, .webp, .pdf or .svg; change --plot"),
        (("lr-find", "nowhere", "--plot", "file/p.png"), "file is a file, not a folder; choose another --plot"),
        (("data", "show", "nowhere", "--sheet", "p.foo"), "ends in .png, .jpg, .jpeg or .webp; change --sheet"),
        (("evaluate", "no-run", "nowhere", "--predictions", "file/p.parquet"), "choose another --predictions"),
        (("predict", "no-run", "a.jpg", "--out", "file/p.csv"), "choose another --out"),
        (("predict", "no-run", "a.jpg", "--out", "."), "--out . is a folder; name a file in it"),
        (("delta", "no-run", "--out", "file/d.safetensors"), "choose another --out"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(headstart, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    outcome = headstart(*words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "cuda", "--precision", "32"), "no such device is visible to PyTorch here"),
        (("--batch-size", "1"), "a batch of one image has none"),
    ],
)
def test_what_cannot_train_leaves_no_folder(headstart, image_folder, tmp_path, words, message):
    small = ("--backbone", "lite0", "--image-size", 32, "--strategy", "scratch")
    outcome = headstart("train", image_folder, *small, *words, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


def test_random_weights_below_a_frozen_boundary_are_noted(headstart, image_folder):
    outcome = headstart("plan", image_folder, "--backbone", "simple-cnn", "--image-size", 32)
    assert "simple-cnn has random weights here, and head freezes 4 of its stages" in outcome.err


def test_resume_takes_no_other_settings(headstart, tmp_path):
    assert "leave out" in headstart("train", "--resume", tmp_path, "--overwrite").err


def test_evaluate_says_what_the_model_has_seen(headstart, make_folder, tmp_path):
    folder = make_folder({"train/apple": 4, "train/sky": 4, "val/apple": 2, "val/sky": 2})
    assert headstart("train", folder, *TINY, "--epochs", 1, "--out", tmp_path / "run").code == 0
    on_train = headstart("evaluate", tmp_path / "run", folder / "train")
    assert on_train.code == 0, on_train.err
    assert "was trained on 8 of these 8 images" in on_train.err
    table = tmp_path / "new" / "p.parquet"
    assert "trained on" not in headstart("evaluate", tmp_path / "run", folder / "val", "--predictions", table).err
    assert table.is_file()
    shutil.rmtree(folder / "val")  # a train split alone is what there is to evaluate, by its name or without
    for words in ((), ("--split", "train")):
        alone = headstart("evaluate", tmp_path / "run", folder, *words, "--format", "json")
        assert alone.code == 0, alone.err
        assert json.loads(alone.out)["split"] == "train"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "{data}", *TINY, "--epochs", "1", "--out", "run"),
        ("plan", "{data}", *TINY),
        ("data", "show", "{data}"),
        ("lr-find", "{data}", *TINY, "--steps", "10"),
        ("compare", "{data}", *TINY[:4], "--strategies", "scratch,full", "--seeds", "1", "--epochs", "1"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_command_says_what_it_understood_and_left_out(headstart, make_folder, tmp_path, monkeypatch, words):
    folder = make_folder({"apple": 8, "leaf": 8, "#recycle": 1})
    (folder / "apple" / "raw.CR2").write_bytes(b"raw")
    monkeypatch.chdir(tmp_path)
    outcome = headstart(*(word.format(data=folder) for word in words))
    assert outcome.code == 0, outcome.err
    lines = outcome.err.splitlines()
    at = lines.index("data: 16 images of 2 classes: apple 8, leaf 8")
    assert lines[at + 1] == "splits: train 12, test 4 (made here: the data has none)"
    assert sum("left out '#recycle'" in line for line in lines) == 1
    assert sum("raw.CR2" in line for line in lines) == 1


@pytest.mark.parametrize("suffix", [".txt", ".json", ".csv", ".parquet"])
def test_the_name_of_the_file_says_the_format(headstart, trained_run, image_folder, tmp_path, suffix):
    out = tmp_path / f"rows{suffix}"
    words = ("predict", trained_run, image_folder / "val" / "sky", "--out", out)
    assert headstart(*words).code == 0
    if suffix == ".parquet":
        assert pq.read_table(out).num_rows == 6
    elif suffix == ".json":
        assert len(json.loads(out.read_text())) == 6
    else:
        assert len(out.read_text().splitlines()) == (7 if suffix == ".csv" else 6)
    before = out.read_bytes()
    assert headstart(*words).code == 2
    assert out.read_bytes() == before
    assert headstart(*words, "--overwrite").code == 0


def test_a_picture_on_standard_input_is_no_list_of_paths(headstart, trained_run, image_folder, monkeypatch):
    picture = next((image_folder / "val" / "sky").iterdir())
    with picture.open(encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        outcome = headstart("predict", trained_run, "-")
    assert outcome.code == 2
    assert outcome.err.startswith("error: standard input holds no list of paths, but binary data")
    assert "predict RUN /dev/stdin < picture.jpg" in outcome.err


@pytest.mark.parametrize("stream", [io.StringIO(""), io.StringIO("\n\r\n"), None], ids=["empty", "blank", "closed"])
def test_an_empty_list_on_standard_input_is_noted(headstart, trained_run, monkeypatch, stream):
    monkeypatch.setattr("sys.stdin", stream)
    outcome = headstart("predict", trained_run, "-", "--format", "csv")
    assert outcome.code == 0
    assert outcome.err == (
        "note: standard input held no path, so there was nothing to classify; write one path per line\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_disk_behind_the_output_is_no_bug_of_ours():
    command = [sys.executable, "-m", "headstart", "data", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: No space left on device; free some space\n"
