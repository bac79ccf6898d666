import copy
import dataclasses
import gc
import pickle
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from headstart.decoding import decode
from headstart.engines import conversion
from headstart.errors import ConfigError, DataError, ModelError, RunError, UnreadableImageError
from headstart.inference.predict import load
from headstart.inference.stream import Prediction, predict_stream, probabilities_stream
from headstart.inference.torch_model import classifier_of
from headstart.preprocessing import eval_view
from tests.helpers.displays import Remembering
from tests.helpers.pictures import LABELS, make_picture


def test_it_describes_itself(classifier):
    assert classifier.labels == LABELS
    assert classifier.backbone == "simple-cnn"
    assert classifier.device == "cpu"
    assert "simple-cnn" in repr(classifier)


def test_probabilities_are_those_of_the_network(classifier, network, pictures):
    view = eval_view(decode(pictures[0].read_bytes()), network.spec)
    with torch.no_grad():
        expected = network.network.eval()(network.normalize(torch.from_numpy(view).permute(2, 0, 1)[None])).softmax(1)
    probabilities = classifier.predict_proba(pictures[0])
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (1, 3)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)


def test_pictures_are_told_apart(classifier, pictures):
    assert np.ptp(classifier.predict_proba(pictures), axis=0).max() > 0.01


def test_every_kind_of_input_says_the_same(classifier, pictures):
    expected = classifier.predict_proba(pictures)
    assert expected.shape == (7, 3)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    images = [Image.open(path) for path in pictures]
    arrays = np.stack([np.asarray(image) for image in images])
    for inputs in ([str(path) for path in pictures], tuple(images), iter(pictures), arrays, list(arrays)):
        np.testing.assert_array_equal(classifier.predict_proba(inputs), expected)
    for single in (str(pictures[0]), pictures[0], images[0], arrays[0]):
        np.testing.assert_allclose(classifier.predict_proba(single), expected[:1], atol=1e-5)


def test_every_kind_of_input_says_the_same_of_a_large_jpeg_that_is_reduced(network, tmp_path):
    spec = dataclasses.replace(network.spec, decoder="pillow-scaled")
    classifier = classifier_of(dataclasses.replace(network, spec=spec), "cpu")
    path = tmp_path / "large.jpg"
    make_picture(0, (640, 480)).save(path)
    image = Image.open(path)
    expected = classifier.predict_proba(path)
    for given in (image, np.asarray(image), image.copy()):
        np.testing.assert_array_equal(classifier.predict_proba(given), expected)


def test_batch_mates_do_not_matter(classifier, pictures):
    alone = np.concatenate([classifier.predict_proba(path) for path in pictures])
    for batch_size in (1, 2, 3, 7, 32):
        np.testing.assert_allclose(classifier.predict_proba(pictures, batch_size=batch_size), alone, atol=1e-5)
    backwards = classifier.predict_proba(pictures[::-1])
    np.testing.assert_allclose(backwards[::-1], alone, atol=1e-5)


@pytest.mark.parametrize(("engine", "tolerance"), [("openvino", 0), ("torch", 1e-5)])
def test_what_was_classified_before_does_not_matter(network, engine, tolerance):
    many = np.stack([np.asarray(make_picture(seed)) for seed in range(40)])
    fresh = classifier_of(network, "cpu", engine=engine)
    before = np.concatenate([fresh.predict_proba(picture) for picture in many])
    together = fresh.predict_proba(many)
    after = np.concatenate([fresh.predict_proba(picture) for picture in many])
    began_with_many = classifier_of(network, "cpu", engine=engine).predict_proba(many)
    assert np.ptp(together, axis=0).max() > 0.01
    for found in (before, after, began_with_many):
        np.testing.assert_allclose(found, together, rtol=0, atol=tolerance)


def test_the_engine_is_the_same_for_one_picture_and_for_many(network, pictures):
    one = classifier_of(network, "cpu")
    one.predict(pictures[0])
    opened = one.engine
    one.predict(pictures * 6)
    many = classifier_of(network, "cpu")
    many.predict(pictures * 6)
    assert one.engine == many.engine == opened == classifier_of(network, "cpu").engine == ("openvino", "32")


@pytest.mark.parametrize("asked", [{}, {"engine": "openvino"}, {"precision": "32"}], ids=str)
def test_a_refused_engine_is_a_note_only_where_it_was_asked_for(network, pictures, monkeypatch, asked):
    def refuse(*_):
        raise RuntimeError("it does not like it")

    monkeypatch.setattr(conversion, "convert", refuse)
    classifier = classifier_of(network, "cpu", **asked)
    classifier.predict(pictures)
    assert classifier.engine == ("torch", "32")
    assert classifier.refused == ["engine openvino 32 is not used for this network: it does not like it"]
    display = Remembering()
    classifier.tell_refused(display)
    assert display.said == ([f"note: {line}" for line in classifier.refused] if asked else [])


# Threads and copies


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_threads_may_share_a_classifier(network, engine):
    many = np.stack([np.asarray(make_picture(seed)) for seed in range(40)])
    expected = classifier_of(network, "cpu", engine=engine).predict_proba(many)
    shared = classifier_of(network, "cpu", engine=engine)

    def classify(number: int) -> float:
        size = 1 + number % 3  # also while the first of them opens the engine
        wanted = np.arange(number, number + size) % len(many)
        found = shared.predict_proba(many[wanted], batch_size=2)
        return float(np.abs(found - expected[wanted]).max())

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(classify, range(200))) < 1e-5


def test_one_open_picture_may_be_given_several_times(classifier, tmp_path):
    """Pillow reads the pixels and the EXIF of an open file when they are first asked for, whichever thread asks."""
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    make_picture(0, (1600, 1200)).save(path, exif=exif)
    expected = classifier.predict_proba(path)
    for _ in range(5):
        found = classifier.predict_proba([Image.open(path)] * 8)
        np.testing.assert_allclose(found, np.repeat(expected, 8, axis=0), atol=1e-5)


def test_two_streams_in_one_thread_do_not_mix(classifier, pictures):
    expected = classifier.predict(pictures)
    backwards = predict_stream(classifier, pictures[::-1], batch_size=2)
    for forward, back, position in zip(
        predict_stream(classifier, pictures, batch_size=3), backwards, range(len(pictures)), strict=True
    ):
        assert forward == expected[position]
        assert back == expected[-1 - position]


@pytest.mark.parametrize("num_before", [0, 1, 40])
def test_a_copy_says_the_same_whatever_was_classified_before(network, num_before):
    original = classifier_of(network, "cpu")
    many = np.stack([np.asarray(make_picture(seed)) for seed in range(40)])
    original.predict_proba(many[:num_before])
    for other in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original), copy.copy(original)):
        np.testing.assert_array_equal(other.predict_proba(many), original.predict_proba(many))
        assert (other.labels, other.spec, other.engine) == (original.labels, original.spec, original.engine)


def test_an_engine_is_given_up_with_its_classifier(network, pictures):
    def workers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("headstart-openvino")]

    gc.collect()
    before = len(workers())
    classifier = classifier_of(network, "cpu")
    classifier.predict(pictures)
    started = workers()
    assert len(started) > before
    del classifier
    gc.collect()
    for thread in started[before:]:
        thread.join(10)
    assert len(workers()) <= before


def test_predicting_twice_is_the_same_to_the_bit(classifier, pictures):
    np.testing.assert_array_equal(classifier.predict_proba(pictures), classifier.predict_proba(pictures))


def test_a_network_in_train_mode_is_put_into_eval_mode(network, pictures):
    network.network.train()
    classifier = classifier_of(network, "cpu")
    assert not any(module.training for module in network.network.modules())
    np.testing.assert_array_equal(classifier.predict_proba(pictures), classifier.predict_proba(pictures))


def test_predictions_name_the_best(classifier, pictures):
    probabilities = classifier.predict_proba(pictures)
    predictions = classifier.predict(pictures, top_k=2)
    for path, row, prediction in zip(pictures, probabilities, predictions, strict=True):
        order = np.argsort(-row)
        assert prediction.path == str(path)
        assert prediction.label == LABELS[order[0]]
        assert prediction.probability == pytest.approx(row[order[0]])
        assert [label for label, _ in prediction.top] == [LABELS[index] for index in order[:2]]
        assert prediction.error is None
    assert len(classifier.predict(pictures[0])[0].top) == 1
    assert len(classifier.predict(pictures[0], top_k=99)[0].top) == 3


def test_a_picture_without_a_file_has_no_path(classifier):
    assert classifier.predict(make_picture(0))[0].path is None


def test_nothing_in_nothing_out(classifier):
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.predict_proba(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"uint8 \(3, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\)"),
        (np.zeros((0, 8, 8, 3), np.float32), r"float32 \(0, 8, 8, 3\)"),
        (np.zeros((2, 0, 8, 3), np.uint8), r"uint8 \(2, 0, 8, 3\)"),
        (torch.zeros(1, 3, 8, 8), r"a Tensor of torch\.float32"),
        (b"abc", "a bytes"),
        (7, "a int"),
        (None, "a NoneType"),
        ([None], "a NoneType"),
        ({"a.png": 1}, "a dict"),
    ],
)
def test_other_inputs_are_refused_with_what_was_expected(classifier, inputs, message):
    with pytest.raises(DataError, match=message) as error:
        classifier.predict(inputs)
    assert "expected a path, a PIL image" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreadable_file_stops_predict(classifier, pictures, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        classifier.predict([pictures[0], tmp_path / "bad.png"])


@pytest.mark.parametrize("numbers", [{"top_k": 0}, {"batch_size": 0}])
def test_numbers_below_one_are_refused(classifier, pictures, numbers):
    with pytest.raises(ConfigError, match="expected 1 or more"):
        classifier.predict(pictures, **numbers)
    with pytest.raises(ConfigError, match="expected 1 or more"):
        predict_stream(classifier, pictures, **numbers)


# Loading


def test_a_run_folder_and_its_model_folder_are_the_same(classifier, run_folder, pictures):
    for path in (str(run_folder), run_folder / "model"):
        np.testing.assert_array_equal(load(path).predict_proba(pictures), classifier.predict_proba(pictures))


def test_loading_what_is_not_there(run_folder, tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        load(tmp_path / "missing")
    with pytest.raises(ModelError):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text("data: snacks\n")
    with pytest.raises(RunError, match="headstart train --resume"):
        load(tmp_path)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "cuda:99", ""])
def test_devices_that_are_not_there(run_folder, device):
    with pytest.raises(ConfigError, match="device="):
        load(run_folder, device=device)


# Streams


def test_a_stream_is_what_predict_says(classifier, pictures):
    expected = classifier.predict(pictures, top_k=2, batch_size=3)
    for threads in (1, 4):
        assert list(predict_stream(classifier, pictures, top_k=2, batch_size=3, threads=threads)) == expected


def test_unreadable_files_are_rows_in_their_place(classifier, pictures, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    paths = [tmp_path / "bad.png", *pictures[:2], tmp_path / "missing.png", pictures[2], tmp_path]
    rows = list(predict_stream(classifier, paths, batch_size=2, threads=2))
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.error is None for row in rows] == [False, True, True, False, True, False]
    assert rows[0] == Prediction(str(paths[0]), None, None, (), "not an image in a format that Pillow reads")
    assert rows[3].error == "no such file or directory"


def test_bad_files_between_batches_keep_their_place(classifier, pictures, tmp_path):
    bad = tmp_path / "missing.png"
    paths = [bad, bad, bad, pictures[0], bad, pictures[1], pictures[2], bad, bad, bad, bad, pictures[3], bad]
    rows = list(predict_stream(classifier, paths, batch_size=2, threads=2))
    assert [row.path for row in rows] == [str(path) for path in paths]
    expected = classifier.predict(pictures[:4], batch_size=2)
    assert [row.label for row in rows if row.error is None] == [row.label for row in expected]
    assert [row.error is not None for row in rows] == [path == bad for path in paths]


def test_a_stream_of_bad_files_only(classifier, tmp_path):
    rows = list(predict_stream(classifier, [tmp_path / "missing.png"] * 5, batch_size=2))
    assert len(rows) == 5
    assert all(row.label is None for row in rows)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_stream_reads_no_further_than_it_must(network, pictures, engine):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield pictures[0]

    stream = predict_stream(classifier_of(network, "cpu", engine=engine), endless(), batch_size=4, threads=2)
    decoded_ahead = 4 + 2 * 2
    ahead = []
    for number in range(1, 301):
        next(stream)
        ahead.append(taken - number)
    if engine == "torch":  # which computes a batch when it is asked for
        assert max(ahead) <= 4 + decoded_ahead
    else:  # some batches are on their way through the engine; how many depends on the machine, not on the stream
        assert max(ahead[100:]) <= max(ahead[:100])
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("headstart-decode")]


def test_a_long_stream_needs_no_more_memory_than_a_short_one(classifier, pictures):
    def peak(num_images: int) -> int:
        tracemalloc.start()
        for _ in predict_stream(classifier, (pictures[0] for _ in range(num_images)), batch_size=4, threads=2):
            pass
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    peak(40)  # opens the engine
    # Of what grows with the stream, a view is 3 kB: 400 of them would be seen.
    assert peak(440) < peak(40) + 400_000


def test_a_run_of_bad_files_is_given_out_as_it_comes(classifier, pictures, tmp_path):
    taken = 0

    def paths():
        nonlocal taken
        for taken in range(1, 3001):
            yield pictures[0] if taken % 1000 == 0 else tmp_path / "missing.png"

    behind = []
    for number, row in enumerate(predict_stream(classifier, paths(), batch_size=4, threads=2), start=1):
        assert (row.error is None) == (number % 1000 == 0)
        behind.append(taken - number)
    assert len(behind) == 3000
    assert max(behind) <= 2 * 4 + 4 + 2 * 2  # two batches, and what is decoded ahead of them


def test_a_picture_that_breaks_off_is_forgotten(classifier, tmp_path):
    path = tmp_path / "cut.jpg"
    make_picture(0, (400, 300)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    rows = list(probabilities_stream(classifier, [str(path)] * 5, batch_size=2))
    assert all("truncated" in str(error) for _, error in rows)
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, JpegImageFile)]
    assert "truncated" in next(predict_stream(classifier, [path])).error


def test_paths_keep_their_spelling(classifier, pictures, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert next(predict_stream(classifier, [Path("00.png")])).path == "00.png"
