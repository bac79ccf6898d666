"""The graph of a classifier: what runs without torch."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import openvino as ov
import pytest
import torch

from headstart.engines.graph import GRAPH, GRAPH_WEIGHTS
from headstart.engines.samples import made_pictures
from headstart.errors import EngineError, ModelError, RunError
from headstart.inference import torch_model
from headstart.inference.model import GraphModel
from headstart.inference.predict import load
from headstart.inference.torch_model import add_graph, classifier_of
from headstart.models.backbones import create_backbone
from headstart.models.classifier import build_classifier
from headstart.models.heads import head_of
from headstart.models.saved import load_classifier, save_classifier
from tests.helpers.pictures import LABELS, make_picture

MANY = np.stack([np.asarray(make_picture(seed)) for seed in range(33)])

# Runs in a process in which importing any of these raises.
WITHOUT_TORCH = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "lightning_fabric"):
            raise ModuleNotFoundError(f"{name} is not installed", name=name)
sys.meta_path.insert(0, Refusing())
"""


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    save_classifier(network, folder)
    assert add_graph(folder, made_pictures(network.spec, 16)) == ""
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def test_it_says_what_pytorch_says(folder, network):
    found = load(folder).predict_proba(MANY)
    expected = classifier_of(network, "cpu", engine="torch").predict_proba(MANY)
    assert np.ptp(found, axis=0).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "timm/vit_tiny_patch16_224", "simple-cnn"])
def test_its_outputs_are_logits_features_and_their_map(name, tmp_path):
    torch.manual_seed(0)
    network = build_classifier(
        create_backbone(name, weights="none", image_size=64 if "vit" not in name else 224), LABELS
    )
    save_classifier(network, tmp_path)
    samples = made_pictures(network.spec, 2)
    assert add_graph(tmp_path, samples) == ""
    compiled = ov.Core().compile_model(tmp_path / GRAPH, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = {name: output for output in compiled.outputs for name in output.get_names()}
    result = compiled(samples[:1])
    features = result[outputs["features"]]

    taken = []
    loaded = load_classifier(tmp_path)
    head_of(loaded.network, loaded.stages).register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        logits = loaded.logits(torch.from_numpy(samples[:1]).permute(0, 3, 1, 2))
    np.testing.assert_allclose(result[outputs["logits"]], logits.numpy(), atol=1e-4)
    expected = taken[0].mean((2, 3)) if taken[0].ndim == 4 else taken[0]
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-3)
    if name == "resnet18":
        np.testing.assert_allclose(result[outputs["feature_map"]].mean((2, 3)).ravel(), features.ravel(), atol=1e-4)
    else:
        assert "feature_map" not in outputs
        assert len(compiled.outputs) == 2


def test_one_picture_or_many_say_the_same_to_the_bit(folder):
    classifier = load(folder)
    together = classifier.predict_proba(MANY)
    alone = np.concatenate([classifier.predict_proba(picture) for picture in MANY])
    np.testing.assert_array_equal(alone, together)
    for size in (15, 16, 17):
        np.testing.assert_array_equal(load(folder).predict_proba(MANY[:size]), together[:size])


def test_a_pickle_needs_no_folder(copied):
    classifier = load(copied)
    expected = classifier.predict_proba(MANY)
    content = pickle.dumps(classifier)
    shutil.rmtree(copied)
    np.testing.assert_array_equal(pickle.loads(content).predict_proba(MANY), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pickle.loads(content))).predict_proba(MANY), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_forked_process_says_the_same_to_the_bit(folder, is_used_before):
    """In a process of its own, which has used no torch and no other threads, as programs have that fork."""
    code = f"""{WITHOUT_TORCH}
import multiprocessing
import numpy as np
from headstart import load
classifier = load({str(folder)!r})
rows = np.random.default_rng(0).integers(0, 255, (20, 40, 40, 3)).astype(np.uint8)
if {is_used_before}:
    classifier.predict_proba(rows)
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(classifier.predict_proba, [rows, rows[:7]])
expected = classifier.predict_proba(rows)
assert (found[0] == expected).all() and (found[1] == expected[:7]).all()
print("the same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "the same\n", done.stderr


def test_classifying_imports_no_torch(folder, tmp_path):
    path = tmp_path / "a.png"
    make_picture(0).save(path)
    expected = load(folder).predict(path)[0]
    commands = f"""{WITHOUT_TORCH}
from headstart.cli import main
sys.argv = ["headstart", "predict", {str(folder)!r}, {str(path)!r}, "--format", "json"]
main()
"""
    done = subprocess.run([sys.executable, "-c", commands], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)[0]
    assert (row["label"], row["probability"]) == (expected.label, expected.probability)


def test_without_torch_a_model_without_a_graph_says_what_to_do(run_folder, tmp_path):
    code = f"{WITHOUT_TORCH}\nimport headstart\nheadstart.load({str(run_folder)!r})"
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert "a model that was saved without a graph needs PyTorch" in done.stderr.splitlines()[-1]


def test_a_model_without_a_graph_gets_one_in_the_cache_on_its_first_use(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    before = sorted(run_folder.rglob("*"))
    first = load(run_folder)
    assert isinstance(first._model, GraphModel)
    written = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["graph.bin", "graph.json", "graph.xml"]
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    np.testing.assert_array_equal(load(run_folder).predict_proba(MANY), first.predict_proba(MANY))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == changed
    assert sorted(run_folder.rglob("*")) == before


def test_a_damaged_graph_in_the_cache_is_made_again(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    expected = load(run_folder).predict_proba(MANY)
    (weights,) = tmp_path.rglob(GRAPH_WEIGHTS)
    before = weights.read_bytes()
    weights.write_bytes(before[:-10])
    np.testing.assert_array_equal(load(run_folder).predict_proba(MANY), expected)
    assert weights.read_bytes() == before
    assert not list(tmp_path.rglob(".headstart-*"))


def test_two_processes_may_make_the_same_graph_at_once(run_folder, tmp_path):
    code = f"""
import numpy as np
import headstart
print(headstart.load({str(run_folder)!r}).predict_proba(np.zeros((1, 40, 40, 3), np.uint8)).tolist())
"""
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path)}
    processes = []
    for _ in range(2):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert len(list(tmp_path.rglob(GRAPH))) == 1


@pytest.mark.parametrize("trouble", ["no openvino", "another allocator"])
def test_where_openvino_cannot_be_used_pytorch_answers_and_says_why(folder, network, monkeypatch, trouble):
    if trouble == "no openvino":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    classifier = load(folder)
    found = classifier.predict_proba(MANY)
    assert classifier.engine == ("torch", "32")
    assert classifier.refused[0].startswith("the model's graph is not used: ")
    np.testing.assert_allclose(found, classifier_of(network, "cpu", engine="torch").predict_proba(MANY), atol=1e-5)


def test_a_disk_that_is_full_is_no_fault_of_the_network(network, run_folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("basic_ios::clear: iostream error")

    save_classifier(network, tmp_path / "model")
    before = sorted((tmp_path / "model").iterdir())
    content = (tmp_path / "model" / "config.json").read_text()
    monkeypatch.setattr(ov, "save_model", fail)
    with pytest.raises(RunError, match=r"cannot write .*graph\.xml: openvino could not write it; the disk may be full"):
        add_graph(tmp_path / "model", made_pictures(network.spec, 2))
    assert sorted((tmp_path / "model").iterdir()) == before
    assert (tmp_path / "model" / "config.json").read_text() == content

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    classifier = load(run_folder)
    classifier.predict_proba(MANY[:1])
    assert "the disk may be full" in classifier.refused[0]


def test_what_lies_at_openvino_is_not_written_into_the_model(network, tmp_path, monkeypatch):
    save_classifier(network, tmp_path)
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert add_graph(tmp_path, made_pictures(network.spec, 2)).startswith("another allocator")
    assert "graph" not in json.loads((tmp_path / "config.json").read_text())["headstart"]


def test_weights_that_were_replaced_are_noticed(copied, network):
    other = build_classifier(create_backbone("simple-cnn", weights="none", image_size=32), LABELS)
    save_classifier(other, copied.parent / "other")
    shutil.copy(copied.parent / "other" / "model.safetensors", copied)
    with pytest.raises(ModelError, match="is not the file that was saved"):
        load(copied)


def test_a_graph_of_other_weights_or_preprocessing_is_not_used(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    before = load(copied).predict_proba(MANY)
    file = copied / "preprocessor_config.json"
    values = json.loads(file.read_text())
    values["input_spec"]["mean"] = [0.1, 0.2, 0.3]
    file.write_text(json.dumps(values))
    changed = load(copied)
    assert np.abs(changed.predict_proba(MANY) - before).max() > 1e-3
    expected = classifier_of(load_classifier(copied), "cpu", engine="torch").predict_proba(MANY)
    np.testing.assert_allclose(changed.predict_proba(MANY), expected, atol=1e-5)


def _cut(file):
    file.write_bytes(file.read_bytes()[:-10])


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", [GRAPH, GRAPH_WEIGHTS])
@pytest.mark.parametrize("damage", [_cut, _flip, lambda file: file.unlink()], ids=["cut", "flipped", "gone"])
def test_a_damaged_graph_is_an_error(copied, name, damage):
    damage(copied / name)
    with pytest.raises(ModelError, match="copy the model folder again"):
        load(copied).predict_proba(MANY[:1])


def _name_as_saved(folder):
    """Make config.json name the files that are there, as a stranger would."""
    config = json.loads((folder / "config.json").read_text())
    for key, name in (("xml_sha256", GRAPH), ("bin_sha256", GRAPH_WEIGHTS)):
        config["headstart"]["graph"][key] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x07\x12\x07pytorch",  # ONNX, which may name files that hold its weights
        b'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]><net name="a" version="11">',
        b'<?xml version="1.0"?>\n<net name="a" version="11"><layers></layers>',
        b"",
    ],
    ids=["onnx", "entity", "broken", "empty"],
)
def test_a_strangers_file_of_another_kind_is_refused(copied, content):
    (copied / GRAPH).write_bytes(content)
    _name_as_saved(copied)
    with pytest.raises((ModelError, EngineError)):
        load(copied).predict_proba(MANY[:1])


def test_a_strangers_graph_of_another_network_is_refused(copied, tmp_path):
    other = build_classifier(create_backbone("simple-cnn", weights="none", image_size=32), [*LABELS, "more"])
    save_classifier(other, tmp_path / "other")
    add_graph(tmp_path / "other", made_pictures(other.spec, 2))
    for name in (GRAPH, GRAPH_WEIGHTS):
        shutil.copy(tmp_path / "other" / name, copied)
    _name_as_saved(copied)
    with pytest.raises(ModelError, match=r"maps \(1, 32, 32, 3\) to \(1, 4\), expected"):
        load(copied).predict_proba(MANY[:1])


def test_a_file_that_is_too_large_is_not_read(copied):
    with (copied / GRAPH_WEIGHTS).open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no space
    started = time.monotonic()
    with pytest.raises(ModelError, match="has 1,099,511,627,776 bytes"):
        load(copied).predict_proba(MANY[:1])
    assert time.monotonic() - started < 5


def test_without_a_graph_pytorch_answers_and_the_folder_says_why(network, tmp_path, monkeypatch):
    def refuse(*_):
        raise EngineError("it does not like it")

    save_classifier(network, tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch_model, "convert", refuse)
    assert add_graph(tmp_path, made_pictures(network.spec, 2)) == "it does not like it"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["headstart"]["graph"] == {"why_not": "it does not like it"}
    classifier = load(tmp_path)
    classifier.predict_proba(MANY[:1])
    assert classifier.refused == ["the model's graph is not used: it does not like it"]


@pytest.mark.parametrize("fault", ["channels", "epsilon", "mean"])
def test_a_graph_that_computes_something_else_is_not_kept(network, tmp_path, monkeypatch, fault):
    convert = torch_model.convert

    def wrongly(module, spec):
        if fault == "channels":
            spec = dataclasses.replace(spec, mean=spec.mean[::-1], std=spec.std[::-1])
            return convert(_Swapped(module), spec)
        if fault == "mean":
            return convert(module, dataclasses.replace(spec, mean=(0.6, 0.5, 0.5)))
        for each in module.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.eps = 1e-1
        return convert(module, spec)

    class _Swapped(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, images):
            return self.module(images.flip(1))

    name = "resnet18" if fault == "epsilon" else "simple-cnn"
    model = build_classifier(create_backbone(name, weights="none", image_size=64), LABELS)
    save_classifier(model, tmp_path)
    monkeypatch.setattr(torch_model, "convert", wrongly)
    reason = add_graph(tmp_path, made_pictures(model.spec, 16))
    assert "OpenVINO does not compute what PyTorch does" in reason
    assert not (tmp_path / GRAPH).exists()
