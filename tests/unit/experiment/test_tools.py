"""What `evaluate` says of images that the model has seen."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headstart import experiment
from headstart.config import make_config
from headstart.display import Display
from headstart.errors import RunError
from headstart.experiment.sheet import show_data
from headstart.experiment.tools import evaluate_folder
from tests.helpers.displays import Remembering
from tests.helpers.pictures import COLOURS, write_folder

TINY = {
    "backbone": "simple-cnn", "image_size": 32, "augment": "flip", "epochs": 1, "batch_size": 8, "tune": "off",
    "engine": "torch", "precision": "32", "threads": 1, "monitor": False, "strategy": "scratch",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    sizes = {"train": 4, "val": 3, "test": 2}
    counts = {f"{split}/{label}": size for split, size in sizes.items() for label in COLOURS}
    return write_folder(tmp_path_factory.mktemp("data") / "shapes", counts)


def seen(model, data, split):
    return evaluate_folder(model, str(data), display=Display(), split=split, engine="torch")["seen_by_the_model"]


@pytest.mark.parametrize(
    ("settings", "split"),
    [({}, None), ({"best_epoch": True}, "validation"), ({"best_epoch": True, "select_on": "reported"}, "test")],
)
def test_images_that_trained_or_selected_are_told(data, tmp_path, settings, split):
    run = experiment.train(make_config({**TINY, **settings, "data": str(data), "out": str(tmp_path / "run")}))
    selected = {"validation": 9, "test": 6}
    for each, count in selected.items():
        line = f"the model selected its epoch on {count} of these {count} images, so the figure is optimistic"
        assert seen(run.path, data, each) == ([line] if each == split else [])
    assert "was trained on 12 of these 12 images" in seen(run.model_folder, data, "train")[0]


def test_a_manifest_beside_a_copied_model_is_not_taken_for_a_runs(data, tmp_path):
    run = experiment.train(make_config({**TINY, "data": str(data), "out": str(tmp_path / "run")}))
    shutil.copytree(run.model_folder, tmp_path / "model")
    pq.write_table(pa.table({"path": ["a.jpg"], "label": ["sky"]}), tmp_path / "manifest.parquet")
    assert seen(tmp_path / "model", data, "train") == []


def test_a_sheet_of_many_classes_with_odd_names_has_a_size_that_can_be_opened(tmp_path, picture):
    """1,000 classes once made a sheet of 190,020 pixels, and a line feed in a name ended in an error."""
    picture.save(tmp_path / "one.png")
    names = ["odd\nname", *(f"class {number:03}" for number in range(400))]
    rows = [f'one.png,"{name}",{split}' for name in names for split in ("train", "test")]
    (tmp_path / "many.csv").write_text("\n".join(["path,label,split", *rows]))
    said = Remembering()
    sheet = tmp_path.parent / "many.png"
    show_data(make_config({"data": str(tmp_path / "many.csv"), "leaks": "keep"}), sheet, display=said)
    with Image.open(sheet) as found:
        assert found.height <= 65_500
    assert any("the first 344 of 401 classes" in line for line in said.said)


def test_a_sheet_that_cannot_be_written_leaves_nothing(image_folder, tmp_path, monkeypatch):
    def fail(self, target, *_):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(RunError, match="no space left on device; free some space"):
        show_data(make_config({"data": str(image_folder)}), tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())
