"""One reader of predictions.parquet: typed, in the manifest's order, and checked against it where that is asked."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.predictions import read_predictions, reported_records
from headstart.errors import RunError
from headstart.runs import PREDICTIONS, Run, create_run_folder, write_parquet

TABLE = {
    "path": ["/a", "/b", "/c", "/d"],
    "label": ["ant", "bee", "ant", "bee"],
    "predicted": ["ant", "ant", "bee", "cat"],
    "p_ant": [0.9, 0.5, 0.3, 0.1],
    "p_bee": [0.1, 0.25, 0.6, 0.1],
    "p_cat": [0.0, 0.25, 0.1, 0.8],
}


@pytest.fixture
def manifest() -> Manifest:
    names = ("ant", "bee")
    records = [ImageRecord(p, names.index(w), "test") for p, w in zip(TABLE["path"], TABLE["label"], strict=True)]
    return Manifest("insects", names, (*records, ImageRecord("/t", 0, "train")))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = create_run_folder(tmp_path / "run", {"config.yaml": "data: x", "metrics.json": '{"split": "test"}'})
    write_parquet(run.path / PREDICTIONS, pa.table(TABLE))
    return run


def test_rows_are_read_as_they_were_written(run: Run, manifest: Manifest) -> None:
    for found in (read_predictions(run), read_predictions(run, manifest)):
        assert [found.paths, found.labels, found.predicted] == [TABLE["path"], TABLE["label"], TABLE["predicted"]]
        assert found.classes == ["ant", "bee", "cat"]
        assert np.array_equal(found.probabilities, np.transpose([TABLE[f"p_{name}"] for name in found.classes]))
        assert found.is_correct.tolist() == [True, False, False, False]
        assert found.confidence.tolist() == [0.9, 0.5, 0.6, 0.8]
    assert [record.key for record in reported_records(run, manifest)] == TABLE["path"]


def test_rows_are_listed_most_confident_first(run: Run) -> None:
    found = read_predictions(run)
    assert found.right() == [0]
    assert found.mistakes() == [3, 2, 1]
    assert found.mistakes(label="bee") == [3, 1]
    assert found.mistakes("bee", "ant") == [1]
    assert found.mistakes("ant", "cat") == []


def test_predictions_of_other_images_are_refused(run: Run, manifest: Manifest) -> None:
    write_parquet(run.path / PREDICTIONS, pa.table(TABLE | {"label": TABLE["label"][::-1]}))
    with pytest.raises(RunError, match=r"predictions of .*run do not fit its manifest; train again with --overwrite"):
        read_predictions(run, manifest)


@pytest.mark.parametrize("column", ["path", "label", "predicted", "p_cat"])
def test_a_column_that_is_missing_is_named(run: Run, column: str) -> None:
    rest = {name: values for name, values in TABLE.items() if name != column}
    write_parquet(run.path / PREDICTIONS, pa.table(rest))
    with pytest.raises(RunError, match=rf"predictions\.parquet has no column {column};"):
        read_predictions(run)
