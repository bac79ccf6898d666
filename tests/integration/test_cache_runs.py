"""Whole runs with and without kept features, alone or at once, killed or not, on a whole cache or a broken one.

They end in the same bytes.
"""

import csv
import json
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart import experiment
from headstart.config import make_config
from headstart.display import Display, Row
from headstart.engines import conversion
from headstart.features import cache, supply, table, trunk
from headstart.runs import Run
from tests.helpers.displays import Remembering
from tests.helpers.pictures import COLOURS, write_folder
from tests.helpers.processes import Forked

SMALL = {"backbone": "simple-cnn", "weights": "none", "image_size": 32, "epochs": 3, "views": 2, "threads": 1}
Train = Callable[..., Run]


class Trainer:
    """Runs on one data set, and what the last of them noted about features and engines."""

    def __init__(self, data: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._data, self._folder, self._patch = data, folder, patch
        self._count = 0
        self.said: list[str] = []
        self.cache = folder / "cache"

    def settings(self, **settings: Any) -> dict[str, Any]:
        self._count += 1
        return {**SMALL, "data": str(self._data), "out": str(self._folder / f"run {self._count}"), **settings}

    def __call__(self, *, cache_folder: Path | None = None, **settings: Any) -> Run:
        torch.set_num_threads(1)
        self._patch.setenv("HEADSTART_CACHE", str(cache_folder or self.cache))
        display = Remembering()
        run = experiment.train(make_config(self.settings(**settings)), display=display)
        notes = [line for line in display.said if line.startswith("note: ")]
        self.said = [line for line in notes if "feature" in line or "engine" in line]
        return run

    def model(self, **settings: Any) -> bytes:
        return model_of(self(**settings).path)

    def shards(self) -> list[Path]:
        return sorted(self.cache.glob("features/*/*/*.rows"))


def model_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def rows_of(run: Run) -> list[dict[str, str]]:
    """The rows of metrics.csv without their times."""
    with (run.path / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "time_s"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"{split}/{label}": n for split, n in (("train", 10), ("val", 5)) for label in COLOURS}
    return write_folder(tmp_path_factory.mktemp("pictures") / "fruit", counts)


@pytest.fixture
def train(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    # A disk so fast that to keep features always pays: otherwise it would depend on how busy the machine is.
    monkeypatch.setattr(supply, "_WRITE_SPEED", 1e15)
    monkeypatch.setattr(supply, "_READ_SPEED", 1e15)
    return Trainer(pictures, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def streamed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function that gives a run which kept nothing, as others have to end; for equal settings it is one."""
    runs: dict[str, Run] = {}

    def run(**settings: Any) -> Run:
        key = json.dumps(settings, sort_keys=True)
        if key not in runs:
            torch.set_num_threads(1)
            values = {**SMALL, **settings, "data": str(pictures), "cache": False}
            runs[key] = experiment.train(
                make_config({**values, "out": str(tmp_path_factory.mktemp("streamed") / "run")})
            )
        return runs[key]

    return run


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which no feature can be computed."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an engine is opened where all rows are there")

    return lambda: monkeypatch.setattr(trunk, "open_engine", refuse)


STRATEGIES: dict[str, dict[str, Any]] = {
    "head": {"strategy": "head", "epochs": 4},
    "head in PyTorch, odd batches": {"strategy": "head", "engine": "torch", "batch_size": 7},
    "head in 32 bits": {"strategy": "head", "precision": "32", "augment": "flip", "monitor": False},
    "partial": {"strategy": "partial", "stages": 2, "mixup": 0.2, "ema": 0.9},
    "gradual": {"strategy": "gradual", "phases": 3, "phase_epochs": [2, 2, 1], "accumulate": 2},
    "lp-ft": {"strategy": "lp-ft", "epochs": 1},
    "a solved head": {"strategy": "head", "solver": "lbfgs"},
    "selection and refit": {"strategy": "head", "best_epoch": True},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_with_and_without_kept_features_a_run_ends_in_the_same_bytes(train: Trainer, name: str) -> None:
    streamed = train(cache=False, **STRATEGIES[name])
    assert not train.cache.exists()
    kept = train(**STRATEGIES[name])
    assert model_of(kept.path) == model_of(streamed.path)
    assert rows_of(kept) == rows_of(streamed)
    assert train.shards()
    assert train.said == [] or name == "selection and refit"


def test_from_rows_that_were_there_before_too(train: Trainer, no_engine: Callable[[], None]) -> None:
    settings = {"strategy": "gradual", "phases": 3, "phase_epochs": [2, 1, 1]}
    cold = train(**settings)
    no_engine()
    warm = train(**settings)
    assert model_of(warm.path) == model_of(cold.path)
    assert rows_of(warm) == rows_of(cold)


def test_the_default_backbone_too(train: Trainer) -> None:
    """With its real weights; in 32 bits, because it is soonest compiled for these."""
    settings = {"backbone": "lite0", "weights": None, "image_size": 64, "strategy": "head", "precision": "32"}
    kept, streamed = train(**settings), train(**settings, cache=False)
    assert model_of(kept.path) == model_of(streamed.path)
    assert kept.metrics()["accuracy"]["value"] > 0.8
    assert len(train.shards()) == 1


def test_a_second_run_finds_all_rows(train: Trainer, no_engine: Callable[[], None]) -> None:
    # Weights that do not depend on the seed, as those of a pretrained network do not.
    base = {"weights": str(train(strategy="scratch", epochs=1).path), "strategy": "head"}
    train(**base)
    shards = train.shards()
    no_engine()
    for settings in ({"lr": 1e-3, "seed": 5}, {"batch_size": 5, "optimizer": "sgd"}, {"solver": "lbfgs", "threads": 2}):
        train(**base, **settings)
        assert not any("features" in line for line in train.said)
    train(**{**base, "strategy": "lp-ft", "epochs": 1})
    assert train.shards() == shards
    with pytest.raises(AssertionError, match="an engine is opened"):
        train(**base, augment="strong")


def test_strategies_with_one_boundary_share_rows(train: Trainer) -> None:
    train(strategy="gradual", phases=3)
    shards = train.shards()
    assert len(shards) == 3
    for settings in ({"strategy": "head"}, {"strategy": "partial", "stages": 1}, {"strategy": "partial", "stages": 2}):
        train(**settings)
    assert train.shards() == shards


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_solved_head_is_in_the_table_as_epoch_0_and_is_where_lp_ft_starts(train: Trainer, is_warm: bool) -> None:
    if is_warm:
        train(strategy="head", epochs=2)
    solved = train(strategy="head", solver="lbfgs")
    (row,) = rows_of(solved)
    assert (row["phase"], row["phase_name"], row["epoch"], row["step"]) == ("1", "head", "0", "0")
    assert float(row["train_accuracy"]) > 0.8
    assert float(row["val_accuracy"]) == solved.metrics()["accuracy"]["value"] > 0.8
    assert solved.metrics()["epochs_run"] == [0]
    loop = train(strategy="head", solver="loop")
    assert [row["epoch"] for row in rows_of(loop)] == ["1", "2", "3"]
    assert float(row["train_loss"]) < float(rows_of(loop)[-1]["train_loss"])

    both = train(strategy="lp-ft", lr=1e-12, epochs=1)  # a rate at which the second phase moves nothing to speak of
    first, second = rows_of(both)
    assert first == row
    assert (second["phase"], second["phase_name"], second["epoch"]) == ("2", "all", "1")
    assert float(second["val_loss"]) == pytest.approx(float(first["val_loss"]), rel=0.05)
    assert float(second["val_accuracy"]) == pytest.approx(float(first["val_accuracy"]), abs=0.06)
    assert both.metrics()["epochs_run"] == [0, 1]
    assert both.metrics()["best_epochs"] == [0, 1]


def test_solving_is_deterministic_and_depends_on_the_images_of_the_features_alone(train: Trainer) -> None:
    settings = {"strategy": "head", "solver": "lbfgs"}
    first = train.model(**settings)
    for more in ({}, {"batch_size": 7}, {"lr": 0.5}, {"epochs": 1}, {"threads": 3}):
        assert train.model(**settings, **more) == first
    assert train.model(**settings, views=1) != first


SMASH = {
    "half of it": lambda content: content[: len(content) // 2],
    "the last byte": lambda content: content[:-1],
    "all of it": lambda content: b"",
    "a bit": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
}


def test_damaged_shards_change_nothing(train: Trainer) -> None:
    settings = {"strategy": "gradual", "phases": 2, "epochs": 1}
    whole = train.model(**settings)
    contents = {shard: shard.read_bytes() for shard in train.shards()}
    assert len(contents) == 2
    for what, smash in SMASH.items():
        for shard, content in contents.items():
            shard.write_bytes(smash(content))
        assert train.model(**settings) == whole, what
        assert {shard: shard.read_bytes() for shard in train.shards()} == contents, what  # computed again, to the bit
        assert train.said == []


def test_damaged_recipes_and_foreign_files_change_nothing(train: Trainer) -> None:
    whole = train.model(strategy="head")
    for recipe in train.cache.glob("engines/*.json"):
        recipe.write_text("{")
    (train.cache / "features" / "note.txt").write_text("mine")
    (train.shards()[0].parent / "0.rows").write_bytes(b"x" * 999)
    assert train.model(strategy="head") == whole
    assert (train.cache / "features" / "note.txt").read_text() == "mine"


def test_an_image_that_changes_between_runs_is_computed_anew(
    train: Trainer, make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same size and the same time, as a sloppy tool leaves it."""
    counts = {f"{split}/{label}": 4 for split in ("train", "val") for label in ("apple", "sky")}
    folder = make_folder(counts, "mine")
    mine = Trainer(folder, tmp_path / "runs", monkeypatch)
    before = mine.model(strategy="head")
    pictures = [folder / "train" / "apple" / f"{number}.jpg" for number in ("000", "002")]
    other, picture = sorted(pictures, key=lambda path: path.stat().st_size)
    status, content = picture.stat(), other.read_bytes()
    picture.write_bytes(content + bytes(status.st_size - len(content)))  # no decoder reads what follows the end
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (picture.stat().st_size, picture.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = mine.model(strategy="head")
    assert after != before
    assert after == mine.model(strategy="head", cache=False)


UNWRITABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a file in its place": (lambda folder: folder / "file" / "cache", "10GB"),
    "a file system that takes no files": (lambda folder: Path("/proc/headstart"), "10GB"),
    "no permission": (lambda folder: folder / "read-only", "10GB"),
    "a limit of nothing": (lambda folder: folder / "cache", "0"),
    "a limit of one kilobyte": (lambda folder: folder / "cache", "1KB"),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_without_a_usable_folder_the_run_ends_all_the_same(
    train: Trainer,
    streamed: Train,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    place, limit = UNWRITABLE[name]
    if name == "no permission":
        request.getfixturevalue("not_root")
        (tmp_path / "read-only").mkdir(mode=0o555)
    if name.startswith("a file system") and not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    (tmp_path / "file").write_text("no folder")
    settings = {"strategy": "gradual", "phases": 2, "epochs": 1}
    expected = model_of(streamed(**settings).path)
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", limit)
    assert train.model(cache_folder=place(tmp_path), **settings) == expected
    assert any("kept in memory only" in line for line in train.said), train.said
    assert train.shards() == []


def test_without_memory_either_features_are_computed_in_every_epoch(
    train: Trainer, streamed: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"strategy": "head"}
    expected = model_of(streamed(**settings).path)
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", "1KB")
    monkeypatch.setattr(cache, "default_memory_bytes", lambda: 1000)
    assert train.model(**settings) == expected
    assert any("computed in every epoch" in line for line in train.said), train.said


def test_a_small_limit_lets_older_tables_go(train: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for one boundary's rows at a time."""
    settings = {"strategy": "gradual", "phases": 2, "epochs": 1}
    expected = train.model(**settings)
    sizes = [shard.stat().st_size for shard in train.shards()]
    assert len(sizes) == 2
    limit = max(sizes) + min(sizes) // 2
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", str(limit))
    train(strategy="gradual", phases=2, epochs=1, augment="flip")
    assert 0 < sum(shard.stat().st_size for shard in train.shards()) <= limit
    assert train.model(**settings) == expected
    assert 0 < sum(shard.stat().st_size for shard in train.shards()) <= limit
    assert train.said == []


def run_until_killed(pipe: Connection, settings: Mapping[str, Any]) -> None:
    """Train, and send SIGKILL to this very process when some features have been computed."""
    table._SHARD_BYTES = 2000  # so that some rows are on disk already

    class Killing(Display):
        def progress(self, title: str, done: int, total: int) -> None:
            if title == "computing features" and done >= 64:
                os.kill(os.getpid(), signal.SIGKILL)

    experiment.train(make_config(settings), display=Killing())


def test_a_run_that_is_killed_while_it_computes_features_resumes_to_the_same_bytes(
    train: Trainer, streamed: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"strategy": "gradual", "phases": 2, "epochs": 2}
    whole = streamed(**settings)
    killed = train.settings(**settings)
    monkeypatch.setenv("HEADSTART_CACHE", str(train.cache))
    process = Forked(run_until_killed, killed)
    assert process.wait() == -signal.SIGKILL, process.output
    folder = Path(killed["out"])
    assert (folder / "config.yaml").exists()
    assert not (folder / "metrics.json").exists()
    assert train.shards()  # of the rows computed so far
    resumed = experiment.resume(folder)
    assert model_of(folder) == model_of(whole.path)
    assert rows_of(resumed) == rows_of(whole)
    counts = [run.metrics()["epochs_run"] for run in (resumed, whole)]
    assert counts[0] == counts[1] == [2, 2]


class _StopsAt(Display):
    """Interrupts a run when its table of epochs gets a row of such a phase and epoch."""

    def __init__(self, phase: int, epoch: int) -> None:
        self._position = phase, epoch

    def epoch(self, row: Row) -> None:
        if (row["phase"], row["epoch"]) == self._position:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("phase", "epoch"), [(1, 0), (2, 1), (2, 2)])
def test_a_run_that_is_interrupted_around_the_solved_head_resumes_to_the_same_bytes(
    train: Trainer, streamed: Train, monkeypatch: pytest.MonkeyPatch, phase: int, epoch: int
) -> None:
    settings = {"strategy": "lp-ft", "epochs": 2}
    whole = streamed(**settings)
    monkeypatch.setenv("HEADSTART_CACHE", str(train.cache))
    stopped = train.settings(**settings)
    with pytest.raises(KeyboardInterrupt):
        experiment.train(make_config(stopped), display=_StopsAt(phase, epoch))
    resumed = experiment.resume(Path(stopped["out"]))
    assert model_of(resumed.path) == model_of(whole.path)
    assert rows_of(resumed) == rows_of(whole)
    assert resumed.metrics()["epochs_run"] == whole.metrics()["epochs_run"] == [0, 2]


def run_when_told(pipe: Connection, settings: Mapping[str, Any]) -> None:
    pipe.send("ready")
    pipe.recv()
    experiment.train(make_config(settings))


def test_two_runs_at_once_on_one_cache_end_like_one_alone(
    train: Trainer, streamed: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"strategy": "gradual", "phases": 2, "epochs": 2}
    alone = model_of(streamed(**settings).path)
    other = train.settings(**settings)
    monkeypatch.setenv("HEADSTART_CACHE", str(train.cache))
    process = Forked(run_when_told, other)
    assert process.pipe.recv() == "ready"
    process.pipe.send("go")
    assert train.model(**settings) == alone
    process.finish()
    assert model_of(Path(other["out"])) == alone
    assert not list(train.cache.rglob(".*"))
    assert train.model(**settings) == alone


def test_a_refused_engine_is_in_the_record_and_not_in_the_way(train: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("it does not like it")

    monkeypatch.setattr(conversion, "convert", refuse)
    run = train(strategy="head")
    assert train.said == []
    refused = run.environment()["refused_engines"]
    assert "engine openvino 32 is not used for this network: it does not like it" in refused
    assert list(run.resolved().engines.values()) == ["torch 32"]
    train(strategy="head", engine="openvino")
    assert [line.removeprefix("note: ") for line in train.said] == refused
