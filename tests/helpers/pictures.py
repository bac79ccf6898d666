"""Small pictures to work on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LABELS = ("ant", "bee", "cat")  # of the network that tests of prediction use
COLOURS = {"apple": (200, 40, 40), "leaf": (50, 160, 60), "sky": (70, 110, 220)}


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


def make_picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Make a smooth random picture, so that resizing it is no noise."""
    small = np.random.default_rng(seed).integers(256, size=(4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
