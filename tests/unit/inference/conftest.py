from pathlib import Path

import pytest
import torch

from headstart import runs
from headstart.config import Config, dump_config
from headstart.inference.predict import Classifier, load
from headstart.models.backbones import create_backbone
from headstart.models.classifier import ClassifierNetwork, build_classifier
from headstart.models.saved import save_classifier
from tests.helpers.pictures import LABELS, make_picture


@pytest.fixture(scope="session")
def network() -> ClassifierNetwork:
    torch.manual_seed(0)
    network = build_classifier(create_backbone("simple-cnn", weights="none", image_size=32), LABELS)
    # Random weights say nearly the same of every picture; larger ones tell pictures apart.
    with torch.no_grad():
        for parameter in network.network.parameters():
            parameter.mul_(2.5)
    return network


@pytest.fixture(scope="session")
def run_folder(network, tmp_path_factory) -> Path:
    files = {"config.yaml": dump_config(Config(data="snacks")), "environment.json": "{}"}
    run = runs.create_run_folder(tmp_path_factory.mktemp("runs") / "a", files)
    save_classifier(network, run.model_folder)
    return run.path


@pytest.fixture(scope="module")  # opens its engine once
def classifier(run_folder) -> Classifier:
    return load(run_folder, device="cpu")


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{index:02}.png" for index in range(7)]
    for index, path in enumerate(paths):
        make_picture(index).save(path)
    return paths
