"""Strategies with small parts from the command line: train, resume, a delta, and the model rebuilt from it."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

import headstart as library
from headstart.config import make_config
from headstart.display import LineDisplay
from headstart.experiment.settings import ineffective_settings
from headstart.models.saved import load_classifier
from headstart.runs import Run

SMALL = ("--backbone", "simple-cnn", "--image-size", 32, "--augment", "flip", "--epochs", 2, "--threads", 1)


@pytest.fixture(scope="module")
def source(image_folder, tmp_path_factory):
    """A finished run, whose weights the others start from."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("source") / "run"
    settings = {"backbone": "simple-cnn", "image_size": 32, "strategy": "scratch", "epochs": 3, "augment": "flip"}
    return library.fit(image_folder, out=str(out), threads=1, **settings).path


@pytest.mark.parametrize("strategy", ["lora", "adapter", "norm", "head", "l2-sp"])
def test_a_run_its_delta_and_the_model_rebuilt_from_it(headstart, image_folder, source, tmp_path, strategy):
    run, delta = tmp_path / "run", tmp_path / "delta.safetensors"
    words = ("train", image_folder, *SMALL, "--weights", source, "--strategy", strategy, "--out", run)
    outcome = headstart(*words)
    assert outcome.code == 0, outcome.err
    before, after = load_file(source / "model" / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    same = {name for name in before if torch.equal(before[name], after[name])}
    biases = {name for name in before if name.endswith("bias")}
    everything = set(before)
    expected = {"lora": biases, "norm": everything - biases, "l2-sp": set()}.get(strategy, everything)
    assert same == {name for name in expected if not name.startswith("head.")}
    assert (set(after) == set(before)) == (strategy != "adapter")

    outcome = headstart("delta", run, "--out", delta)
    assert outcome.code == 0, outcome.err
    assert f"{delta}: " in outcome.out
    outcome = headstart("rebuild", delta, "--out", tmp_path / "model", "--weights", source)
    assert outcome.code == 0, outcome.err
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "model", run / "model")]
    for config in configs:
        del config["headstart"]["graph"]["xml_sha256"]  # of names that OpenVINO gives out
    assert configs[0] == configs[1]
    for name in ("model.safetensors", "graph.bin", "preprocessor_config.json", "labels.txt"):
        assert (tmp_path / "model" / name).read_bytes() == (run / "model" / name).read_bytes()
    whole = (run / "model" / "model.safetensors").stat().st_size
    share = {"lora": 0.12, "adapter": 0.05, "norm": 0.02, "head": 0.02, "l2-sp": 1.05}[strategy]
    assert delta.stat().st_size < share * whole + 4000
    pictures = sorted(image_folder.glob("val/*/*"))[:4]
    found, expected = (library.load(folder).predict_proba(pictures) for folder in (tmp_path / "model", run))
    assert (found == expected).all()

    occupied = headstart("rebuild", delta, "--out", run, "--weights", source)
    assert (occupied.code, "is not empty" in occupied.err) == (2, True)


def test_a_delta_needs_its_own_base(headstart, image_folder, source, tmp_path):
    scratch = headstart("delta", source, "--out", tmp_path / "a")
    assert (scratch.code, "started from random weights" in scratch.err) == (2, True)
    run = tmp_path / "run"
    words = ("train", image_folder, *SMALL, "--weights", source, "--strategy", "head", "--epochs", 0, "--out", run)
    assert headstart(*words).code == 0
    assert headstart("delta", run, "--out", tmp_path / "b").code == 0
    outcome = headstart("rebuild", tmp_path / "b", "--out", tmp_path / "model")  # simple-cnn has no published weights
    assert outcome.code == 2
    assert "belongs on simple-cnn with weights" in outcome.err
    assert not (tmp_path / "model").exists()


def test_lora_on_lite0_trains_only_above_the_boundary_and_timm_loads_it(headstart, image_folder, tmp_path):
    words = (image_folder, "--image-size", 64, "--epochs", 1, "--strategy", "lora", "--stages", 1, "--lora-rank", 4)
    plan = headstart("plan", *words)
    assert plan.code == 0, plan.err
    assert "after blocks.5" in plan.out
    # Rank 4 of blocks.6 (expansion 192-1152, depthwise, projection 1152-320), conv_head 320-1280, and a head of 1280-3.
    count = 4 * (192 + 1152) + 4 * (9 + 1152) + 4 * (1152 + 320) + 4 * (320 + 1280) + 3 * 1281
    assert f"{count:,} / " in plan.out
    run = tmp_path / "run"
    outcome = headstart("train", *words, "--out", run)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["trainable_parameters"] == count
    network = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    loaded = load_classifier(run)
    with torch.inference_mode():
        assert torch.equal(network(loaded.normalize(pixels)), loaded.logits(pixels))
    base = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert set(loaded.network.state_dict()) == set(base)


def test_an_adapter_model_says_that_only_headstart_loads_it(headstart, image_folder, tmp_path):
    words = ("--image-size", 64, "--epochs", 1, "--strategy", "adapter", "--stages", 1, "--adapter-width", 4)
    run = tmp_path / "run"
    outcome = headstart("train", image_folder, *words, "--out", run)
    assert outcome.code == 0, outcome.err
    own = json.loads((run / "model" / "config.json").read_text())["headstart"]
    assert own["adapters"] == {"blocks.6.0": [320, 4]}
    card = (run / "model" / "README.md").read_text()
    assert "library_name: headstart" in card
    assert "local-dir" not in card
    with pytest.raises(RuntimeError, match="adapter"):
        timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)


def test_adapters_of_two_widths_in_one_run(headstart, image_folder, source, tmp_path):
    words = ("train", image_folder, *SMALL, "--epochs", 1, "--strategy", "adapter")
    first = headstart(*words, "--weights", source, "--stages", 1, "--adapter-width", 4, "--out", tmp_path / "a")
    assert first.code == 0, first.err
    assert "keep their width" not in first.err
    second = headstart(*words, "--weights", tmp_path / "a", "--adapter-width", 2, "--out", tmp_path / "b")
    assert second.code == 0, second.err
    assert (
        f"the adapters that {tmp_path / 'a'} brings keep their width, 4; adapter_width=2 is for new ones" in second.err
    )
    own = json.loads((tmp_path / "b" / "model" / "config.json").read_text())["headstart"]
    assert own["adapters"] == {"conv1.2": [32, 2], "conv2.2": [64, 2], "conv3.2": [128, 2], "hidden.6": [64, 4]}
    assert library.load(tmp_path / "b").predict_proba(sorted(image_folder.glob("val/*/*"))[:2]).shape == (2, 3)


@pytest.mark.parametrize("strategy", ["lora", "l2-sp"])
def test_an_interrupted_run_ends_in_the_same_bytes(headstart, image_folder, source, tmp_path, monkeypatch, strategy):
    words = ("train", image_folder, *SMALL, "--weights", source, "--strategy", strategy, "--tune", "off", "--out")
    assert headstart(*words, tmp_path / "whole").code == 0

    def stop(self, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LineDisplay, "epoch", stop)
        assert headstart(*words, tmp_path / "run").code == 130
    outcome = headstart("train", "--resume", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    whole, resumed = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "run"))
    assert whole == resumed


def test_a_table_of_ones_own_with_parts_and_a_penalty(headstart, image_folder, source, tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text(
        "parts: lora\nphases:\n"
        "  - {name: small, epochs: 1, lr: 0.001, rules: {head: 10, '*.lora_a': 1, '*.lora_b': 1, '*': null}}\n"
        "  - {name: all, epochs: 1, lr: 0.0001, penalty: {alpha: 0.5}, rules: {'*': 1}}\n"
    )
    words = (image_folder, *SMALL, "--weights", source, "--strategy", table, "--lora-rank", 2)
    plan = headstart("plan", *words)
    assert "penalty: L2-SP, 0.5 towards the start" in plan.out
    assert "no effect" not in plan.err
    outcome = headstart("train", *words, "--time-limit", "60s", "--out", tmp_path / "run")  # timed on a copy
    assert outcome.code == 0, outcome.err
    run = Run(tmp_path / "run")
    assert (run.config().lora_rank, run.resolved().epochs) == (2, (1, 1))


def test_adapters_without_known_blocks_are_refused(headstart, image_folder):
    outcome = headstart(
        "plan", image_folder, "--strategy", "adapter", "--backbone", "squeezenet1_1", "--weights", "none"
    )
    assert (outcome.code, "the blocks of squeezenet1_1 are not known" in outcome.err) == (2, True)


def test_a_pull_towards_random_weights_is_noted(headstart, image_folder):
    outcome = headstart("plan", image_folder, *SMALL, "--weights", "none", "--strategy", "l2-sp")
    assert "note: simple-cnn has random weights here, and l2-sp pulls towards them" in outcome.err


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"strategy": "lora", "stages": 2, "lora_rank": 4, "lora_alpha": 4.0, "adapter_width": 8}, ["adapter_width"]),
        ({"strategy": "adapter", "stages": 2, "lora_rank": 4, "adapter_width": 8}, ["lora_rank"]),
        ({"strategy": "l2-sp", "stages": 2, "l2sp_alpha": 1.0, "weight_decay": 0.1}, ["stages", "weight_decay"]),
        ({"strategy": "norm", "stages": 2, "lora_alpha": 1.0, "l2sp_beta": 1.0}, ["lora_alpha", "l2sp_beta"]),
    ],
)
def test_settings_of_other_strategies_are_noted(settings, keys):
    assert list(ineffective_settings(make_config(settings))) == keys
