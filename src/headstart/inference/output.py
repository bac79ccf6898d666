"""Write predictions as they come: a table, JSON, CSV or parquet, in constant memory."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from headstart.data.sources import shown
from headstart.errors import ConfigError, either, unknown
from headstart.files import atomic_path, file_error, make_parent
from headstart.inference.stream import Prediction
from headstart.text import visible, visible_line

FORMATS = ("table", "json", "csv", "parquet")
_FORMAT_OF_SUFFIX = {".txt": "table", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_ROW_GROUP = 4096  # rows
_PEEK = 32  # rows that decide the width of the table's columns


def choose_format(asked: str | None, out: Path | None) -> str:
    """Return the format that was asked for, or the one that the name of the file says.

    Args:
        asked: One of `FORMATS`, or None.
        out: The file; None: a terminal or a pipe, which gets a table.

    Raises:
        ConfigError: The format is not known, the two contradict each other, or neither says which it is.
    """
    if asked is not None and asked not in FORMATS:
        raise ConfigError(unknown("--format", asked, FORMATS))
    if out is None or not out.suffix or _is_no_file(out):
        return asked or "table"
    said = _FORMAT_OF_SUFFIX.get(out.suffix.lower())
    if asked is None and said is None:
        raise ConfigError(
            f"the format of {out} is not clear; name a file that ends in {either(_FORMAT_OF_SUFFIX)}, or give --format"
        )
    if asked is not None and said is not None and asked != said:
        raise ConfigError(f"--format {asked} and {out}, a {said} file by its name, contradict each other; change one")
    return asked or said or "table"


def write_predictions(
    predictions: Iterable[Prediction],
    output_format: str,
    out: Path | None = None,
    *,
    top_k: int,
    stream: TextIO | None = None,
) -> int:
    """Write predictions, one after the other.

    Args:
        predictions: Taken one by one, from `predict_stream`.
        output_format: `table` (for eyes), `json` (a list of objects), `csv` (a header and a row each) or `parquet`.
        out: File to write; it is there whole or not at all, unless it is a device or a pipe. None: `stream`.
        top_k: How many classes each prediction names.
        stream: Where to write without `out`; default: standard output.

    Returns:
        How many files could not be read.

    Raises:
        ConfigError: The format is parquet, and there is no file to write.
        RunError: The file cannot be written.
    """
    num_failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal num_failed
        for prediction in predictions:
            num_failed += prediction.error is not None
            yield prediction

    if out is not None:
        make_parent(out)
    if output_format == "parquet":
        if out is None or _is_no_file(out):
            raise ConfigError("parquet is no text and needs a file; give one with --out predictions.parquet")
        with _place_to_write(out) as place:
            _write_parquet(counted(), place)
        return num_failed
    writers: dict[str, Callable[[Iterable[Prediction], TextIO], None]] = {
        "table": _write_table,
        "json": _write_json,
        "csv": partial(_write_csv, top_k=top_k),
    }
    if out is None:
        writers[output_format](counted(), stream or sys.stdout)
        return num_failed
    with _place_to_write(out) as place, place.open("w", encoding="utf-8", newline="") as file:
        writers[output_format](counted(), file)
    return num_failed


@contextmanager
def _place_to_write(out: Path) -> Iterator[Path]:
    """Give a path to write to: one whose file takes the place of `out` once it is whole, or a device or pipe itself.

    Raises:
        RunError: It cannot be written.
    """
    if not _is_no_file(out):
        with atomic_path(out) as temporary:
            yield temporary
        return
    try:
        yield out
    except OSError as error:
        raise file_error("write", out, error) from error


def _is_no_file(out: Path) -> bool:
    """Tell whether there is something other than a file: a device such as /dev/null, or a pipe."""
    return out.exists() and not out.is_file()


def _write_table(predictions: Iterable[Prediction], stream: TextIO) -> None:
    rows = iter(predictions)
    first = list(islice(rows, _PEEK))
    width = 0
    for row in first:
        for label, _ in row.top:
            width = max(width, len(visible_line(label)))
    for row in chain(first, rows):
        # The path comes last: it is the column that cannot be made to fit.
        cells = [f"{probability:.4f}  {visible_line(label):<{width}}" for label, probability in row.top]
        if not cells:
            cells = [f"{'-':<6}  {'-':<{width}}"]
        note = f"  (cannot be read: {visible_line(row.error)})" if row.error is not None else ""
        stream.write(f"{'  '.join(cells)}  {visible_line(_shown_path(row) or '-')}{note}\n")


def _write_json(predictions: Iterable[Prediction], stream: TextIO) -> None:
    separator = "[\n"
    for row in predictions:
        stream.write(separator + visible(json.dumps(_columns(row), ensure_ascii=False)))
        separator = ",\n"
    stream.write("\n]\n" if separator == ",\n" else "[]\n")


def _write_csv(predictions: Iterable[Prediction], stream: TextIO, *, top_k: int) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    more: list[str] = []
    for rank in range(2, top_k + 1):
        more += [f"label_{rank}", f"probability_{rank}"]
    writer.writerow(["path", "label", "probability", *more, "error"])
    for row in predictions:
        cells = list(chain.from_iterable(row.top[:top_k]))
        writer.writerow([_shown_path(row), *cells, *[""] * (2 * top_k - len(cells)), row.error])


def _write_parquet(predictions: Iterable[Prediction], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = [("label", pa.string()), ("probability", pa.float64())]
    schema = pa.schema([("path", pa.string()), *named, ("error", pa.string()), ("top", pa.list_(pa.struct(named)))])
    rows = iter(predictions)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist([_columns(row) for row in group], schema=schema))


def _columns(row: Prediction) -> dict[str, Any]:
    top = [{"label": label, "probability": probability} for label, probability in row.top]
    return {
        "path": _shown_path(row),
        "label": row.label,
        "probability": row.probability,
        "error": row.error,
        "top": top,
    }


def _shown_path(row: Prediction) -> str | None:
    # A file name may hold bytes that are no text; they are escaped, so that every format can say them.
    return None if row.path is None else shown(row.path)
