"""The pictures around the foods of `snacks`: table, plate, what lies beside and in front, light and camera."""

import io
import math
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from headstart.demo.foods import FLAT, LONG, UPRIGHT, fries, hot_dog, ice_cream
from headstart.demo.pen import Color, Pen, dim

Texture = npt.NDArray[np.float32]

_FINER: Final = 2  # drawn so many times larger, then reduced: smooth edges
_WOODS: Final[tuple[Color, ...]] = ((150, 104, 66), (196, 156, 112), (92, 62, 44), (128, 120, 112), (222, 200, 168))
_CLOTHS: Final[tuple[Color, ...]] = (
    (190, 40, 40), (50, 90, 160), (60, 130, 80), (210, 170, 60), (120, 120, 126), (214, 206, 196),
)  # fmt: skip
_SKINS: Final[tuple[Color, ...]] = ((238, 196, 164), (198, 140, 102), (120, 78, 54))
_ITEMS: Final[tuple[Color, ...]] = (
    (250, 248, 244), (200, 30, 34), (40, 80, 150), (30, 30, 34), (226, 186, 60), (90, 140, 90),
)  # fmt: skip


class Scene:
    """A table that gets filled from back to front."""

    def __init__(self, rng: np.random.Generator, size: int, light: tuple[float, float]) -> None:
        self.rng = rng
        self.size = size
        self.light = light
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
        x = round(-height * self.size * self.light[0])
        y = round(-height * self.size * self.light[1])
        self.picture.paste((24, 18, 16), (x, y), shadow)
        self.picture.paste(layer, (0, 0), alpha)

    def set_table(self) -> None:
        """Lay a plate or a board, or nothing."""
        rng = self.rng
        if rng.random() < 0.45:
            return
        scale = rng.uniform(0.36, 0.5)
        pen = self.pen(scale, _near(rng, 0.06), tilt=rng.uniform(0.6, 1), angle=rng.uniform(-0.4, 0.4))
        colors = _ITEMS if rng.random() < 0.5 else _ITEMS[:1]
        color = pen.pick(colors)
        if rng.random() < 0.7:
            _plate(pen, color)
        else:
            pen.fill(np.array([[-1, -0.8], [1, -0.8], [1, 0.8], [-1, 0.8]]), pen.pick((*_WOODS, _ITEMS[0])))
        self.put(pen, 0.015)

    def serve(self, label: str) -> None:
        """Put the food that gives the picture its class, sometimes beside another."""
        rng = self.rng
        scale = rng.uniform(0.32, 0.5)
        center = _near(rng, 0.1)
        if rng.random() < 0.2:
            aside = rng.uniform(0, 2 * np.pi)
            other = (0.5 + 0.42 * math.cos(aside), 0.5 + 0.42 * math.sin(aside))
            pen = self.pen(rng.uniform(0.15, 0.24), other, angle=rng.uniform(-0.3, 0.3))
            (fries, ice_cream, *UPRIGHT, *FLAT)[rng.integers(6)](pen)
            self.put(pen)
        group = (LONG, UPRIGHT, UPRIGHT, UPRIGHT, FLAT)[rng.integers(5)]
        other_food = group[rng.integers(len(group))]
        food = hot_dog if label == "hot_dog" else other_food
        if food in UPRIGHT:
            turn = rng.normal(0, 0.25)
            tilt = 1.0
        else:
            turn = rng.uniform(0, 2 * np.pi)
            tilt = rng.uniform(0.6, 1)
        pen = self.pen(scale, center, angle=turn, tilt=tilt, shear=rng.uniform(-0.25, 0.25))
        food(pen)
        self.put(pen)

    def put_in_front(self) -> None:
        """Cover a part of the food with a napkin, fingers, a cup, or nothing."""
        rng = self.rng
        kind = rng.choice(["nothing", "napkin", "hand", "cup", "fork"], p=[0.65, 0.12, 0.09, 0.08, 0.06])
        if kind == "nothing":
            return
        aside = rng.uniform(0, 2 * np.pi)
        far = rng.uniform(0.22, 0.4)
        center = (0.5 + far * math.cos(aside), 0.5 + far * math.sin(aside))
        pen = self.pen(rng.uniform(0.16, 0.26), center, angle=aside)
        if kind == "napkin":
            _napkin(pen)
        elif kind == "hand":
            _hand(pen)
        elif kind == "cup":
            color = pen.pick(_ITEMS)
            pen.disc((0, 0), 0.9, color, levels=3)
            drink = pen.pick(((70, 36, 24), (230, 170, 60), (240, 240, 240), (190, 40, 30)))
            pen.disc((0, 0), 0.74, drink, levels=4, gloss=0.3)
        else:
            for y in (-0.15, -0.05, 0.05, 0.15):
                pen.line(np.array([[-1.2, y], [-0.5, y]]), 0.05, (196, 198, 204))
            handle = np.array([[-0.5, 0], [0.0, 0], [3.0, 0]])
            pen.tube(handle, np.array([0.18, 0.07, 0.08]), (190, 192, 198), gloss=0.5)
        self.put(pen, 0.04)


def _plate(pen: Pen, color: Color) -> None:
    """Draw a plate from above: rings, from the rim's shadow to the middle."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    for radius, shade in ((1.0, 0.8), (0.985, 1.06), (0.94, 1.0), (0.76, 0.9), (0.745, 0.84), (0.7, 0.93), (0.6, 0.96)):
        pen.fill(ring * radius, dim(color, shade))


def _hand(pen: Pen) -> None:
    """Draw fingers that reach in, with nails, and the hand they belong to."""
    rng = pen.rng
    skin = pen.pick(_SKINS)
    num = int(rng.integers(2, 5))
    pen.tube(np.array([[4.0, 0.0], [1.6, 0.0]]), 0.22 * num, skin, levels=5)
    for y in (np.arange(num) - (num - 1) / 2) * 0.4:
        tip = rng.uniform(-0.7, -0.3)
        pen.tube(np.array([[1.8, y], [0.8, y], [tip, y * 0.85]]), np.array([0.23, 0.22, 0.17]), skin)
        pen.disc((tip - 0.02, y * 0.85), 0.1, dim(skin, 1.18), squash=0.8, gloss=0.4, levels=2)
        for knuckle in (0.42, 0.48):
            pen.line(np.array([[knuckle, y - 0.1], [knuckle, y + 0.1]]), 0.02, dim(skin, 0.8))


def _napkin(pen: Pen) -> None:
    """Draw a napkin with folds."""
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


def _grid(size: int) -> tuple[Texture, Texture]:
    """Return y `(size, 1)` and x `(1, size)` of every pixel, from 0 to 1."""
    steps = np.arange(size, dtype=np.float32) / np.float32(size)
    return steps[:, None], steps[None]


def _noise(rng: np.random.Generator, rows: int, columns: int, size: int) -> Texture:
    """Return smooth noise `(size, size)`, mostly within -1 to 1, with that many grains down and across."""
    grains = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(grains.resize((size, size), Image.Resampling.BICUBIC))


def _table(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw what everything lies on: wood, checked or striped cloth, stone, grass, or a plain surface."""
    turn = rng.uniform(0, np.pi)
    y, x = _grid(size)
    # math, not numpy: a Python float keeps the arrays in 32 bits.
    u = x * math.cos(turn) + y * math.sin(turn)
    v = y * math.cos(turn) - x * math.sin(turn)
    kind = rng.choice(["wood", "cloth", "stripes", "stone", "grass", "plain"], p=[0.3, 0.2, 0.08, 0.16, 0.08, 0.18])
    first, second = np.array(_CLOTHS, float)[rng.integers(len(_CLOTHS), size=2)]
    if kind == "wood":
        first = np.array(_WOODS[rng.integers(len(_WOODS))], float)
        planks = np.floor(x * float(rng.integers(2, 6)) + rng.uniform(0, 1))
        grain = _noise(rng, 5, 60, size) + 0.5 * _noise(rng, 12, size // 2, size)
        gaps = np.diff(planks, axis=1, append=planks[:, -1:]) > 0
        mix = 0.45 + 0.22 * grain + 0.2 * np.sin(planks * 2.4) - 0.5 * gaps
        if rng.random() >= 0.5:
            mix = mix.T
        second = first * 0.6
    elif kind == "cloth":
        count = rng.uniform(5, 14)
        mix = 0.5 * (np.floor(u * count) % 2 + np.floor(v * count) % 2) + 0.08 * _noise(rng, size // 2, size // 2, size)
        second = np.array([244.0, 240, 234])
    elif kind == "stripes":
        mix = np.clip(4 * np.sin(u * rng.uniform(15, 60)) + 0.5, 0, 1)
    elif kind == "stone":
        mix = 0.5 + 0.3 * _noise(rng, 5, 5, size) + 0.2 * _noise(rng, 24, 24, size) + 0.15 * _noise(rng, 90, 90, size)
        first = np.array([60.0, 60, 64]) * rng.uniform(0.6, 3.4)
        second = np.array([90.0, 88, 90]) * rng.uniform(0.6, 2.6)
    elif kind == "grass":
        mix = 0.5 + 0.4 * _noise(rng, 30, 80, size) + 0.25 * _noise(rng, 4, 4, size)
        first = np.array([60.0, 96, 36])
        second = np.array([120.0, 158, 70])
    else:
        mix = u + 0.1 * _noise(rng, 3, 3, size)
    share = np.broadcast_to(np.clip(mix, 0, 1), (size, size))[..., None]
    return _image(share * (first - second).astype(np.float32) + (second + rng.normal(0, 8, 3)).astype(np.float32))


def photograph(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Light the scene unevenly, and take it with an imperfect camera: tint, blur, noise and JPEG."""
    size = picture.width
    y, x = _grid(size)
    y = y - 0.5
    x = x - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    slope = x * math.cos(turn) + y * math.sin(turn)
    light = 1 + rng.uniform(0, 0.5) * slope - rng.uniform(0, 0.5) * (x * x + y * y) + 0.06 * _noise(rng, 40, 40, size)
    if rng.random() < 0.2:
        # A shadow with a straight edge.
        depth = rng.uniform(0.2, 0.5)
        edge = np.clip((slope - rng.uniform(-0.4, 0.3)) * 60, -30, 30)
        light = light * (1 - depth / (1 + np.exp(-edge)))
    tint = np.array([1 + rng.normal(0, 0.07), 1.0, 1 - rng.normal(0, 0.09)]) * rng.uniform(0.85, 1.25)
    lit = _image(np.asarray(picture, np.float32) * light[..., None] * tint.astype(np.float32))
    lit = ImageEnhance.Color(lit).enhance(rng.uniform(0.6, 1.35))
    if rng.random() < 0.5:
        lit = lit.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3) * size / 192))
    grain = rng.standard_normal((size, size, 1), np.float32) * np.float32(rng.uniform(0, 9))
    noisy = _image(np.asarray(lit, np.float32) + grain)
    if rng.random() < 0.6:
        stored = io.BytesIO()
        noisy.save(stored, "JPEG", quality=int(rng.integers(35, 92)))
        noisy = Image.open(stored).convert("RGB")
    return noisy


def _image(values: Texture) -> Image.Image:
    """Return colours `(H, W, 3)` from 0 to 255 as a picture; what is beyond is cut."""
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
