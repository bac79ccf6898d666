import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from headstart import files as files_module
from headstart.config import Config, dump_config
from headstart.errors import ConfigError, RunError
from headstart.files import write_atomic, write_json
from headstart.history import MetricsLog
from headstart.machine import environment
from headstart.runs import (
    Run,
    check_out_folder,
    check_output,
    create_run_folder,
    default_run_path,
    locate,
    open_run,
    run_of_model,
    sole_writer,
    write_parquet,
)

FILES = {"config.yaml": dump_config(Config(data="snacks")), "environment.json": "{}"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def one_line(error: pytest.ExceptionInfo[RunError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Creating


def test_a_new_run_folder_holds_exactly_the_files(tmp_path):
    run = create_run_folder(
        tmp_path / "runs" / "a",
        {**FILES, "manifest.parquet": b"\x00", "model/config.json": '{"label_names": ["a", "b"]}'},
    )
    assert run.path == tmp_path / "runs" / "a"
    assert names(run.path) == ["config.yaml", "environment.json", "manifest.parquet", "model"]
    assert run.labels == ("a", "b")
    assert names(tmp_path / "runs") == ["a"]
    assert open_run(run.path).config() == Config(data="snacks")


def test_a_new_run_folder_has_ordinary_permissions(tmp_path):
    run = create_run_folder(tmp_path / "a", FILES)
    (tmp_path / "plain").mkdir()
    assert run.path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    assert names(create_run_folder(tmp_path / "a", FILES).path) == sorted(FILES)


def test_a_relative_path_stays_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert create_run_folder("runs/a", FILES).path == Path("runs/a")
    assert (tmp_path / "runs/a/config.yaml").is_file()


@pytest.mark.parametrize(
    "act", [check_out_folder, lambda path, overwrite: create_run_folder(path, FILES, overwrite=overwrite)]
)
class TestRefusals:
    def test_an_existing_run_needs_overwrite(self, act, tmp_path):
        run = create_run_folder(tmp_path / "a", {**FILES, "old.txt": "old"})
        with pytest.raises(RunError) as error:
            act(run.path, False)
        assert "--overwrite" in one_line(error)
        assert "--resume" in str(error.value)
        assert (run.path / "old.txt").is_file()

    @pytest.mark.parametrize("content", ["notes.txt", "config.yaml", ".hidden"])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_another_folder_is_never_replaced(self, act, tmp_path, content, overwrite):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / content).write_text("mine")
        with pytest.raises(RunError, match="not empty and is no run folder"):
            act(tmp_path / "mine", overwrite)
        assert names(tmp_path) == ["mine"]
        assert (tmp_path / "mine" / content).read_text() == "mine"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_of_that_name(self, act, tmp_path, overwrite):
        (tmp_path / "a").write_text("mine")
        with pytest.raises(RunError, match="a file has that name"):
            act(tmp_path / "a", overwrite)
        assert (tmp_path / "a").read_text() == "mine"

    def test_a_parent_that_is_a_file(self, act, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError) as error:
            act(tmp_path / "file" / "runs" / "a", False)
        assert "is a file, not a folder" in one_line(error)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_parent_without_permission(self, act, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(RunError, match="no permission"):
            act(tmp_path / "locked" / "a", False)

    def test_the_working_folder_with_things_in_it(self, act, tmp_path, monkeypatch):
        (tmp_path / "photo.jpg").write_text("")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(RunError, match="not empty"):
            act(".", True)


def test_overwrite_replaces_the_whole_run(tmp_path):
    create_run_folder(tmp_path / "a", {**FILES, "metrics.csv": "old"})
    run = create_run_folder(tmp_path / "a", {**FILES, "plan.json": "new"}, overwrite=True)
    assert names(run.path) == ["config.yaml", "environment.json", "plan.json"]
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["notes.txt", "model/notes.txt", "report/a/sketch.svg"])
def test_overwrite_keeps_what_headstart_did_not_write(tmp_path, name):
    create_run_folder(tmp_path / "a", {**FILES, name: "mine", "model/README.md": "card", "report/run-1/loss.png": ""})
    for act in (check_out_folder, lambda path, overwrite: create_run_folder(path, FILES, overwrite=overwrite)):
        with pytest.raises(RunError, match=rf"files that Headstart did not write.*: {name}; move them") as error:
            act(tmp_path / "a", True)
        one_line(error)
    assert (tmp_path / "a" / name).read_text() == "mine"


def test_overwrite_keeps_a_link_to_a_folder(tmp_path):
    create_run_folder(tmp_path / "a", FILES)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a" / "mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"files that Headstart did not write.*: mine; move them"):
        create_run_folder(tmp_path / "a", FILES, overwrite=True)
    assert (tmp_path / "a" / "mine").is_symlink()


class Late(dict):
    """Files of a run, in whose writing another command is quicker."""

    def __init__(self, folder: Path) -> None:
        super().__init__(FILES)
        self.folder = folder

    def items(self):
        create_run_folder(self.folder, {**FILES, "plan.json": "theirs"})
        return super().items()


def test_a_run_that_came_in_between_stays(tmp_path):
    with pytest.raises(RunError, match=r"another command has just created .*a; choose another --out"):
        create_run_folder(tmp_path / "a", Late(tmp_path / "a"))
    assert (tmp_path / "a" / "plan.json").read_text() == "theirs"
    assert names(tmp_path) == ["a"]


def hold(folder: Path) -> subprocess.Popen[str]:
    """Return a process that writes to a folder."""
    script = """
import sys
from headstart.runs import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_has_one_writer_and_none_after_a_kill(tmp_path):
    folder = tmp_path / "runs" / "a"
    process = hold(folder)
    for act in (sole_writer(folder).__enter__, lambda: check_out_folder(folder, True)):
        with pytest.raises(
            RunError, match=rf"another command is writing to .*/a \(process {process.pid} on .*\)"
        ) as error:
            act()
        assert "wait until it ends, or stop it" in one_line(error)
    process.kill()
    process.communicate()

    check_out_folder(folder, False)
    with sole_writer(folder):
        create_run_folder(folder, FILES)
        with pytest.raises(RunError, match="another command is writing"):
            sole_writer(folder).__enter__()
    assert names(folder.parent) == ["a"]


def test_a_writer_that_writes_nothing_leaves_nothing(tmp_path):
    with sole_writer(tmp_path / "runs" / "deep" / "a"):
        pass
    assert names(tmp_path) == []


def test_overwrite_through_a_link_replaces_the_folder_and_keeps_the_link(tmp_path):
    create_run_folder(tmp_path / "a", {**FILES, "metrics.csv": "old"})
    (tmp_path / "latest").symlink_to(tmp_path / "a")
    create_run_folder(tmp_path / "latest", FILES, overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert names(tmp_path / "a") == sorted(FILES)


def test_checking_writes_nothing(tmp_path):
    check_out_folder(tmp_path / "runs" / "deep" / "a", False)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_no_run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError) as error:
        create_run_folder(tmp_path / "a", FILES)
    assert "no space left on device" in one_line(error)
    assert "free some space" in str(error.value)
    assert names(tmp_path) == []


def test_a_full_disk_keeps_the_run_that_was_to_be_replaced(tmp_path, monkeypatch):
    run = create_run_folder(tmp_path / "a", {**FILES, "plan.json": "old"})
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="no space left"):
        create_run_folder(run.path, FILES, overwrite=True)
    assert (run.path / "plan.json").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_failed_exchange_puts_the_old_run_back(tmp_path, monkeypatch):
    run = create_run_folder(tmp_path / "a", {**FILES, "plan.json": "old"})
    rename = Path.rename

    def fail_for_the_new_one(self, target):
        if self.parent.name == "new":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(RunError, match="permission denied"):
        create_run_folder(run.path, FILES, overwrite=True)
    assert names(tmp_path) == ["a"]
    assert (run.path / "plan.json").is_file()


# Opening


def test_a_missing_run_is_suggested(tmp_path):
    create_run_folder(tmp_path / "ants-lite0-head-seed0", FILES)
    with pytest.raises(RunError, match=r"Did you mean '.*ants-lite0-head-seed0'") as error:
        open_run(tmp_path / "ants-lite0-head-seed1")
    assert "there is no run folder" in one_line(error)


def test_other_things_are_no_run(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="model folder"):
        open_run(tmp_path / "model")
    with pytest.raises(RunError, match=r"no run folder: it has no config\.yaml"):
        open_run(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        open_run(tmp_path / "file")


@pytest.mark.parametrize(
    ("files", "is_run", "model", "weights"),
    [
        ([], False, None, None),
        (["config.yaml"], True, None, None),
        (["config.yaml", "model/config.json", "model/model.safetensors"], True, "model", "model/model.safetensors"),
        (["config.json", "model.safetensors"], False, ".", "model.safetensors"),
        (["model.safetensors"], False, None, "model.safetensors"),
        (["config.json", "model/config.json"], False, "model", None),
    ],
)
def test_what_lies_at_a_path(tmp_path, files, is_run, model, weights):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    place = locate(str(tmp_path))
    assert place.is_run == is_run
    assert place.model == (None if model is None else tmp_path / model)
    assert place.weights == (None if weights is None else tmp_path / weights)
    assert locate(tmp_path / "nothing").model is None


def test_a_model_belongs_to_the_run_around_it_where_its_images_are_known(tmp_path):
    run = create_run_folder(tmp_path / "run", {**FILES, "manifest.parquet": b"", "model/config.json": "{}"})
    assert run_of_model(run.path) == run_of_model(run.model_folder) == run
    (run.path / "manifest.parquet").unlink()
    assert run_of_model(run.path) is None


def test_a_study_is_no_run_and_says_where_its_runs_are(tmp_path):
    create_run_folder(tmp_path / "study" / "head" / "seed0", FILES)
    for folder, runs in (("study", r"study/\*/seed\*"), ("study/head", r"study/head/seed\*")):
        message = rf"{folder} holds several runs and is no run itself; name its runs: .*/{runs}$"
        with pytest.raises(RunError, match=message):
            open_run(tmp_path / folder)


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    run = create_run_folder(tmp_path / "a b", FILES)
    assert not run.is_finished
    for read in (run.metrics, run.predictions, lambda: run.labels):
        with pytest.raises(RunError) as error:
            read()
        assert f"headstart train --resume '{run.path}'" in one_line(error)
    assert run.history() == []


def test_a_finished_run_is_read_back(tmp_path):
    predictions = pyarrow.table({"path": ["b.png", "a.png"], "label": ["x", "y"], "predicted": ["x", "x"]})
    run = create_run_folder(tmp_path / "a", {**FILES, "plan.json": '{"phases": []}', "data_report.json": "{}"})
    write_parquet(run.path / "predictions.parquet", predictions)
    write_json(run.path / "metrics.json", {"accuracy": {"value": 0.5}})
    again = open_run(str(run.path))
    assert again.is_finished
    assert again.metrics()["accuracy"]["value"] == 0.5
    assert again.predictions().equals(predictions)
    assert (again.plan(), again.data_report(), again.environment()) == ({"phases": []}, {}, {})


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux")
def test_predictions_are_read_without_threads_that_could_outlive_python(tmp_path):
    """A thread of Arrow's that gave a buffer back while Python was exiting aborted one process in 150."""
    write_parquet(tmp_path / "predictions.parquet", pyarrow.table({"path": ["a"], "p_a": [1.0]}))
    code = f"""
import os
import pyarrow.parquet
from headstart.runs import Run
before = set(os.listdir("/proc/self/task"))
Run({str(tmp_path)!r}).predictions()
print([open(f"/proc/self/task/{{task}}/comm").read() for task in set(os.listdir("/proc/self/task")) - before])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "python" not in done.stdout


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_file_is_named(tmp_path, content):
    run = create_run_folder(tmp_path / "a", {**FILES, "metrics.json": content, "predictions.parquet": "PAR1"})
    with pytest.raises(RunError, match=r"metrics\.json is damaged"):
        run.metrics()
    with pytest.raises(RunError, match=r"predictions\.parquet is damaged"):
        run.predictions()


# Files


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="no space left"):
        write_atomic(path, b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"label": "Würstchen"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "label": "Würstchen"\n}\n'


def test_writing_where_no_folder_is(tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        write_atomic(tmp_path / "missing" / "a.json", "{}")


def test_hints_are_for_the_error():
    assert "choose a shorter name" in str(
        files_module.file_error("write", Path("a"), OSError(errno.ENAMETOOLONG, "long"))
    )


# Names and environment


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("hotdog", "lite0", "head", 0), "hotdog-lite0-head-seed0"),
        (("my photos", "timm/vit_small_patch16_224", "lp-ft", 3), "my-photos-timm-vit_small_patch16_224-lp-ft-seed3"),
        (("../..", "a/b", "tables/mine.yaml", 1), "unnamed-a-b-mine-seed1"),
        (("Früchte: 2024*", "lite0", "head", 0), "Früchte-2024-lite0-head-seed0"),
        (("", "lite0", "head", 0), "unnamed-lite0-head-seed0"),
        (("x" * 300, "lite0", "head", 0), "x" * 60 + "-lite0-head-seed0"),
    ],
)
def test_default_names(arguments, name):
    assert default_run_path(*arguments) == Path("runs") / name


def test_a_file_that_cannot_be_written_is_refused_before(tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "file").write_text("")
    for target, data, message in (
        ("pics/p.csv", "pics", "among the images of .*pics, where nothing is written; name another --sheet"),
        ("pics/p.csv", "pics/*.jpg", r"among the images of .*pics/\*.jpg"),
        ("pics/p.csv", "**/*.jpg", "among the images of"),
        ("pics", "", "--sheet .*pics is a folder; name a file in it"),
        ("p.csv", "pics", r"expected a name that ends in .png or .jpg; change --sheet"),
        ("file/p.png", "pics", "file is a file, not a folder; choose another --sheet"),
    ):
        with pytest.raises((ConfigError, RunError), match=message) as caught:
            check_output(tmp_path / target, data and str(tmp_path / data), "--sheet", ".png", ".jpg")
        one_line(caught)
    check_output(tmp_path / "new" / "p.PNG", str(tmp_path / "pics" / "*"), "--sheet", ".png", ".jpg")
    assert names(tmp_path) == ["file", "pics"]


def test_environment_is_plain_and_complete():
    values = json.loads(json.dumps(environment(7)))
    assert values["seed"] == 7
    assert values["cores"] >= 1
    assert values["cpu"]
    assert {"headstart", "torch", "numpy"} <= values["packages"].keys()


def test_importing_runs_loads_no_torch():
    code = "import sys, headstart.runs; sys.exit(any(name in sys.modules for name in ('torch', 'pyarrow', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# metrics.csv

ROW = {
    "fit": "final", "phase": 0, "phase_name": "head", "epoch": 1, "step": 8, "lr": 1e-3, "head_lr": None,
    "train_loss": 0.1 + 0.2,
    "train_accuracy": 0.5, "val_split": "test", "val_loss": 0.25, "val_accuracy": 1.0, "time_s": 1.5,
}  # fmt: skip


@pytest.fixture
def log(tmp_path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics.csv")


def test_rows_come_back_as_they_went_in(log):
    log.append(ROW)
    log.append({"phase": 1, "phase_name": 'a "b", c', "epoch": 2})
    first, second = log.rows()
    assert first == ROW
    assert list(first) == list(MetricsLog.COLUMNS)
    assert second == dict.fromkeys(MetricsLog.COLUMNS) | {"phase": 1, "phase_name": 'a "b", c', "epoch": 2}


def test_no_file_is_no_row(log):
    assert log.rows() == []


def test_an_unknown_column_is_refused(log):
    with pytest.raises(ValueError, match="accuracy"):
        log.append({"accuracy": 1.0})


def test_every_cut_of_the_last_line_is_survived(log):
    log.append(ROW)
    log.append(ROW | {"epoch": 2})
    data = log.path.read_bytes()
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(len(data)):
        log.path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        assert len(log.rows()) == max(0, whole - 1)
        if cut >= start:
            log.append(ROW | {"epoch": 2})
            assert log.path.read_bytes() == data
    log.path.write_bytes(data[:10])  # not even the header is whole
    log.append(ROW)
    assert log.rows() == [ROW]


def test_truncating_makes_a_resume_repeat_the_same_bytes(log):
    for epoch in range(1, 4):
        log.append(ROW | {"epoch": epoch})
    data = log.path.read_bytes()
    log.path.write_bytes(data + b"0,head,4")
    log.truncate_to(1)
    assert [row["epoch"] for row in log.rows()] == [1]
    for epoch in range(2, 4):
        log.append(ROW | {"epoch": epoch})
    assert log.path.read_bytes() == data
    log.truncate_to(0)
    assert log.rows() == []


def test_truncating_one_fit_leaves_the_other(log):
    for fit, epoch in [("selection", 1), ("selection", 2), ("final", 1), ("final", 2)]:
        log.append(ROW | {"fit": fit, "epoch": epoch})
    MetricsLog(log.path, fit="final").truncate_to(1)
    assert [(row["fit"], row["epoch"]) for row in log.rows()] == [("selection", 1), ("selection", 2), ("final", 1)]
    MetricsLog(log.path, fit="final").truncate_to(0)
    assert [row["fit"] for row in log.rows()] == ["selection", "selection"]
    with pytest.raises(RunError, match="holds 0 rows"):
        MetricsLog(log.path, fit="final").truncate_to(1)


def test_truncating_to_more_than_there_is(log):
    log.append(ROW)
    with pytest.raises(RunError, match="holds 1 rows"):
        log.truncate_to(2)


def test_truncating_nothing_to_nothing(log):
    log.truncate_to(0)
    assert log.rows() == []
    assert not log.path.exists()


def test_a_damaged_table_is_named(log):
    log.path.write_text("phase,epoch\nx,1\n")
    with pytest.raises(RunError, match="is damaged"):
        log.rows()


def test_a_table_of_an_older_version_is_read(log):
    log.path.write_text("epoch,train_loss\n1,0.5\n")
    assert log.rows() == [{"epoch": 1, "train_loss": 0.5}]


def test_a_full_disk_stops_in_one_line_and_keeps_the_table(log, monkeypatch):
    log.append(ROW)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError) as error:
        log.append(ROW | {"epoch": 2})
    assert "no space left" in one_line(error)
    assert log.rows() == [ROW]


def test_a_run_killed_while_appending_is_readable(tmp_path):
    run = Run(tmp_path)
    code = (
        "import sys; from headstart.history import MetricsLog\n"
        f"log = MetricsLog({str(tmp_path / 'metrics.csv')!r}); print(flush=True); n = 0\n"
        "while True: n += 1; log.append({'epoch': n, 'train_loss': n / 3})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        while len(run.history()) < 20 and process.poll() is None:
            pass
        process.kill()
    rows = run.history()
    assert len(rows) >= 20
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))


def test_decisions_that_are_missing_or_damaged_are_said(tmp_path):
    run = create_run_folder(
        tmp_path / "run", {"config.yaml": "data: x", "environment.json": "{}", "metrics.json": "{}"}
    )
    assert not run.is_of_version_0_1
    with pytest.raises(RunError, match=r"has no resolved.json: it was removed"):
        run.resolved()
    (run.path / "resolved.json").write_text("{")
    with pytest.raises(RunError, match=r"resolved.json is damaged or another version's \(it holds no JSON object"):
        run.resolved()
