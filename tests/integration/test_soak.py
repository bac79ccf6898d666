"""What takes too long for CI: memory stays bounded whatever the size of the set. Run by `make soak`."""

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.soak

NUM_IMAGES = int(os.environ.get("HEADSTART_SOAK_IMAGES", "100000"))
LIMIT_BYTES = 2_000_000_000


def draw(folder: Path, numbers: range) -> None:
    """Write JPEGs of 400x300 that differ in their pixels: a smooth background and a pattern that spells the number."""
    for number in numbers:
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        picture = np.array(small.resize((400, 300), Image.Resampling.BICUBIC))
        bits = [(number >> bit) & 1 for bit in range(20)]
        picture[:20, :400] = np.repeat(np.array(bits, dtype=np.uint8) * 255, 20)[None, :, None]
        name = folder / ("a" if number % 2 else "b") / f"{number:06d}.jpg"
        Image.fromarray(picture).save(name, quality=75)


def make_images(folder: Path, count: int) -> Path:
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
    step = max(1, count // 64)
    parts = [range(start, min(start + step, count)) for start in range(0, count, step)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw, [folder] * len(parts), parts))
    return folder


def peak_bytes(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and return the largest resident memory of it and its children together."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(resident(pid) for pid in family(process.pid)))
        time.sleep(0.2)
    assert process.returncode == 0, process.stderr.read() if process.stderr else ""
    return peak


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = [int(word) for word in children.read_text().split()] if children.exists() else []
    return [pid, *(member for child in below for member in family(child))]


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images so few that next to nothing is held of them, and many."""
    folder = tmp_path_factory.mktemp("images")
    return make_images(folder / "few", 32), make_images(folder / "many", NUM_IMAGES)


# Small inputs: it is the number of images that counts, and their decoding is the same.
CASES = {
    "head": ["--strategy", "head", "--views", "1", "--backbone", "lite0"],
    "head, solved": ["--strategy", "head", "--solver", "lbfgs", "--backbone", "lite0"],
    "full": ["--strategy", "full", "--backbone", "simple-cnn"],
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("case", CASES)
def test_memory_is_bounded_whatever_the_number_of_images(case: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path / "cache")}
    settings = [*CASES[case], "--epochs", "1", "--tune", "off", "--image-size", "64"]

    def run(data: Path) -> int:
        command = [sys.executable, "-m", "headstart", "train", str(data), *settings]
        return peak_bytes([*command, "--out", str(tmp_path / "runs" / data.name)], environment)

    base, grown = map(run, folders)
    print(f"{case}: {base / 1e6:.0f} MB with 32 images, {grown / 1e6:.0f} MB with {NUM_IMAGES}")
    assert grown - base < LIMIT_BYTES
