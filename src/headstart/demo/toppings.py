"""What the foods of `snacks` have in common: their colours, sausages, sauces, seeds and trays."""

import itertools
from typing import Final

import numpy as np

from headstart.demo.pen import Array, Color, Pen, dim

BREADS: Final[tuple[Color, ...]] = ((214, 152, 82), (228, 178, 108), (186, 117, 56), (236, 204, 150), (158, 96, 48))
SAUSAGES: Final[tuple[Color, ...]] = ((186, 78, 52), (160, 62, 44), (204, 108, 76), (130, 56, 38), (196, 92, 84))
LEAVES: Final[tuple[Color, ...]] = ((104, 158, 52), (134, 180, 74), (78, 128, 44))
MUSTARD = (238.0, 190.0, 40.0)
KETCHUP = (192.0, 32.0, 24.0)
MAYO = (246.0, 238.0, 212.0)
CHOCOLATE = (74.0, 42.0, 28.0)
CREAM = (250.0, 240.0, 218.0)
CRUMB = (248.0, 226.0, 182.0)
TOMATO = (206.0, 54.0, 36.0)
CHEESE = (246.0, 188.0, 60.0)
ONION = (244.0, 236.0, 226.0)
MEAT = (104.0, 62.0, 40.0)
RELISH = (112.0, 140.0, 48.0)
WHITE = (240.0, 238.0, 232.0)
SAUCES: Final = (MUSTARD, KETCHUP, MAYO)
_SAUCE_SHARES: Final = (0.65, 0.45, 0.12)  # of hot dogs, that have each sauce


def draw_sausage(pen: Pen, line: Array, thick: float) -> None:
    """Draw a sausage along a line, sometimes grilled."""
    rng = pen.rng
    color = pen.pick(SAUSAGES)
    for end in (0, -1):
        tip = line[end, 0] + np.sign(line[end, 0]) * thick * 0.95
        pen.disc((tip, line[end, 1]), thick * 0.25, dim(color, 0.8), levels=3)
    pen.tube(line, thick, color, gloss=rng.uniform(0, 0.7))
    if rng.random() < 0.4:
        for x, y in line[3:-3:4]:
            lean = rng.uniform(0.02, 0.08)
            pen.line(np.array([[x - lean, y - thick * 0.7], [x + lean, y + thick * 0.6]]), 0.035, dim(color, 0.5))


def draw_sauces(pen: Pen, line: Array, thick: float) -> None:
    """Put sauces and bits on a sausage or on what is shaped like one."""
    rng = pen.rng
    if rng.random() < 0.25:
        places = pen.scatter(line, int(rng.integers(15, 60)), thick)
        pen.crumbs(places, 0.045, (RELISH, ONION, TOMATO)[: rng.integers(1, 4)])
    is_taken = [rng.random() < share for share in _SAUCE_SHARES]
    for sauce in itertools.compress(SAUCES, is_taken):
        turns = int(rng.integers(4, 10))
        swing = 0.02
        if rng.random() < 0.8:
            swing = thick * rng.uniform(0.3, 0.85)
        place = line + (0, rng.uniform(-0.04, 0.04))
        pen.squiggle(place, rng.uniform(0.04, 0.08), pen.vary(sauce, 8), swing=swing, turns=turns)
    if rng.random() < 0.25:
        pen.crumbs(pen.scatter(line, int(rng.integers(10, 50)), thick), 0.035, (ONION, CHEESE, RELISH), long=2.5)


def draw_seeds(pen: Pen, line: Array) -> None:
    """Draw seeds along a line, sometimes."""
    if pen.rng.random() < 0.25:
        pen.crumbs(pen.scatter(line, 40, 0.12), 0.022, ((244, 228, 190), (70, 56, 50)), long=1.6)


def draw_tomatoes(pen: Pen, places: Array) -> None:
    """Draw a slice of tomato at each place `(N, 2)`."""
    for x, y in places:
        pen.disc((x, y), 0.2, pen.vary(TOMATO), squash=0.6, levels=5)


def draw_paper_boat(pen: Pen) -> None:
    """Draw a tray of paper under something long."""
    color = pen.pick((WHITE, (226, 206, 170), (204, 60, 48)))
    outline = np.array([[-1.12, -0.5], [1.12, -0.5], [1.3, 0.0], [1.12, 0.55], [-1.12, 0.55], [-1.3, 0.0]])
    pen.fill(outline, dim(color, 0.75))
    pen.fill(outline * (0.88, 0.8), color)
