"""What all tests share: no network, no writing into the user's folders, and small pictures to work on."""

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import cli
from tests.helpers.command_line import Outcome
from tests.helpers.pictures import COLOURS, write_folder

# Read when torch is loaded, which nothing above does. Several processes share the cores, and threads that wait for each
# other by spinning would take them from those that work.
os.environ["OMP_NUM_THREADS"] = "1"


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


@pytest.fixture
def headstart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs `headstart WORDS` and gives its exit code and output."""

    def run(*words: object) -> Outcome:
        import torch

        torch.set_num_threads(1)  # small networks: more threads only wait for each other
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        return Outcome(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
