import json

import numpy as np
import pytest
import torch

from headstart.data.manifest import ImageRecord
from headstart.data.sources import FILES
from headstart.errors import DataError, ModelError, UnreadableImageError
from headstart.inference.evaluate import evaluate
from headstart.inference.predict import load
from tests.helpers.pictures import LABELS


@pytest.fixture
def records(pictures) -> list[ImageRecord]:
    return [ImageRecord(str(path), index % 3, "test") for index, path in enumerate(pictures)]


def test_figures_are_those_of_predict(classifier, records, pictures):
    metrics, table = evaluate(classifier, records, LABELS, source=FILES, batch_size=3, threads=2)
    probabilities = classifier.predict_proba(pictures)
    truth = np.array([record.label for record in records])
    assert metrics["accuracy"]["value"] == np.mean(probabilities.argmax(1) == truth)
    assert metrics["num_images"] == 7
    assert [sum(row.values()) for row in metrics["confusion"].values()] == [3, 2, 2]
    assert table.column_names == ["path", "label", "predicted", "p_ant", "p_bee", "p_cat"]
    assert table["path"].to_pylist() == [str(path) for path in pictures]
    assert table["label"].to_pylist() == [LABELS[record.label] for record in records]
    assert table["predicted"].to_pylist() == [row.label for row in classifier.predict(pictures)]
    columns = np.stack([table[f"p_{label}"].to_numpy() for label in LABELS], 1)
    assert columns.dtype == np.float32
    np.testing.assert_allclose(columns, probabilities, atol=1e-5)


def test_what_the_figures_say_of_themselves(classifier, records):
    metrics, _ = evaluate(classifier, records, LABELS, source=FILES)
    assert (metrics["split"], metrics["engine"], metrics["precision"]) == ("test", "openvino", "32")
    assert metrics["selected_on_reported"] is False
    assert metrics["time_s"]["evaluate"] >= 0
    json.dumps(metrics, allow_nan=False)


def test_labels_are_matched_by_name(classifier, records):
    expected, rows = evaluate(classifier, records, LABELS, source=FILES)
    turned = [ImageRecord(record.key, 2 - record.label, "test") for record in records]
    metrics, table = evaluate(classifier, turned, LABELS[::-1], source=FILES)
    assert table.equals(rows)
    assert metrics["confusion"] == expected["confusion"]


def test_the_model_may_know_more_classes(classifier, pictures):
    records = [ImageRecord(str(path), 0, "test") for path in pictures]
    metrics, _ = evaluate(classifier, records, ["cat"], source=FILES)
    assert metrics["per_class"]["ant"]["recall"] is None
    assert metrics["per_class"]["cat"]["num_images"] == 7
    assert metrics["labels"] == list(LABELS)


def test_a_class_without_records_need_not_be_known(classifier, records):
    assert evaluate(classifier, records, (*LABELS, "zebra"), source=FILES)[0]["num_images"] == 7


def test_unknown_classes_are_listed_with_suggestions(classifier, records):
    with pytest.raises(DataError) as error:
        evaluate(classifier, records, ["ants", "bee", "quokka"], source=FILES)
    message = str(error.value)
    assert "'ants' (did you mean 'ant'?), 'quokka'" in message
    assert "it knows ant, bee, cat" in message
    assert "--map" in message
    assert "\n" not in message


def test_no_image(classifier):
    with pytest.raises(DataError, match="no image"):
        evaluate(classifier, [], LABELS, source=FILES)


def test_an_unreadable_image_stops_it(classifier, records, tmp_path):
    records.append(ImageRecord(str(tmp_path / "missing.png"), 0, "test"))
    with pytest.raises(UnreadableImageError, match=r"missing\.png"):
        evaluate(classifier, records, LABELS, source=FILES)


def test_a_diverged_model_is_named(run_folder, records):
    classifier = load(run_folder, engine="torch")
    with torch.no_grad():
        next(iter(classifier._model._model.network.parameters())).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite on 7 of 7 images"):
        evaluate(classifier, records, LABELS, source=FILES)


def test_progress_is_told(classifier, records):
    told = []
    evaluate(classifier, records, LABELS, source=FILES, batch_size=3, progress=lambda *step: told.append(step))
    assert told == [("evaluate", 3, 7), ("evaluate", 6, 7), ("evaluate", 7, 7)]
