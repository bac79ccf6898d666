"""The pen that draws `snacks`: shaded shapes with Pillow.

Things are drawn in their own coordinates, x to the right and y downwards, about -1 to 1; `Pen` poses them on the
picture.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[np.float64]
Color = tuple[float, float, float]


def lobes(rng: np.random.Generator, num: int, *, amount: float, waves: int = 9) -> Array:
    """Return `num` factors around 1 that rise and fall smoothly and close into a ring: the outline of what grew."""
    angle = np.linspace(0, 2 * np.pi, num, endpoint=False)
    wave = np.zeros(num)
    for k in range(2, waves):
        wave += rng.uniform(-1, 1) * np.sin(k * angle + rng.uniform(0, 6.3)) / np.sqrt(k)
    return np.asarray(1 + amount * wave)


def bow(half_length: float, bend: float, y: float = 0.0, num: int = 22) -> Array:
    """Return a line of points `(num, 2)` from left to right whose ends are `bend` lower than its middle."""
    x = np.linspace(-half_length, half_length, num)
    return np.column_stack([x, y + bend * (x / half_length) ** 2])


class Pen:
    """Draws shaded shapes on a transparent layer, in one pose and under one light.

    Args:
        side: Side of the square layer, pixels.
        rng: The only source of chance.
        light: Direction towards the light in the picture, a unit vector.
        angle: Turn, radians.
        scale: Pixels per unit.
        center: Place of the food's origin, pixels.
        tilt: Height over width as the camera sees it: 1 from straight above.
        shear: Slant, x per y.
    """

    def __init__(
        self,
        side: int,
        rng: np.random.Generator,
        light: tuple[float, float],
        *,
        angle: float = 0.0,
        scale: float,
        center: tuple[float, float],
        tilt: float = 1.0,
        shear: float = 0.0,
    ) -> None:
        self.image = Image.new("RGBA", (side, side))
        self.rng = rng
        self.scale = scale
        self._draw = ImageDraw.Draw(self.image)
        self._light = np.array(light)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._matrix = scale * np.array([[1, shear], [0, tilt]]) @ turn
        self._center = np.array(center)

    def vary(self, color: Color, amount: float = 14.0) -> Color:
        """Return a colour near `color`: another brightness, and a little of another hue."""
        r, g, b = np.array(color) + self.rng.normal(0, amount) + self.rng.normal(0, amount / 2.5, 3)
        return float(r), float(g), float(b)

    def pick(self, colors: Sequence[Color]) -> Color:
        """Return one of the colours, varied."""
        return self.vary(colors[int(self.rng.integers(len(colors)))])

    def tube(self, axis: Array, radius: float | Array, color: Color, *, gloss: float = 0.0, levels: int = 9) -> None:
        """Draw something round along a line `(P, 2)` with round ends, such as a sausage."""
        line = self._place(axis)
        ring = np.broadcast_to(np.asarray(radius, float) * self.scale, len(line))
        step = np.gradient(line, axis=0)
        heading = np.arctan2(step[:, 1], step[:, 0])
        caps = np.linspace(-np.pi / 2, np.pi / 2, 7)[1:-1]
        # Round the outline once: one side, the far end, the other side backwards, the near end.
        at = np.concatenate([np.arange(len(line)), np.full(5, -1), np.arange(len(line))[::-1], np.zeros(5, int)])
        turn = np.concatenate(
            [heading - np.pi / 2, heading[-1] + caps, heading[::-1] + np.pi / 2, heading[0] + np.pi + caps]
        )
        outward = np.column_stack([np.cos(turn), np.sin(turn)]) * ring[at, None]
        self._shade(line[at], outward, color, gloss, levels)

    def blob(self, outline: Array, color: Color, *, gloss: float = 0.0, levels: int = 9) -> None:
        """Draw something domed inside a closed outline `(P, 2)`, such as a bun seen from above."""
        edge = self._place(outline)
        middle = edge.mean(0)
        self._shade(middle[None], edge - middle, color, gloss, levels)

    def disc(self, center: tuple[float, float], radius: float, color: Color, *, squash: float = 1.0, rough: float = 0.0,
             gloss: float = 0.0, levels: int = 9) -> None:  # fmt: skip
        """Draw a domed disc; `rough` makes its outline uneven."""
        angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        size = np.full(30, radius)
        if rough:
            size = radius * lobes(self.rng, 30, amount=rough)
        points = np.column_stack([np.cos(angle) * size, np.sin(angle) * size * squash]) + center
        self.blob(points, color, gloss=gloss, levels=levels)

    def fill(self, outline: Array, color: Color) -> None:
        """Draw a flat polygon."""
        self._draw.polygon(self._place(outline).ravel().tolist(), fill=_rgb(color))

    def line(self, points: Array, width: float, color: Color) -> None:
        """Draw a flat line."""
        self._stroke(self._place(points), width, color)

    def squiggle(self, axis: Array, width: float, color: Color, *, swing: float, turns: int) -> None:
        """Draw sauce from a bottle: a wave around `axis`, with its own shadow and shine."""
        at = np.linspace(0, len(axis) - 1, 7 * turns + 1)
        x, y = _between(axis, at).T
        phase = np.linspace(0, 2 * np.pi * turns, len(at)) + self.rng.uniform(0, 6.3)
        swings = swing * (1 + self.rng.normal(0, 0.12, len(at)))
        line = self._place(np.column_stack([x + 0.3 * swing * np.sin(2 * phase), y + swings * np.sin(phase)]))
        thick = width * self.scale
        self._stroke(line - 0.2 * thick * self._light, width * 1.15, dim(color, 0.62))
        self._stroke(line, width, color)
        self._stroke(line + 0.2 * thick * self._light, width * 0.35, dim(color, 1.22))

    def crumbs(self, places: Array, size: float, colors: Sequence[Color], *, long: float = 1.0) -> None:
        """Draw small bits, such as seeds, onion or relish, at places `(P, 2)`; `long` is length over width."""
        for x, y in places:
            color = self.pick(colors)
            turn = self.rng.uniform(0, np.pi)
            along = np.array([np.cos(turn), np.sin(turn)])
            across = np.array([-np.sin(turn), np.cos(turn)])
            reach = size * self.rng.uniform(0.6, 1.3)
            corners = [along * long, (along * long + across) * 0.72, across, (across - along * long) * 0.72]
            half = np.array(corners)
            bit = reach * np.concatenate([half, -half]) + (x, y)
            self.fill(bit + 0.3 * reach, dim(color, 0.55))
            self.fill(bit, color)

    def scatter(self, axis: Array, num: int, spread: float) -> Array:
        """Return `num` chance places `(num, 2)` within `spread` of a line."""
        middle = axis[self.rng.integers(len(axis), size=num)]
        return middle + self.rng.uniform(-1, 1, (num, 2)) * (0.04, spread)

    def ruffle(self, axis: Array, radius: float, color: Color) -> None:
        """Draw a leaf or slice with a frilly edge along a line."""
        fine = _between(axis, np.linspace(0, len(axis) - 1, 44))
        frill = radius * (1 + 0.22 * np.sin(np.arange(44) * self.rng.uniform(1.2, 1.9)) + self.rng.normal(0, 0.1, 44))
        self.tube(fine, frill, color, levels=4)
        for place in self.scatter(axis, 7, radius * 0.7):
            self.line(np.array([place, place + self.rng.uniform(-0.12, 0.12, 2)]), 0.015, dim(color, 1.25))

    def _place(self, points: Array) -> Array:
        """Return where points lie on the layer, pixels."""
        return np.asarray(np.asarray(points) @ self._matrix.T + self._center)

    def _stroke(self, line: Array, width: float, color: Color) -> None:
        """Draw a line with round ends through places on the layer; `width` is in the pen's units."""
        pixels = max(1, round(width * self.scale))
        self._draw.line(line.ravel().tolist(), fill=_rgb(color), width=pixels, joint="curve")
        for x, y in (line[0], line[-1]):
            reach = pixels / 2 - 0.5
            self._draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=_rgb(color))

    def _shade(self, core: Array, outward: Array, color: Color, gloss: float, levels: int) -> None:
        """Draw nested outlines `core + outward`, from the dark rim to the lit side: the section of a round body."""
        reach = np.linalg.norm(outward, axis=1, keepdims=True) * self._light
        for depth in np.linspace(0, 1, levels, endpoint=False):
            lit = dim(color, 0.58 + 0.56 * float(np.sqrt(1 - (1 - depth) ** 2)))
            self._draw.polygon((core + outward * (1 - depth) + 0.42 * depth * reach).ravel().tolist(), fill=_rgb(lit))
        if not gloss:
            return
        for part in (0.2, 0.1):
            shine = np.array(lit) + gloss * (1 - 2.5 * part) * (np.array([255, 250, 240]) - lit)
            shape = core + outward * part + 0.5 * reach
            self._draw.polygon(shape.ravel().tolist(), fill=_rgb((shine[0], shine[1], shine[2])))


def dim(color: Color, factor: float) -> Color:
    """Return the colour made darker (below 1) or brighter (above 1)."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def _between(line: Array, at: Array) -> Array:
    """Return the places `(N, 2)` on a line of points `(P, 2)` at positions from 0 to P - 1."""
    numbers = np.arange(len(line))
    x = np.interp(at, numbers, line[:, 0])
    y = np.interp(at, numbers, line[:, 1])
    return np.column_stack([x, y])


def _rgb(color: Color) -> tuple[int, int, int]:
    """Round a colour to whole numbers within 0 to 255."""
    r, g, b = (min(255, max(0, round(value))) for value in color)
    return r, g, b
