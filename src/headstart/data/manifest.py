"""The list of images, their labels and splits: read from a folder or a table, written to the run folder."""

import csv
import json
import math
import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from headstart.data.folders import Listing, list_folder
from headstart.data.layouts import class_name
from headstart.data.sources import FILES, Source, restore_source, source_settings
from headstart.data.split_names import SPLIT_WORDS, SPLITS, split_of
from headstart.errors import DataError, did_you_mean, either, listed
from headstart.types import Layout

MANIFEST_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("path", "label", "split", "group")
_SAVED_COLUMNS = (*_COLUMNS, "sha256")
_METADATA_KEY = b"headstart"
# Columns of other programs that say what `split` says here.
_SPLIT_COLUMNS = frozenset({
    "set", "subset", "fold", "partition", "phase", "usage", "dataset", "data_split", "is_train",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a data set.

    Attributes:
        key: Name of the image in its source: the absolute path of a file.
        label: Position of its class in `Manifest.labels`.
        split: `train`, `validation`, `test`, or '' until splits are made.
        group: Name of the group that it belongs to; splits that Headstart makes keep groups together. None: a group of
            its own.
        sha256: SHA-256 of its bytes, hexadecimal; '' until it is computed.
    """

    key: str
    label: int
    split: str
    group: str | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """The images of a data set.

    Attributes:
        name: Short name for run folders, such as `hymenoptera`.
        labels: Class names, sorted by name.
        records: Sorted by (split, key).
        source: Source of the images' bytes, by their keys.
    """

    name: str
    labels: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    source: Source = FILES

    def of_split(self, split: str) -> tuple[ImageRecord, ...]:
        """Return the records of one split, in order."""
        return tuple(record for record in self.records if record.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold images, in the order train, validation, test."""
        present = {record.split for record in self.records}
        return tuple(split for split in SPLITS if split in present)

    @property
    def reported(self) -> str:
        """The split whose figures are reported."""
        return "test" if "test" in self.splits else "validation"

    @property
    def selection(self) -> str | None:
        """The split that may select an epoch or a strength without being reported, if the data has one."""
        if "validation" in self.splits and "test" in self.splits:
            return "validation"
        return None

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split -> class name -> number of images, zeros included."""
        found = Counter((record.split, record.label) for record in self.records)
        splits = self.splits or tuple(dict.fromkeys(record.split for record in self.records))
        counts = {}
        for split in splits:
            counts[split] = {name: found[split, label] for label, name in enumerate(self.labels)}
        return counts

    def with_records(self, records: Iterable[ImageRecord]) -> Self:
        """Return the same data set with other records, sorted."""
        ordered = sorted(records, key=lambda record: (record.split, record.key, record.label))
        return replace(self, records=tuple(ordered))


def scan(
    source: Path,
    *,
    name: str | None = None,
    label_map: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    layout: Layout = "auto",
    known: Iterable[str] = (),
) -> tuple[Manifest, Listing]:
    """List the images of a folder of class folders, or of a CSV or parquet manifest, with what else was noticed.

    No image is opened.

    Args:
        source: Folder, or file with the columns path, label and optionally split, group. Relative paths in it resolve
            against the file.
        name: Name of the data set; default: the folder's or the file's stem.
        label_map: Class in the source -> class to use; classes that are not in it keep their name.
        exclude: Classes to leave out, as they are called after the map.
        layout: Way in which folders are read as classes or splits; see `headstart.data.layouts`.
        known: Classes that a model knows.

    Raises:
        DataError: The source is missing, unreadable, malformed or ambiguous, or the map names an unknown class.
    """
    source = Path(os.path.abspath(source.expanduser()))
    try:
        is_folder = stat.S_ISDIR(os.stat(source).st_mode)
    except OSError as error:
        raise DataError(
            f"cannot read {source}: {error.strerror}; give a folder of class folders, a CSV or a parquet manifest"
        ) from error
    if not is_folder and source.suffix.lower() not in MANIFEST_SUFFIXES:
        raise DataError(f"{source} is no folder and no .csv or .parquet manifest; give one of these")
    if is_folder:
        listing = list_folder(source, layout=layout, known=known)
    else:
        listing = _list_table(source)
        if layout != "auto":
            listing.warnings.append(f"layout={layout} has no effect: {source} is a table, not a folder")

    # The classes as they are called here, and the images that are in them.
    names = _mapped_names(listing.classes, label_map or {})
    left_out = _classes_to_exclude(exclude, names.values())
    labels = tuple(sorted(set(names.values()) - left_out))
    index = {label: position for position, label in enumerate(labels)}
    records = []
    num_left_out: Counter[str] = Counter()
    for key, label, split, group in listing.images:
        name_of_class = names[label]
        if name_of_class in left_out:
            num_left_out[name_of_class] += 1
        else:
            records.append(ImageRecord(key, index[name_of_class], split, group))

    if left_out:
        counts = listed(f"{label!r} (images: {num_left_out[label]})" for label in sorted(left_out))
        listing.warnings.append(f"left out as asked: {counts}")
    listing.warnings += _notes_on_alike(labels)
    return Manifest(name or data_name(source), labels, ()).with_records(records), listing


def data_name(path: Path) -> str:
    """Return what a data set is called: as its folder, or as its manifest file without the suffix."""
    if path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir():
        return path.stem
    return path.name


def group_numbers(groups: Iterable[str | None]) -> list[int]:
    """Return a number per image, equal within a group; an image without a group (None) is a group of its own."""
    number_of: dict[int | str, int] = {}
    numbers = []
    for position, group in enumerate(groups):
        key = position if group is None else group  # 7 is not the group "7"
        numbers.append(number_of.setdefault(key, len(number_of)))
    return numbers


def write_manifest(manifest: Manifest, target: Path | BinaryIO) -> None:
    """Write the run folder's `manifest.parquet`; equal manifests give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[str | None]] = {name: [] for name in _SAVED_COLUMNS}
    for record in manifest.records:
        columns["path"].append(record.key)
        columns["label"].append(manifest.labels[record.label])
        columns["split"].append(record.split)
        columns["group"].append(record.group)
        columns["sha256"].append(record.sha256)
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    about: dict[str, Any] = {"name": manifest.name, "labels": manifest.labels}
    if manifest.source != FILES:
        about["source"] = source_settings(manifest.source)
    pq.write_table(table.replace_schema_metadata({_METADATA_KEY: json.dumps(about).encode()}), target)


def read_manifest(path: Path) -> Manifest:
    """Read what `write_manifest` wrote.

    Raises:
        DataError: The file is missing or was not written by Headstart.
    """
    table = _open_parquet(path)
    about = (table.schema.metadata or {}).get(_METADATA_KEY)
    if about is None or not set(_SAVED_COLUMNS) <= set(table.column_names):
        raise DataError(f"{path} is no manifest of a run folder; it was not written by Headstart")
    saved = json.loads(about)
    labels = tuple(saved["labels"])
    index = {label: position for position, label in enumerate(labels)}
    records = []
    for row in table.to_pylist():
        records.append(ImageRecord(row["path"], index[row["label"]], row["split"], row["group"], row["sha256"]))
    return Manifest(saved["name"], labels, tuple(records), _saved_source(saved))


def read_source(path: Path) -> Source:
    """Return where the images of a run are, from its manifest; files, where that is gone or not usable.

    Raises:
        DataError: Another version of Headstart wrote it.
    """
    try:
        about = (_open_parquet(path).schema.metadata or {}).get(_METADATA_KEY)
    except DataError:
        return FILES
    if about is None:
        return FILES
    return _saved_source(json.loads(about))


def _saved_source(about: Mapping[str, Any]) -> Source:
    """Return the source that a manifest names. One of files names none, as before there were other sources."""
    if "source" not in about:
        return FILES
    return restore_source(about["source"])


def _mapped_names(classes: Iterable[str], label_map: Mapping[str, str]) -> dict[str, str]:
    """Return class in the source -> class to use, for all classes."""
    known = sorted(classes)
    targets = {class_name(source): class_name(str(target)) for source, target in label_map.items()}
    for source in targets:
        if source not in known:
            raise DataError(
                f"the label map names the class {source!r}, which is not in the data.{did_you_mean(source, known)} "
                f"Classes: {listed(known, 20)}"
            )
    return {name: targets.get(name, name) for name in known}


def _classes_to_exclude(asked: Sequence[str], known: Iterable[str]) -> set[str]:
    """Return the classes to leave out, after checking that there are such classes."""
    there = sorted(set(known))
    excluded = {class_name(name) for name in asked}
    for name in sorted(excluded):
        if name not in there:
            raise DataError(
                f"exclude names the class {name!r}, which is not in the data.{did_you_mean(name, there)} "
                f"Classes: {listed(there, 20)}"
            )
    return excluded


def _notes_on_alike(labels: Sequence[str]) -> list[str]:
    """Say which classes may be one that is written in two ways."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(_without_variants(label), []).append(label)
    notes = []
    for names in alike.values():
        if len(names) > 1:
            last = names[-1]
            others = ",".join(f"{name}={last}" for name in names[:-1])
            written = either(map(repr, names), "and")
            notes.append(f"{written} are different classes; if they are one, use --map {shlex.quote(others)}")
    return notes


def _without_variants(label: str) -> str:
    """Return a class name without what people write in two ways: case, blanks and signs between words, and `.0`."""
    with suppress(ValueError):
        return f"number {float(label):g}"
    return re.sub(r"[\W_]+", "", label.casefold()) or label


def _list_table(path: Path) -> Listing:
    """List the images of a CSV or parquet manifest."""
    listing = Listing()
    if path.suffix.lower() == ".csv":
        rows = _csv_rows(path, listing.warnings)
    else:
        rows = _parquet_rows(path, listing.warnings)
    for place, row in rows:
        file = row["path"].strip()
        label = row["label"].strip()
        split = row.get("split", "").strip()
        group = row.get("group", "").strip()
        if not file or not label:
            empty = "label" if file else "path"
            raise DataError(f"{place}: {empty} is empty; every image needs a path and a label")
        its_split = split_of(split) if split else ""
        if its_split is None:
            hint = did_you_mean(split, SPLIT_WORDS)
            raise DataError(f"{place}: unknown split {split!r}.{hint} Expected train, validation or test")
        name = class_name(label)
        listing.classes.add(name)
        listing.images.append((str(path.parent / file), name, its_split, group or None))
    if not listing.images:
        raise DataError(f"{path} lists no image; expected one row per image with path and label")
    without = sum(not split for _, _, split, _ in listing.images)
    if 0 < without < len(listing.images):
        raise DataError(f"{path}: {without} of {len(listing.images)} rows have no split; fill in all of them or none")
    return listing


_Rows = Iterator[tuple[str, dict[str, str]]]  # where a row is, for messages, and its cells by column


def _csv_rows(path: Path, notes: list[str]) -> _Rows:
    """Yield the rows of a CSV file, and note columns that are not used."""
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front.
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            if not header.strip():
                raise DataError(f"{path} is empty; expected a header line with the columns path,label")
            separator = max(",;\t", key=header.count)
            names = next(csv.reader([header], delimiter=separator))
            columns = _column_positions(path, names)
            notes += _column_notes(path, names, columns)
            reader = csv.reader(file, delimiter=separator)
            for row in reader:
                place = f"{path} line {reader.line_num + 1}"
                if row and len(row) != len(names):
                    raise DataError(
                        f"{place}: number of fields {len(row)}, expected {len(names)}; quote values that contain "
                        f"{separator!r}"
                    )
                if any(row):
                    yield place, {key: row[position] for key, position in columns.items()}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}; save it as 'CSV UTF-8'") from error


def _parquet_rows(path: Path, notes: list[str]) -> _Rows:
    """Yield the rows of a parquet file, and note columns that are not used."""
    table = _open_parquet(path)
    columns = _column_positions(path, table.column_names)
    notes += _column_notes(path, table.column_names, columns)
    values = [table.column(position).to_pylist() for position in columns.values()]
    for number, row in enumerate(zip(*values, strict=True), start=1):
        place = f"{path} row {number}"
        cells = {}
        for name, value in zip(columns, row, strict=True):
            cells[name] = _cell_text(value, name, place)
        yield place, cells


def _cell_text(value: object, column: str, place: str) -> str:
    """Return a cell as text: '' where it is missing, a whole number without `.0`.

    Raises:
        DataError: It holds a list or a mapping.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # what pandas makes of a column of whole numbers in which one is missing
    if isinstance(value, list | tuple | dict):
        raise DataError(f"{place}: {column} holds {value!r}; expected one text or number. An image has one {column}")
    return str(value)


def _open_parquet(path: Path) -> Any:
    """Read a parquet file as a table of PyArrow.

    Raises:
        DataError: It cannot be read, or is no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, partitioning=None)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise DataError(f"cannot read {path}: {reason}; give a parquet file that you may read") from error
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a parquet file: {str(error).splitlines()[0]}; write it again") from error


def _column_positions(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Return the position of each column that is used."""
    found = [name.strip().lower() for name in names]
    missing = [needed for needed in ("path", "label") if needed not in found]
    if missing:
        word = "column" if len(missing) == 1 else "columns"
        raise DataError(
            f"{path} has no {word} {either(map(repr, missing), 'and')}. Its columns are: {', '.join(names)}. Rename "
            "the one with the files to path, and the one with the classes to label; split and group are optional"
        )
    for key in _COLUMNS:
        if found.count(key) > 1:
            raise DataError(f"{path} has {found.count(key)} columns {key!r}; keep one of them")
    return {key: found.index(key) for key in _COLUMNS if key in found}


def _column_notes(path: Path, names: Sequence[str], used: Mapping[str, int]) -> list[str]:
    """Say which columns are not used, and which of them may be meant for splits."""
    unused = []
    for position, name in enumerate(names):
        if position not in used.values() and name.strip():
            unused.append(name.strip())
    if not unused:
        return []
    note = f"{path} has columns that are not used: {listed(unused)}"
    similar = [name for name in unused if name.lower() in _SPLIT_COLUMNS]
    if similar and "split" not in used:
        note += f". If {similar[0]!r} says which images train and which test, rename it to split"
    return [note]
