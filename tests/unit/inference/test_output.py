import csv
import io
import json
import os
import stat

import pyarrow.parquet as pq
import pytest

from headstart.errors import ConfigError, RunError
from headstart.inference.output import FORMATS, write_predictions
from headstart.inference.stream import Prediction

GOOD = Prediction("a.png", "hot dog", 0.75, (("hot dog", 0.75), ("taco", 0.25)))
BAD = Prediction('b "x", y.png', None, None, (), "no such file or directory")
ODD = Prediction("\udcff.png", "Käse", 1.0, (("Käse", 1.0), ("taco", 0.0)))
ROWS = [BAD, GOOD, ODD]


def written(rows, output_format) -> str:
    stream, num_failed = io.StringIO(), sum(row.error is not None for row in rows)
    assert write_predictions(iter(rows), output_format, top_k=2, stream=stream) == num_failed
    text = stream.getvalue()
    text.encode("utf-8")  # also a name that is no text can be printed
    return text


def test_json_is_a_list():
    values = json.loads(written(ROWS, "json"))
    assert values[1] == {
        "path": "a.png",
        "label": "hot dog",
        "probability": 0.75,
        "error": None,
        "top": [{"label": "hot dog", "probability": 0.75}, {"label": "taco", "probability": 0.25}],
    }
    assert values[0]["error"] == BAD.error
    assert values[0]["label"] is None
    assert json.loads(written([], "json")) == []


def test_csv_has_a_row_per_file():
    rows = list(csv.DictReader(io.StringIO(written(ROWS, "csv"))))
    assert list(rows[0]) == ["path", "label", "probability", "label_2", "probability_2", "error"]
    assert rows[0]["path"] == BAD.path
    assert rows[0]["label"] == ""
    assert rows[0]["error"] == BAD.error
    assert (rows[1]["label_2"], float(rows[1]["probability_2"]), rows[1]["error"]) == ("taco", 0.25, "")


def test_the_header_of_a_csv_does_not_depend_on_what_could_be_read():
    header = "path,label,probability,label_2,probability_2,error\n"
    assert written([], "csv") == header
    text = written([BAD] * 50 + [GOOD], "csv")
    assert text.startswith(header)
    assert text.splitlines()[-1] == "a.png,hot dog,0.75,taco,0.25,"


def test_table_is_for_eyes():
    assert written([GOOD, BAD], "table").splitlines() == [
        "0.7500  hot dog  0.2500  taco     a.png",
        '-       -        b "x", y.png  (cannot be read: no such file or directory)',
    ]
    assert written([], "table") == ""


def test_a_name_can_neither_rewrite_the_terminal_nor_split_its_row():
    odd = Prediction("a\x1b[2J\n.png", "b\tc\u202e", 1.0, (("b\tc\u202e", 1.0),))
    assert written([odd], "table") == "1.0000  b\\tc\\u202e  a\\u001b[2J\\n.png\n"
    assert "\u202e" not in written([odd], "json")
    assert json.loads(written([odd], "json"))[0]["label"] == odd.label
    assert next(csv.DictReader(io.StringIO(written([odd], "csv"))))["path"] == odd.path


def test_parquet_comes_back(tmp_path):
    path = tmp_path / "p.parquet"
    assert write_predictions(ROWS * 3000, "parquet", path, top_k=2) == 3000
    table = pq.read_table(path)
    assert table.num_rows == 9000
    assert pq.ParquetFile(path).num_row_groups > 1
    assert table.slice(1, 1).to_pylist() == json.loads(written([GOOD], "json"))
    assert table["error"][0].as_py() == BAD.error


def test_parquet_needs_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for out in (None, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="--out"):
            write_predictions([], "parquet", out, top_k=1)


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_file_is_whole_or_not_there(tmp_path, output_format):
    path = tmp_path / "out"

    def broken():
        yield GOOD
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_predictions(broken(), output_format, path, top_k=2)
    assert list(tmp_path.iterdir()) == []
    write_predictions(ROWS, output_format, path, top_k=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    write_predictions(ROWS, output_format, tmp_path / "missing" / "out", top_k=2)
    assert (tmp_path / "missing" / "out").is_file()
    with pytest.raises(RunError, match="cannot create"):
        write_predictions(ROWS, output_format, path / "out", top_k=2)


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_a_pipe_is_written_to_and_stays(tmp_path, output_format):
    """As `/dev/null` is, which was replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_predictions(ROWS, output_format, pipe, top_k=2)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    found = os.read(reader, 1 << 16)
    os.close(reader)
    assert found.decode() == written(ROWS, output_format)


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_rows_are_written_as_they_come(output_format):
    stream, sizes = io.StringIO(), []

    def rows():
        for _ in range(100):
            sizes.append(stream.tell())
            yield GOOD

    write_predictions(rows(), output_format, top_k=2, stream=stream)
    assert sizes[-1] > sizes[40] > 0
