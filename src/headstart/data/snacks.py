"""`snacks`: a data set that needs no download. Pictures of hot dogs and of other foods, rendered on the spot.

Shape, pose, light, background, occlusion and the faults of a camera vary; near misses (filled rolls, sausages without a
bun, iced eclairs, corn, bananas) share the hot dog's outline, so that colour or shape alone do not tell the two classes
apart.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from headstart.data.snack_foods import FLAT, LONG, UPRIGHT, fries, hot_dog, ice_cream
from headstart.data.snack_pen import Array, Color, Pen, dim
from headstart.errors import DataError

LABELS: Final = ("hot_dog", "not_hot_dog")
SPLITS: Final = ("train", "test")
_FINER: Final = 2  # drawn so many times larger, then reduced: smooth edges
_WOODS: Final[tuple[Color, ...]] = ((150, 104, 66), (196, 156, 112), (92, 62, 44), (128, 120, 112), (222, 200, 168))
_CLOTHS: Final[tuple[Color, ...]] = (
    (190, 40, 40),
    (50, 90, 160),
    (60, 130, 80),
    (210, 170, 60),
    (120, 120, 126),
    (214, 206, 196),
)
_SKINS: Final[tuple[Color, ...]] = ((238, 196, 164), (198, 140, 102), (120, 78, 54))
_ITEMS: Final[tuple[Color, ...]] = (
    (250, 248, 244),
    (200, 30, 34),
    (40, 80, 150),
    (30, 30, 34),
    (226, 186, 60),
    (90, 140, 90),
)


def render_snacks(
    folder: Path,
    *,
    seed: int = 0,
    train_per_class: int = 120,
    test_per_class: int = 100,
    size: int = 192,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write the pictures as PNG files in `folder/{train,test}/{hot_dog,not_hot_dog}/NNNN.png`.

    The folder appears whole or not at all. With the same versions of NumPy and Pillow the same arguments give the same
    bytes, and a picture does not depend on how many others there are.

    Args:
        folder: A folder that does not exist yet, or is empty.
        seed: Another seed, other pictures.
        train_per_class: Pictures of each class to learn from.
        test_per_class: Pictures of each class to report on.
        size: Side of the square pictures, pixels.
        progress: Called with what is done, how many pictures are ready and how many there will be.

    Returns:
        The folder.

    Raises:
        DataError: The folder is occupied or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"cannot render snacks into {folder}: it exists and is not empty; name a new folder or remove it"
        )
    counts = {"train": train_per_class, "test": test_per_class}
    jobs = [(split, label, index) for split in SPLITS for label in LABELS for index in range(counts[split])]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            whole = Path(temporary) / folder.name
            for done, (split, label, index) in enumerate(jobs):
                path = whole / split / label / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_snack(split, label, index, seed=seed, size=size).save(path, compress_level=3)
                if progress is not None:
                    progress("rendering snacks", done + 1, len(jobs))
            if folder.exists():
                folder.rmdir()
            whole.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}; choose another folder or make room") from error
    return folder


def draw_snack(split: str, label: str, index: int, *, seed: int = 0, size: int = 192) -> Image.Image:
    """Draw one picture, a pure function of the arguments.

    Args:
        split: `train` or `test`.
        label: `hot_dog` or `not_hot_dog`.
        index: Which picture of its split and class.
        seed: The data set's seed.
        size: Side, pixels.

    Returns:
        An RGB image.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), LABELS.index(label), index])
    angle = rng.uniform(np.pi, 2 * np.pi)
    scene = _Scene(rng, size, (float(np.cos(angle)), float(np.sin(angle))))
    scene.set_table()
    scene.serve(label)
    scene.put_in_front()
    return _photograph(rng, scene.picture)


class _Scene:
    """A table that gets filled from back to front."""

    def __init__(self, rng: np.random.Generator, size: int, light: tuple[float, float]) -> None:
        self.rng, self.size, self.light = rng, size, light
        self.picture = _table(rng, size)

    def pen(self, scale: float, center: tuple[float, float], **pose: float) -> Pen:
        """Return a pen; `scale` and `center` in sides of the picture."""
        side = self.size * _FINER
        middle = (center[0] * side, center[1] * side)
        return Pen(side, self.rng, self.light, scale=scale * side, center=middle, **pose)

    def put(self, pen: Pen, height: float = 0.03) -> None:
        """Lay what the pen drew onto the picture, with its shadow; `height` in sides of the picture."""
        layer = pen.image.reduce(_FINER)
        alpha = layer.getchannel("A")
        shadow = alpha.filter(ImageFilter.BoxBlur(height * self.size * 0.6)).point(lambda value: value * 0.55)
        x, y = (round(-height * self.size * part) for part in self.light)
        self.picture.paste((24, 18, 16), (x, y), shadow)
        self.picture.paste(layer, (0, 0), alpha)

    def set_table(self) -> None:
        """Lay a plate or a board, or nothing."""
        rng = self.rng
        if rng.random() < 0.45:
            return
        pen = self.pen(rng.uniform(0.36, 0.5), _near(rng, 0.06), tilt=rng.uniform(0.6, 1), angle=rng.uniform(-0.4, 0.4))
        color = pen.pick(_ITEMS if rng.random() < 0.5 else _ITEMS[:1])
        if rng.random() < 0.7:
            pen.disc((0, 0), 1.0, color, levels=2)
            pen.disc((0, 0), 0.74, dim(color, 1.06), levels=3)
        else:
            pen.fill(np.array([[-1, -0.8], [1, -0.8], [1, 0.8], [-1, 0.8]]), pen.pick((*_WOODS, _ITEMS[0])))
        self.put(pen, 0.015)

    def serve(self, label: str) -> None:
        """Put the food that gives the picture its class, sometimes beside another."""
        rng = self.rng
        scale, center = rng.uniform(0.3, 0.48), _near(rng, 0.12)
        if rng.random() < 0.2:
            aside = rng.uniform(0, 2 * np.pi)
            other = (0.5 + 0.42 * float(np.cos(aside)), 0.5 + 0.42 * float(np.sin(aside)))
            pen = self.pen(rng.uniform(0.15, 0.24), other, angle=rng.uniform(-0.3, 0.3))
            (fries, ice_cream, *UPRIGHT, *FLAT)[rng.integers(6)](pen)
            self.put(pen)
        group = (LONG, UPRIGHT, UPRIGHT, UPRIGHT, FLAT)[rng.integers(5)]
        other_food = group[rng.integers(len(group))]
        food = hot_dog if label == "hot_dog" else other_food
        turn = rng.normal(0, 0.25) if food in UPRIGHT else rng.uniform(0, 2 * np.pi)
        tilt = 1.0 if food in UPRIGHT else rng.uniform(0.6, 1)
        pen = self.pen(scale, center, angle=turn, tilt=tilt, shear=rng.uniform(-0.25, 0.25))
        food(pen)
        self.put(pen)

    def put_in_front(self) -> None:
        """Cover a part of the food with a napkin, fingers, a cup, or nothing."""
        rng = self.rng
        kind = rng.choice(["nothing", "napkin", "hand", "cup", "fork"], p=[0.65, 0.12, 0.09, 0.08, 0.06])
        if kind == "nothing":
            return
        aside, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.22, 0.4)
        center = (0.5 + far * float(np.cos(aside)), 0.5 + far * float(np.sin(aside)))
        pen = self.pen(rng.uniform(0.16, 0.26), center, angle=aside)
        if kind == "napkin":
            _napkin(pen)
        elif kind == "hand":
            skin = pen.pick(_SKINS)
            for finger in range(int(rng.integers(2, 5))):
                y = (finger - 1.5) * 0.42
                pen.tube(
                    np.array([[3.0, y * 1.2], [0.6, y], [rng.uniform(-0.7, -0.3), y * 0.9]]), 0.22, skin, gloss=0.1
                )
        elif kind == "cup":
            color = pen.pick(_ITEMS)
            pen.disc((0, 0), 0.9, color, levels=3)
            pen.disc(
                (0, 0),
                0.74,
                pen.pick(((70, 36, 24), (230, 170, 60), (240, 240, 240), (190, 40, 30))),
                levels=4,
                gloss=0.3,
            )
        else:
            for y in (-0.15, -0.05, 0.05, 0.15):
                pen.line(np.array([[-1.2, y], [-0.5, y]]), 0.05, (196, 198, 204))
            pen.tube(
                np.array([[-0.5, 0], [0.0, 0], [3.0, 0]]), np.array([0.18, 0.07, 0.08]), (190, 192, 198), gloss=0.5
            )
        self.put(pen, 0.04)


def _napkin(pen: Pen) -> None:
    color = pen.pick((*_ITEMS[:2], *_CLOTHS))
    corners = np.array([[-1.1, -0.9], [1.0, -1.1], [1.2, 0.9], [-0.9, 1.1]]) + pen.rng.uniform(-0.15, 0.15, (4, 2))
    pen.fill(corners, color)
    for k in np.linspace(0.15, 0.85, int(pen.rng.integers(2, 6))):
        ends = np.array([corners[0] + k * (corners[1] - corners[0]), corners[3] + k * (corners[2] - corners[3])])
        pen.line(ends, 0.06, dim(color, 0.9))
        pen.line(ends + 0.05, 0.05, dim(color, 1.08))


def _near(rng: np.random.Generator, spread: float) -> tuple[float, float]:
    """Return a place around the middle, in sides of the picture."""
    x, y = 0.5 + rng.uniform(-spread, spread, 2)
    return float(x), float(y)


def _noise(rng: np.random.Generator, rows: int, columns: int, size: int) -> Array:
    """Return smooth noise `(size, size)`, mostly within -1 to 1, with that many grains down and across."""
    grains = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(grains.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def _table(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw what everything lies on: wood, checked or striped cloth, stone, grass, or a plain surface."""
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:size, 0:size] / size
    u = x * np.cos(turn) + y * np.sin(turn)
    v = y * np.cos(turn) - x * np.sin(turn)
    kind = rng.choice(["wood", "cloth", "stripes", "stone", "grass", "plain"], p=[0.3, 0.2, 0.08, 0.16, 0.08, 0.18])
    first, second = (np.array(_CLOTHS[k], float) for k in rng.integers(len(_CLOTHS), size=2))
    if kind == "wood":
        first = np.array(_WOODS[rng.integers(len(_WOODS))], float)
        planks = np.floor(x * rng.integers(2, 6) + rng.uniform(0, 1))
        grain = _noise(rng, 5, 60, size) + 0.5 * _noise(rng, 12, size // 2, size)
        mix = (
            0.45
            + 0.22 * grain
            + 0.2 * np.sin(planks * 2.4)
            - 0.5 * (np.diff(planks, axis=1, append=planks[:, -1:]) > 0)
        )
        second, mix = first * 0.6, (mix if rng.random() < 0.5 else mix.T)
    elif kind == "cloth":
        count = rng.uniform(5, 14)
        mix = 0.5 * (np.floor(u * count) % 2 + np.floor(v * count) % 2) + 0.08 * _noise(rng, size // 2, size // 2, size)
        second = np.array([244.0, 240, 234])
    elif kind == "stripes":
        mix = np.clip(4 * np.sin(u * rng.uniform(15, 60)) + 0.5, 0, 1)
    elif kind == "stone":
        mix = 0.5 + 0.3 * _noise(rng, 5, 5, size) + 0.2 * _noise(rng, 24, 24, size) + 0.15 * _noise(rng, 90, 90, size)
        first, second = (
            np.array([60.0, 60, 64]) * rng.uniform(0.6, 3.4),
            np.array([90.0, 88, 90]) * rng.uniform(0.6, 2.6),
        )
    elif kind == "grass":
        mix = 0.5 + 0.4 * _noise(rng, 30, 80, size) + 0.25 * _noise(rng, 4, 4, size)
        first, second = np.array([60.0, 96, 36]), np.array([120.0, 158, 70])
    else:
        mix = u + 0.1 * _noise(rng, 3, 3, size)
    colors = second + np.clip(mix, 0, 1)[..., None] * (first - second)
    return _image(colors + rng.normal(0, 8, 3))


def _photograph(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Light the scene unevenly, and take it with an imperfect camera: tint, blur, noise and JPEG."""
    size = picture.width
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    slope = x * np.cos(turn) + y * np.sin(turn)
    light = 1 + rng.uniform(0, 0.5) * slope - rng.uniform(0, 0.6) * (x * x + y * y) + 0.06 * _noise(rng, 40, 40, size)
    if rng.random() < 0.2:
        light = light * (
            1 - rng.uniform(0.2, 0.5) / (1 + np.exp(-np.clip((slope - rng.uniform(-0.4, 0.3)) * 60, -30, 30)))
        )
    tint = np.array([1 + rng.normal(0, 0.07), 1.0, 1 - rng.normal(0, 0.09)]) * rng.uniform(0.65, 1.2)
    lit = _image(np.asarray(picture, dtype=np.float64) * light[..., None] * tint)
    lit = ImageEnhance.Color(lit).enhance(rng.uniform(0.5, 1.3))
    if rng.random() < 0.5:
        lit = lit.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6) * size / 192))
    noisy = _image(np.asarray(lit, dtype=np.float64) + rng.normal(0, rng.uniform(0, 10), (size, size, 1)))
    if rng.random() < 0.6:
        stored = io.BytesIO()
        noisy.save(stored, "JPEG", quality=int(rng.integers(25, 90)))
        noisy = Image.open(stored).convert("RGB")
    return noisy


def _image(values: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
