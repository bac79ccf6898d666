"""The run folder: its names, its schema, and how it is read and written. Importing this module loads no torch."""

import glob
import io
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.config import Config, asked_values, make_config
from headstart.errors import ConfigError, RunError, did_you_mean, either, listed
from headstart.files import file_error, make_parent, whole_folder, write_atomic, write_synced
from headstart.history import MetricsLog
from headstart.locks import holder, holding
from headstart.resolved import Resolved, decisions_of_version_0_1
from headstart.values import read_yaml

if TYPE_CHECKING:
    import pyarrow

# Files of a run folder.
CONFIG = "config.yaml"
RESOLVED = "resolved.json"
ENVIRONMENT = "environment.json"
MANIFEST = "manifest.parquet"
PLAN = "plan.json"
DATA_REPORT = "data_report.json"
METRICS = "metrics.json"
HISTORY = "metrics.csv"
PREDICTIONS = "predictions.parquet"

# Its folders.
MODEL = "model"
EXPLANATIONS = "explanations"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"

# Files of the model folder.
WEIGHTS = "model.safetensors"
MODEL_CONFIG = "config.json"

# What Headstart writes into a run folder, as patterns of paths in it. What else lies there is the user's own.
_WRITTEN = (
    CONFIG, RESOLVED, ENVIRONMENT, MANIFEST, PLAN, DATA_REPORT, METRICS, HISTORY, PREDICTIONS,
    f"{MODEL}/{WEIGHTS}", f"{MODEL}/{MODEL_CONFIG}", f"{MODEL}/lora.safetensors", f"{MODEL}/preprocessor_config.json",
    f"{MODEL}/labels.txt", f"{MODEL}/README.md", f"{MODEL}/graph.xml", f"{MODEL}/graph.bin",
    f"{CHECKPOINTS}/*", f"{TENSORBOARD}/*", f"{EXPLANATIONS}/*.png", f"{EXPLANATIONS}/{EXPLANATIONS}.json",
    "report.html", "report/*.png",
    ".headstart-*", "*/.headstart-*",  # left behind by a kill; see `files`
    ".DS_Store", "*/.DS_Store",  # the system's
)  # fmt: skip

# Only a folder with both is taken for a run that may be replaced: many projects have a config.yaml.
_MARKERS = (CONFIG, ENVIRONMENT)


@dataclass(frozen=True)
class Run:
    """A finished or unfinished training run, read from its folder; it holds no network and no data.

    Attributes:
        path: The run folder.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # callers may give a str

    @property
    def model_folder(self) -> Path:
        """The folder of the trained model, whether or not it is there yet."""
        return self.path / MODEL

    @property
    def is_finished(self) -> bool:
        """Whether the run got as far as its final figures."""
        return (self.path / METRICS).is_file()

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the model's outputs.

        Raises:
            RunError: There is no trained model yet.
        """
        # labels.txt is for people: a label with a line break is quoted there.
        return tuple(self._read_json(f"{MODEL}/{MODEL_CONFIG}").get("label_names", ()))

    @property
    def is_of_version_0_1(self) -> bool:
        """Whether version 0.1 wrote the run, when decisions had no file of their own."""
        if (self.path / RESOLVED).is_file():
            return False
        return "choices" in read_yaml(self.path / CONFIG)

    def asked(self) -> dict[str, Any]:
        """Return what was asked for as plain values, not checked: another version may have had other settings.

        Raises:
            ConfigError: `config.yaml` cannot be read.
        """
        return asked_values(read_yaml(self.path / CONFIG))

    def config(self) -> Config:
        """Return what was asked for.

        Raises:
            ConfigError: `config.yaml` is not valid.
        """
        return make_config(self.asked())

    def resolved(self) -> Resolved:
        """Return what was decided.

        Raises:
            RunError: `resolved.json` is damaged.
            ConfigError: `config.yaml`, which holds the decisions of version 0.1, is not valid.
        """
        if self.is_of_version_0_1:
            return decisions_of_version_0_1(read_yaml(self.path / CONFIG), self.path / CONFIG)
        return Resolved.from_json(self._read_bytes(RESOLVED), self.path / RESOLVED)

    def settings(self) -> dict[str, Any]:
        """Return the settings with which it ran, as plain values: what was asked for, with what was decided in place.

        Raises:
            HeadstartError: A file is not valid.
        """
        return settings_with_decisions(self.asked(), self.resolved())

    def metrics(self) -> dict[str, Any]:
        """Return the final figures, `metrics.json`.

        Raises:
            RunError: The run is not finished.
        """
        return self._read_json(METRICS)

    def data_report(self) -> dict[str, Any]:
        """Return what the checks of the data found, `data_report.json`.

        Raises:
            RunError: The file is missing or damaged.
        """
        return self._read_json(DATA_REPORT)

    def environment(self) -> dict[str, Any]:
        """Return versions, hardware, git commit and seed, `environment.json`.

        Raises:
            RunError: The file is missing or damaged.
        """
        return self._read_json(ENVIRONMENT)

    def plan(self) -> dict[str, Any]:
        """Return what each phase trained, `plan.json`.

        Raises:
            RunError: The file is missing or damaged.
        """
        return self._read_json(PLAN)

    def history(self) -> list[dict[str, Any]]:
        """Return the epochs so far, oldest first; see `MetricsLog.COLUMNS`. Empty cells are None.

        Raises:
            RunError: The table is damaged.
        """
        return MetricsLog(self.path / HISTORY).rows()

    def predictions(self) -> "pyarrow.Table":
        """Return the table of reported images: path, label, predicted, p_<class>...

        Raises:
            RunError: The run is not finished.
        """
        import pyarrow.parquet

        try:
            # Without Arrow's threads: they give back what they hold of Python's at any time, and where Python is
            # exiting by then, that aborts the process.
            source = pyarrow.BufferReader(self._read_bytes(PREDICTIONS))
            return pyarrow.parquet.ParquetFile(source, pre_buffer=False).read(use_threads=False)
        except pyarrow.ArrowInvalid as error:
            raise RunError(f"{self.path / PREDICTIONS} is damaged: {error}; train again with --overwrite") from error

    def _read_json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file of the run."""
        try:
            value = json.loads(self._read_bytes(name))
        except ValueError as error:
            raise RunError(f"{self.path / name} is damaged: {error}; train again with --overwrite") from error
        if not isinstance(value, dict):
            raise RunError(f"{self.path / name} is damaged: it holds no JSON object; train again with --overwrite")
        return value

    def _read_bytes(self, name: str) -> bytes:
        """Return the content of a file of the run."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            if self.is_finished:
                advice = "it was removed, or written by another version; train again with --overwrite"
            else:
                advice = f"the run is not finished; go on: headstart train --resume {shlex.quote(str(self.path))}"
            raise RunError(f"run {self.path} has no {name}: {advice}") from None
        except OSError as error:
            raise file_error("read", self.path / name, error) from error


def settings_with_decisions(asked: Mapping[str, Any], resolved: Resolved) -> dict[str, Any]:
    """Return all settings as plain values, with what was decided in the place of what was left open."""
    decided = {name: getattr(resolved, name) for name in ("strategy", "table", "lr", "head_init", "batch_size")}
    defaults = make_config({}).model_dump(mode="json")
    return {**defaults, **asked, **decided}


@dataclass(frozen=True)
class Place:
    """What lies at a path: a run folder, a model folder, or neither.

    Attributes:
        path: The path as it was given.
        is_run: Whether it is the folder of a run, finished or not.
        model: The folder of a saved model: the run's, or the path itself. None where no model is described.
        weights: The weight file of either folder, which may be there without a description. None where there is none.
    """

    path: Path
    is_run: bool
    model: Path | None
    weights: Path | None


def locate(path: str | Path) -> Place:
    """Say what lies at a path. Whatever takes a run or a model asks here."""
    folder = Path(path)
    model = None
    weights = None
    for place in (folder, folder / MODEL):  # where both are models, the one within is meant
        if (place / MODEL_CONFIG).is_file():
            model = place
        if (place / WEIGHTS).is_file():
            weights = place / WEIGHTS
    is_run = (folder / CONFIG).is_file()
    return Place(folder, is_run, model, weights)


def run_of_model(path: Path) -> Run | None:
    """Return the run that a run folder or a model folder belongs to; None where its images are not known."""
    for folder in (path, path.parent):
        # Beside a model folder that was copied may lie somebody else's manifest.
        if locate(folder).is_run and (folder / MANIFEST).is_file():
            return Run(folder)
    return None


def open_run(path: str | Path) -> Run:
    """Open a run folder.

    Raises:
        RunError: It is no run folder; the message says what is missing and what to do.
    """
    place = locate(path)
    folder = place.path
    if place.is_run:
        return Run(folder)
    if not folder.exists():
        siblings = [str(other.parent) for other in folder.parent.glob(f"*/{CONFIG}")]
        raise RunError(
            f"there is no run folder {folder}.{did_you_mean(str(folder), siblings)} "
            f"Give the folder that headstart train printed, such as runs/NAME"
        )
    refuse_study(folder)
    if place.weights == folder / WEIGHTS:
        raise RunError(f"{folder} is a model folder, not a run folder (it has no {CONFIG}); give the run it belongs to")
    if folder.is_file():
        reason = "is a file"
    else:
        reason = f"is no run folder: it has no {CONFIG}"
    raise RunError(f"{folder} {reason}; give the folder that headstart train printed, such as runs/NAME")


def default_run_path(data_name: str, backbone: str, strategy: str, seed: int) -> Path:
    """Return `runs/<data>-<backbone>-<strategy>-seed<seed>`, whatever characters the names have."""
    if strategy.endswith((".yaml", ".yml")):
        strategy = Path(strategy).stem
    parts = [folder_name_part(data_name), folder_name_part(backbone), folder_name_part(strategy), f"seed{seed}"]
    return Path("runs") / "-".join(parts)


def check_out_folder(path: str | Path, overwrite: bool) -> None:
    """Refuse an output folder that `create_run_folder` would refuse, before anything is read or written.

    Raises:
        RunError: The folder is occupied, another command is filling it, or its parent cannot be written to.
    """
    folder = _real_path(path)
    writer = holder(_lock_file(folder))
    if writer is not None:
        raise _busy_error(folder, writer)
    _check_can_create(folder, overwrite)


def _check_can_create(folder: Path, overwrite: bool) -> None:
    """Refuse a run folder that is occupied, or whose parent cannot be written to."""
    if os.path.lexists(folder):
        _check_replaceable(folder, overwrite)
    check_parent(folder)


@contextmanager
def sole_writer(path: str | Path) -> Iterator[None]:
    """Keep other commands out of a run folder, or a study's, until the block ends or the process does.

    A hidden file beside the folder is locked meanwhile, so that the folder itself may be missing, or be replaced.

    Raises:
        RunError: Another command has it.
    """
    folder = _real_path(path)
    file = _lock_file(folder)
    missing = [parent for parent in folder.parents if not parent.exists()]
    make_parent(folder)
    try:
        with holding(file) as writer:
            if writer is not None:
                raise _busy_error(folder, writer)
            yield
    finally:
        with suppress(OSError):  # nothing is left where nothing was written
            for parent in missing:
                parent.rmdir()


def _lock_file(folder: Path) -> Path:
    """Return the hidden file whose lock says that a command is writing to a folder."""
    return folder.with_name(f".{folder.name}.lock")


def _busy_error(folder: Path, writer: str) -> RunError:
    """Return the error that says which command is writing to a folder."""
    return RunError(f"another command is writing to {folder} ({writer}); wait until it ends, or stop it")


def check_output(target: Path, data: str, flag: str, *suffixes: str) -> None:
    """Refuse a file that could not be written in the end, before the work that it is about.

    Args:
        target: The file.
        data: Folder or table of the images; empty where there are none.
        flag: The option that names the file.
        suffixes: The suffixes that the file may have; with none given, any.

    Raises:
        ConfigError: It lies among the images, is a folder, or has another suffix.
        RunError: The folder that it goes into cannot be created or written to.
    """
    refuse_inside(target, data, flag)
    if target.is_dir():
        raise ConfigError(f"{flag} {target} is a folder; name a file in it")
    if suffixes and target.suffix.lower() not in suffixes:
        raise ConfigError(f"cannot write {target}: expected a name that ends in {either(suffixes)}; change {flag}")
    check_parent(target, flag)


def refuse_inside(target: Path, data: str, flag: str) -> None:
    """Refuse to write into the folder of the user's images, or over the one that is named.

    Raises:
        ConfigError: `target` lies in the folder that `data` names, in the one that it is a glob of, or is that file.
    """
    if not data:
        return
    source = Path(data).expanduser()
    while glob.has_magic(str(source)) and not source.exists():
        source = source.parent
    is_inside = target.expanduser().resolve().is_relative_to(source.resolve())
    if source.exists() and is_inside:
        raise ConfigError(f"{target} lies among the images of {data}, where nothing is written; name another {flag}")


def check_parent(path: Path, flag: str = "--out") -> None:
    """Refuse a path that could not be created, or whose missing parents could not be.

    Raises:
        RunError: The nearest parent that exists cannot be written to.
    """
    parent = next(ancestor for ancestor in _real_path(path).parents if os.path.lexists(ancestor))
    if not parent.is_dir():
        raise RunError(f"cannot create {path}: {parent} is a file, not a folder; choose another {flag}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"cannot create {path}: no permission to write to {parent}; choose another {flag}")


def refuse_study(folder: Path) -> None:
    """Refuse a folder that `headstart compare` wrote where a run, or data, is expected.

    Raises:
        RunError: It holds runs; the message says where.
    """
    for runs in ("seed*", "*/seed*"):
        has_runs = any(folder.glob(f"{runs}/{CONFIG}"))
        if has_runs:
            raise RunError(f"{folder} holds several runs and is no run itself; name its runs: {folder / runs}")


def create_run_folder(path: str | Path, files: Mapping[str, bytes | str], *, overwrite: bool = False) -> Run:
    """Create a run folder whole or not at all; to be called by its `sole_writer`.

    The files are written to a hidden folder beside it, which is then renamed.

    Args:
        path: The folder to create; missing parents are created as well.
        files: Path in the folder -> content.
        overwrite: Whether to replace what is there, if it is a run folder. It stays until the new one is complete.

    Raises:
        RunError: The folder is occupied, or cannot be written.
    """
    folder = _real_path(path)
    _check_can_create(folder, overwrite)
    try:
        with whole_folder(folder, if_there="replace" if overwrite else "refuse") as staging:
            for name, data in files.items():
                file = staging / name
                file.parent.mkdir(parents=True, exist_ok=True)
                write_synced(file, data)
    except FileExistsError as error:
        raise RunError(f"another command has just created {folder}; choose another --out") from error
    except OSError as error:
        raise file_error("create", folder, error) from error
    return Run(Path(path))


def write_parquet(path: Path, table: "pyarrow.Table") -> None:
    """Write a table atomically.

    Raises:
        RunError: It cannot be written.
    """
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())


def _real_path(path: str | Path) -> Path:
    """Follow links, so that what is replaced is the folder itself, and so that '.' has a name and a parent."""
    return Path(os.path.realpath(path))


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    """Refuse what has the name of a run folder, unless it is empty, or a run that may be replaced."""
    if not folder.is_dir():
        raise RunError(f"cannot create run folder {folder}: a file has that name; choose another --out")
    if os.path.ismount(folder):
        raise RunError(f"cannot put a run right into {folder}: it is a mount point; choose a folder in it, such as run")
    try:
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise file_error("read", folder, error) from error
    if is_empty:
        return
    is_run = all((folder / name).is_file() for name in _MARKERS)
    if not is_run:
        raise RunError(
            f"{folder} is not empty and is no run folder (no {' and '.join(_MARKERS)}); choose another --out"
        )
    if not overwrite:
        raise RunError(
            f"{folder} already holds a run; replace it with --overwrite, go on with it by "
            f"headstart train --resume {shlex.quote(str(folder))}, or choose another --out"
        )
    others = foreign_files(folder)
    if others:
        raise RunError(
            f"{folder} holds files that Headstart did not write, and --overwrite would delete them: {listed(others)}; "
            "move them to another folder, or choose another --out"
        )


def foreign_files(folder: Path) -> list[str]:
    """Return what lies in a run folder that Headstart did not write there, as paths in it, sorted."""
    found = []
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]  # nothing in them is looked at
        for name in (*names, *links):
            path = Path(root, name).relative_to(folder).as_posix()
            is_written = any(fnmatchcase(path, pattern) for pattern in _WRITTEN)
            if not is_written:
                found.append(path)
    return sorted(found)


def folder_name_part(name: str) -> str:
    """Return a name without the characters that do not suit the name of a folder."""
    simple = re.sub(r"[^\w.]+", "-", name).strip("-._")[:60]
    return simple or "unnamed"
