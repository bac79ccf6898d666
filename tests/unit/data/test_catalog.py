import io
import zipfile
from collections import Counter
from concurrent.futures import CancelledError

import numpy as np
import pytest
from PIL import Image

from headstart.data import catalog
from headstart.data.catalog import CATALOG, data_root, data_set_folder, is_catalog_name, write_animals_and_vehicles
from headstart.data.contact_sheet import contact_sheet
from headstart.data.dataset import load_dataset
from headstart.demo.snacks import render_snacks
from headstart.errors import DownloadError


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path / "data"))


def test_names():
    assert set(CATALOG) == {"hotdog", "hymenoptera", "cifar10-animals-vehicles", "snacks"}
    assert is_catalog_name("hotdog")
    assert not is_catalog_name("./hotdog")
    with pytest.raises(DownloadError, match="Did you mean 'hotdog'"):
        data_set_folder("hotdgo")


@pytest.mark.parametrize("name", ["hotdog", "hymenoptera", "cifar10-animals-vehicles"])
def test_without_a_network_the_error_says_where_to_put_the_file(name, tmp_path):
    with pytest.raises(DownloadError, match="in another way and put it"):
        data_set_folder(name)
    assert not (tmp_path / "data" / name).exists()


def test_an_archive_brought_by_hand_is_unpacked_once(tmp_path):
    downloads = data_root() / "downloads"
    downloads.mkdir(parents=True)
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with zipfile.ZipFile(downloads / "hymenoptera_data.zip", "w") as file:
        file.writestr("hymenoptera_data/train/ants/1.png", picture.getvalue())
    folder = data_set_folder("hymenoptera")
    assert (folder / "train" / "ants" / "1.png").exists()
    assert "CRC-32" in (downloads / "hymenoptera.json").read_text()
    (downloads / "hymenoptera_data.zip").unlink()
    assert data_set_folder("hymenoptera") == folder


def test_a_wrong_hotdog_archive_is_refused():
    downloads = data_root() / "downloads"
    downloads.mkdir(parents=True)
    with zipfile.ZipFile(downloads / "hotdog.zip", "w") as file:
        file.writestr("hotdog/train/hotdog/1.png", b"x")
    with pytest.raises(DownloadError, match="expected fba480ffa8aa7e0febbb511d181409f899b9baa5"):
        data_set_folder("hotdog")


def test_cifar_is_written_as_animals_and_vehicles(tmp_path):
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    pictures = [(Image.new("RGB", (32, 32), (i, 0, 0)), i) for i in range(10)]
    write_animals_and_vehicles({"train": pictures, "test": pictures[:3]}, classes, tmp_path / "c", lambda *_: None)
    counts = Counter(str(path.parent.relative_to(tmp_path / "c")) for path in (tmp_path / "c").rglob("*.png"))
    assert counts == {"train/animal": 6, "train/vehicle": 4, "test/animal": 1, "test/vehicle": 2}


def test_snacks_are_rendered_on_first_use(monkeypatch):
    small = lambda folder, **rest: render_snacks(folder, train_per_class=1, test_per_class=1, size=32, **rest)  # noqa: E731
    monkeypatch.setattr(catalog, "render_snacks", small)
    told: list[tuple[str, int, int]] = []
    manifest, _ = load_dataset("snacks", progress=lambda *step: told.append(step))
    assert len(manifest.records) == len(list(data_set_folder("snacks").rglob("*.png"))) == 4
    assert told[:4] == [("rendering snacks", done, 4) for done in range(1, 5)]
    assert {title for title, _, _ in told[4:]} == {"reading headers", "checking pixels"}


def test_the_home_folder_has_its_short_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HEADSTART_DATA", "~/sets")
    assert catalog.data_root() == tmp_path / "sets"


def test_what_is_cancelled_leaves_nothing(tmp_path):
    def cancel(title, done, total):
        raise CancelledError

    with pytest.raises(CancelledError):
        data_set_folder("snacks", cancel)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_contact_sheet_has_room_for_every_picture_and_caption():
    red, wide = Image.new("RGB", (50, 50), "red"), Image.new("RGBA", (300, 100), (0, 0, 255, 255))
    sheet = contact_sheet(
        [("red ones", [red, red, red]), ("a caption far too long for the sheet " * 5, [wide])], tile=60
    )
    pixels = np.asarray(sheet)
    assert sheet.width >= 3 * 60
    assert sheet.height >= 2 * 60
    reds = (pixels == (255, 0, 0)).all(-1)
    assert reds.sum() == 3 * 60 * 60
    blues = np.argwhere((pixels == (0, 0, 255)).all(-1))
    assert np.ptp(blues[:, 1]) + 1 == 60  # fitted, not distorted
    assert np.ptp(blues[:, 0]) + 1 == 20
    assert (pixels.sum(-1) < 200).sum() > 50  # captions in black
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
