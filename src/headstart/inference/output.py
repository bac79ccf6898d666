"""Write predictions as they come: a table, JSON, CSV or parquet, in constant memory."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from headstart.data.transforms import shown
from headstart.errors import ConfigError, did_you_mean
from headstart.inference.predict import Prediction
from headstart.runs import atomic_path

if TYPE_CHECKING:
    import pyarrow

FORMATS = ("table", "json", "csv", "parquet")
_ROW_GROUP = 4096  # rows
_PEEK = 32  # rows that decide the width of the table's columns


def write_predictions(
    predictions: Iterable[Prediction], output_format: str, out: Path | None = None, *, stream: TextIO | None = None
) -> int:
    """Write predictions, one after the other.

    Args:
        predictions: Taken one by one, from `predict_stream`.
        output_format: `table` (for eyes), `json` (a list of objects), `csv` (a header and a row each) or `parquet`.
        out: File to write; it is there whole or not at all. None: `stream`.
        stream: Where to write without `out`; default: standard output.

    Returns:
        How many files could not be read.

    Raises:
        ConfigError: The format is not known, or is parquet and there is no file.
        RunError: The file cannot be written.
    """
    if output_format not in FORMATS:
        raise ConfigError(
            f"format {output_format!r} is not one of {', '.join(FORMATS)}.{did_you_mean(output_format, FORMATS)}"
        )
    if output_format == "parquet" and out is None:
        raise ConfigError("parquet is no text and needs a file; give one with --out predictions.parquet")
    counted = _Counted(predictions)
    if out is None:
        _write_text(counted, output_format, stream or sys.stdout)
        return counted.num_failed
    with atomic_path(out) as temporary:
        if output_format == "parquet":
            _write_parquet(counted, temporary)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                _write_text(counted, output_format, file)
    return counted.num_failed


class _Counted:
    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self.predictions = predictions
        self.num_failed = 0

    def __iter__(self) -> Iterator[Prediction]:
        for prediction in self.predictions:
            self.num_failed += prediction.error is not None
            yield prediction


def _write_text(predictions: Iterable[Prediction], output_format: str, stream: TextIO) -> None:
    {"table": _write_table, "json": _write_json, "csv": _write_csv}[output_format](predictions, stream)


def _write_table(predictions: Iterable[Prediction], stream: TextIO) -> None:
    rows = iter(predictions)
    first = list(islice(rows, _PEEK))
    width = max((len(label) for row in first for label, _ in row.top), default=0)
    for row in chain(first, rows):
        # The path comes last: it is the column that cannot be made to fit.
        cells = [f"{probability:.4f}  {label:<{width}}" for label, probability in row.top] or [
            f"{'-':<6}  {'-':<{width}}"
        ]
        note = f"  (cannot be read: {row.error})" if row.error is not None else ""
        stream.write(f"{'  '.join(cells)}  {_path(row) or '-'}{note}\n")


def _write_json(predictions: Iterable[Prediction], stream: TextIO) -> None:
    separator = "[\n"
    for row in predictions:
        value = _columns(row) | {"top": [{"label": label, "probability": p} for label, p in row.top]}
        stream.write(separator + json.dumps(value, ensure_ascii=False))
        separator = ",\n"
    stream.write("\n]\n" if separator == ",\n" else "[]\n")


def _write_csv(predictions: Iterable[Prediction], stream: TextIO) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    rows = iter(predictions)
    first = list(islice(rows, _PEEK))
    # How many classes are named shows in the first file that could be read.
    top_k = max((len(row.top) for row in first), default=1) or 1
    more = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "probability")]
    writer.writerow(["path", "label", "probability", *more, "error"])
    for row in chain(first, rows):
        cells = [cell for pair in row.top[:top_k] for cell in pair]
        cells += [""] * (2 * top_k - len(cells))
        writer.writerow([_path(row), *cells, row.error])


def _write_parquet(predictions: Iterable[Prediction], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    rows = iter(predictions)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            top = [[{"label": label, "probability": p} for label, p in row.top] for row in group]
            values = [_columns(row) | {"top": best} for row, best in zip(group, top, strict=True)]
            writer.write_table(pa.Table.from_pylist(values, schema=schema))


def _schema() -> "pyarrow.Schema":
    import pyarrow as pa

    best = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))
    return pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float64()),
            ("error", pa.string()),
            ("top", best),
        ]
    )


def _columns(row: Prediction) -> dict[str, Any]:
    return {"path": _path(row), "label": row.label, "probability": row.probability, "error": row.error}


def _path(row: Prediction) -> str | None:
    # A file name may hold bytes that are no text; they are escaped, so that every format can say them.
    return None if row.path is None else shown(Path(row.path))
