"""What all tests share: no network, no writing into the user's folders, and small pictures to work on."""

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {"apple": (200, 40, 40), "leaf": (50, 160, 60), "sky": (70, 110, 220)}


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):  # a Unix socket
        return True
    host = address[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse every connection except to this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if not _is_local(address):
            raise OSError(f"tests may not use the network: connection to {address} refused")
        return connect(self, address)

    return guarded


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point the caches and the catalogue's data to temporary folders, for subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEADSTART_CACHE", "HEADSTART_DATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        patch.delenv("HEADSTART_CACHE_LIMIT", raising=False)
        yield


def draw_picture(label: str, rng: np.random.Generator) -> Image.Image:
    """Draw a disc, square or stripes in the colour of `label` on a noisy background, 40 to 90 pixels a side."""
    width, height = (int(side) for side in rng.integers(40, 91, size=2))
    noise = rng.integers(90, 166, size=(height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    pen = ImageDraw.Draw(picture)
    colour = tuple(int(np.clip(value + rng.integers(-25, 26), 0, 255)) for value in COLOURS[label])
    side = int(min(width, height) * rng.uniform(0.5, 0.8))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    box = (left, top, left + side, top + side)
    if label == "apple":
        pen.ellipse(box, fill=colour)
    elif label == "leaf":
        pen.rectangle(box, fill=colour)
    else:
        for y in range(top, top + side, 6):
            pen.rectangle((left, y, left + side, y + 3), fill=colour)
    return picture


def write_folder(root: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Write `counts` pictures, no two alike, into each of the folders named: {"train/apple": 4, "val/leaf": 2}."""
    rng = np.random.default_rng(seed)
    for folder, count in counts.items():
        label = folder.split("/")[-1]
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            suffix = ".png" if number % 2 else ".jpg"
            picture = draw_picture(label if label in COLOURS else "apple", rng)
            picture.save(root / folder / f"{number:03d}{suffix}", quality=92)
    return root


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a folder of one's own: make_folder({"train/apple": 4, ...}, "name", seed=0)."""

    def make(counts: Mapping[str, int], name: str = "data", seed: int = 0) -> Path:
        return write_folder(tmp_path / name, counts, seed)

    return make


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that is easy to learn: three classes, 12 train and 6 val images each. Shared: do not change it."""
    splits = {"train": 12, "val": 6}
    counts = {f"{split}/{label}": count for split, count in splits.items() for label in COLOURS}
    return write_folder(tmp_path_factory.mktemp("images") / "fruit", counts)


@pytest.fixture
def picture() -> Image.Image:
    """One RGB picture, 60 wide and 45 high, no two corners alike."""
    ramp = np.zeros((45, 60, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1], ramp[..., 2] = np.arange(60) * 4, np.arange(45)[:, None] * 5, 90
    return Image.fromarray(ramp)


@pytest.fixture
def not_root() -> None:
    """Skip where permissions mean nothing."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.skip("root may read everything")
