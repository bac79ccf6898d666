"""Data sets by name. The first three come from their own public addresses; `snacks` is rendered on the spot."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.data.download import download, extract_zip
from headstart.demo.snacks import render_snacks
from headstart.errors import DownloadError, HeadstartError, unknown
from headstart.files import whole_folder
from headstart.types import Progress

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue.

    Attributes:
        description: One line for people.
        licence: What is known about the rights in the pictures.
        make: Function that makes the folder of the data set.
        inner: Path of the splits below the data set's folder.
    """

    description: str
    licence: str
    make: Callable[[Path, Progress], object]
    inner: str = ""


def data_root() -> Path:
    """Return where data sets are kept: `HEADSTART_DATA`, or the user's data folder."""
    import platformdirs

    return Path(os.environ.get("HEADSTART_DATA") or platformdirs.user_data_dir("headstart")).expanduser()


def is_catalog_name(name: str) -> bool:
    """Tell whether the catalogue has a data set of this name."""
    return name in CATALOG


def data_set_folder(name: str, progress: Progress | None = None) -> Path:
    """Return the folder of a data set, fetching or rendering it on first use.

    Args:
        name: Name of the data set.
        progress: Told what is done, how far it is, and how much there is (0: not known); whatever it raises ends it.

    Raises:
        DownloadError: The name is not known, or the data set cannot be made.
    """
    if name not in CATALOG:
        raise DownloadError(unknown("catalogue data set", name, CATALOG))
    folder = data_root() / name
    entry = CATALOG[name]
    if not folder.exists():
        try:
            entry.make(folder, progress or _show_nothing)
        except (HeadstartError, OSError):
            if not folder.exists():  # it appears whole or not at all: another process was quicker
                raise
    return folder / entry.inner


def _show_nothing(title: str, done: int, total: int) -> None:
    """Take progress and show none."""


def licence_of_data(name: str) -> str | None:
    """Return what is known about the licence of a catalogue data set, None for any other name."""
    if name not in CATALOG:
        return None
    return CATALOG[name].licence


def _from_zip(url: str, *, sha1: str | None = None) -> Callable[[Path, Progress], None]:
    """Return a function that makes a data set's folder from an archive on the web."""

    def download_and_extract(folder: Path, progress: Progress) -> None:
        archive = folder.parent / "downloads" / url.rsplit("/", 1)[-1]
        sha256 = download(url, archive, sha1=sha1, progress=progress)
        extract_zip(archive, folder)
        # Where no checksum is published, what was seen is at least written down.
        checked = "sha1" if sha1 else "the archive's own CRC-32 only"
        note = {"url": url, "sha256": sha256, "checked": checked}
        (archive.parent / f"{folder.name}.json").write_text(json.dumps(note, indent=2), encoding="utf-8")

    return download_and_extract


def _make_cifar10(folder: Path, progress: Progress) -> None:
    """Download CIFAR-10 through torchvision, and write it as pictures of animals and of vehicles."""
    from torchvision.datasets import CIFAR10

    downloads = folder.parent / "downloads"
    try:
        parts = {
            "train": CIFAR10(downloads, train=True, download=True),
            "test": CIFAR10(downloads, train=False, download=True),
        }
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"cannot download CIFAR-10 ({error}); download {CIFAR10.filename} in another way and put it in {downloads}"
        ) from error
    write_animals_and_vehicles(parts, parts["train"].classes, folder, progress)


def write_animals_and_vehicles(parts: dict[str, Any], classes: list[str], folder: Path, progress: Progress) -> None:
    """Write CIFAR-10 as PNG files in `{train,test}/{animal,vehicle}`; the folder appears whole or not at all.

    Args:
        parts: Per split, a sequence of (PIL image, class number).
        classes: Names of the ten classes.
        folder: Folder to make.
        progress: Told how many pictures are written.
    """
    with whole_folder(folder) as whole:
        for split, pictures in parts.items():
            for number, (picture, label) in enumerate(pictures):
                name = classes[label]
                kind = "animal" if name in ANIMALS else "vehicle"
                path = whole / split / kind / f"{name}-{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
                progress(f"writing {split}", number + 1, len(pictures))


CATALOG: dict[str, Entry] = {
    "hotdog": Entry(
        "hot dogs and other pictures, 2,000 train and 800 test (d2l.ai)",
        "not stated by its publisher (d2l.ai); photographs from the web, for study",
        _from_zip(
            "https://d2l-data.s3-accelerate.amazonaws.com/hotdog.zip", sha1="fba480ffa8aa7e0febbb511d181409f899b9baa5"
        ),
        "hotdog",
    ),
    "hymenoptera": Entry(
        "ants and bees, 245 train and 153 validation (PyTorch's transfer-learning tutorial)",
        "not stated by its publisher (PyTorch tutorials); a subset of ImageNet, for non-commercial research",
        _from_zip("https://download.pytorch.org/tutorial/hymenoptera_data.zip"),
        "hymenoptera_data",
    ),
    "cifar10-animals-vehicles": Entry(
        "CIFAR-10 merged into animals and vehicles, 50,000 train and 10,000 test of 32x32 px (through torchvision)",
        "not stated by its publisher (University of Toronto); Krizhevsky 2009 asks to be cited",
        _make_cifar10,
    ),
    "snacks": Entry(
        "hot dogs and other foods that Headstart draws itself, 240 train and 200 test; no download",
        "Apache-2.0, as Headstart itself",
        lambda folder, progress: render_snacks(folder, progress=progress),
    ),
}
