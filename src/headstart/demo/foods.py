"""The foods of `snacks`: hot dogs, and what must not be mistaken for one. Each function draws one food with a `Pen`."""

from collections.abc import Callable
from typing import Final

import numpy as np

from headstart.demo.pen import Pen, bow, dim, lobes
from headstart.demo.toppings import (
    BREADS,
    CHEESE,
    CHOCOLATE,
    CREAM,
    CRUMB,
    KETCHUP,
    LEAVES,
    MEAT,
    MUSTARD,
    ONION,
    SAUCES,
    TOMATO,
    WHITE,
    draw_paper_boat,
    draw_sauces,
    draw_sausage,
    draw_seeds,
    draw_tomatoes,
)


def hot_dog(pen: Pen) -> None:
    """Draw a sausage in a split bun, from above or from the side, plain or loaded."""
    rng = pen.rng
    bend = rng.uniform(-0.22, 0.22)
    reach = rng.uniform(0.72, 0.86)
    thick = rng.uniform(0.15, 0.21)
    bread = pen.pick(BREADS)
    seen_from = rng.uniform(0, 1)
    gap = rng.uniform(0.16, 0.24)
    if rng.random() < 0.3:
        draw_paper_boat(pen)
    pen.tube(bow(reach, bend, -gap), rng.uniform(0.26, 0.32), bread)
    pen.tube(bow(reach * 0.97, bend), rng.uniform(0.2, 0.26), pen.vary(CRUMB, 8))

    def put_front() -> None:
        pen.tube(bow(reach, bend, gap + 0.1 * seen_from), rng.uniform(0.25, 0.32), bread)

    if seen_from < 0.4:
        put_front()
    if rng.random() < 0.3:
        pen.ruffle(bow(reach, bend, -0.08), 0.24, pen.pick(LEAVES))
    line = bow(reach * rng.uniform(0.98, 1.25), bend * 1.2, -0.06 * seen_from)
    draw_sausage(pen, line, thick)
    if seen_from >= 0.4:
        put_front()
        draw_seeds(pen, bow(reach * 0.8, bend, gap + 0.15))
    draw_sauces(pen, bow(reach * 0.92, bend, -0.06 * seen_from - 0.02), thick)


def sub(pen: Pen) -> None:
    """Draw a baguette or roll filled with anything but a sausage."""
    rng = pen.rng
    bend = rng.uniform(-0.15, 0.15)
    reach = rng.uniform(0.75, 1.1)
    bread = pen.pick(BREADS)
    if rng.random() < 0.3:
        draw_paper_boat(pen)
    pen.tube(bow(reach, bend, -0.2), 0.28, bread)
    pen.tube(bow(reach * 0.96, bend), 0.22, pen.vary(CRUMB, 8))
    line = bow(reach * 0.95, bend)
    fillings: list[Callable[[], None]] = [
        lambda: pen.ruffle(line - (0, 0.08), 0.22, pen.pick(LEAVES)),
        lambda: pen.ruffle(line, 0.17, pen.pick(((222, 140, 130), (200, 110, 100), (236, 176, 160)))),
        lambda: draw_tomatoes(pen, line[2::4]),
        lambda: pen.fill(line[1:-1:2] + rng.uniform(-0.2, 0.25, (10, 2)) * (0.2, 1), pen.vary(CHEESE)),
        lambda: pen.crumbs(pen.scatter(line, 60, 0.17), 0.06, (MEAT, (150, 96, 60), (226, 190, 150))),
    ]
    for k in rng.permutation(5)[: rng.integers(2, 5)]:
        fillings[k]()
    pen.tube(bow(reach, bend, rng.uniform(0.2, 0.28)), 0.28, bread)
    draw_seeds(pen, bow(reach * 0.8, bend, 0.3))
    if rng.random() < 0.4:
        for x, y in bow(reach * 0.8, bend, 0.27)[2:-2:5]:
            pen.line(np.array([[x - 0.06, y - 0.14], [x + 0.06, y + 0.1]]), 0.04, dim(bread, 1.2))
    if rng.random() < 0.35:
        sauce = pen.vary(SAUCES[int(rng.integers(3))], 8)
        pen.squiggle(line, 0.05, sauce, swing=rng.uniform(0.05, 0.14), turns=int(rng.integers(4, 9)))


def eclair(pen: Pen) -> None:
    """Draw choux pastry with icing, often with a zigzag."""
    rng = pen.rng
    bend = rng.uniform(-0.12, 0.12)
    reach = rng.uniform(0.65, 0.85)
    pen.tube(bow(reach, bend), rng.uniform(0.3, 0.38), pen.pick(BREADS))
    if rng.random() < 0.4:
        pen.ruffle(bow(reach, bend, 0.12), 0.2, pen.vary(CREAM, 6))
        pen.tube(bow(reach, bend, -0.1), 0.28, pen.pick(BREADS))
    line = bow(reach * 0.93, bend, -0.08)
    wobble = rng.uniform(0.19, 0.25) * (1 + rng.normal(0, 0.05, len(line)))
    pen.tube(line, wobble, pen.pick((CHOCOLATE, CHOCOLATE, (150, 84, 50), (236, 170, 186))), gloss=0.6)
    if rng.random() < 0.65:
        color = pen.pick((CREAM, CHEESE, CHOCOLATE, (230, 120, 140)))
        width = rng.uniform(0.03, 0.06)
        pen.squiggle(line, width, color, swing=rng.uniform(0.08, 0.17), turns=int(rng.integers(4, 10)))
    else:
        pen.crumbs(pen.scatter(line, 40, 0.15), 0.03, (CREAM, (230, 120, 140), CHEESE), long=1.8)


def bratwurst(pen: Pen) -> None:
    """Draw one to three sausages with no bun, and sides."""
    rng = pen.rng
    thick = rng.uniform(0.15, 0.2)
    if rng.random() < 0.5:
        side = (rng.uniform(-0.4, 0.4), float(rng.choice([-0.6, 0.6])))
        pen.disc(side, 0.4, pen.pick((CREAM, LEAVES[0], CHEESE)), rough=0.12)
    num = int(rng.integers(1, 4))
    for k in range(num):
        line = bow(rng.uniform(0.6, 0.85), rng.uniform(-0.3, 0.3), (k - (num - 1) / 2) * thick * 2.3)
        draw_sausage(pen, line, thick)
        if rng.random() < 0.25:
            pen.squiggle(line, 0.06, pen.vary(SAUCES[k]), swing=thick * 0.6, turns=int(rng.integers(4, 9)))
    if rng.random() < 0.6:
        pen.disc((rng.uniform(-0.7, 0.7), rng.choice([-0.55, 0.6])), 0.17, pen.vary(MUSTARD), rough=0.1, gloss=0.4)


def banana(pen: Pen) -> None:
    """Draw one or two bananas, or a banana split with sauce."""
    rng = pen.rng
    bend = rng.uniform(0.3, 0.6) * rng.choice([-1, 1])
    if rng.random() < 0.3:
        draw_paper_boat(pen)
    for k in range(int(rng.integers(1, 3))):
        line = bow(rng.uniform(0.8, 0.95), bend, -0.25 * bend + 0.27 * k)
        profile = rng.uniform(0.17, 0.22) * np.sqrt(np.clip(1.06 - np.linspace(-1, 1, len(line)) ** 4, 0.05, 1))
        color = pen.pick(((240, 206, 70), (226, 196, 84), (200, 190, 70), (214, 166, 60)))
        pen.tube(line, profile, color, gloss=0.15)
        for end in (line[:2], line[-2:]):
            pen.line(end, 0.09, (96, 76, 40))
        pen.crumbs(pen.scatter(line, int(rng.integers(0, 25)), 0.12), 0.025, ((110, 76, 36),), long=2.0)
        if rng.random() < 0.35:
            sauce = pen.pick((CHOCOLATE, KETCHUP, CREAM))
            pen.squiggle(line[2:-2], 0.06, sauce, swing=0.12, turns=int(rng.integers(4, 9)))


def corn(pen: Pen) -> None:
    """Draw corn on the cob, often in its husk, with butter or grilled."""
    rng = pen.rng
    bend = rng.uniform(-0.1, 0.1)
    if rng.random() < 0.6:
        for side in (-1, 1):
            husk = bow(0.6, side * 0.35, side * 0.1) + (-0.45, 0)
            width = bow(1, -1)[:, 1] * 0.16 + 0.18
            pen.tube(husk, width, pen.pick(LEAVES), levels=6)
    line = bow(0.85, bend, num=30)
    thick = rng.uniform(0.22, 0.3) * np.interp(np.arange(30), [0, 6, 22, 29], [0.85, 1, 0.95, 0.5])
    color = pen.pick(((244, 206, 76), (236, 186, 60), (250, 226, 140)))
    pen.tube(line, thick, dim(color, 0.8))
    for row in np.linspace(-0.8, 0.8, 7):
        kernels = line + np.column_stack([np.zeros(30), row * thick])
        shades = [dim(color, 1.08 - 0.3 * row * row), dim(color, 1.16 - 0.3 * row * row)]
        if rng.random() < 0.15:  # grilled
            shades.append(MEAT)
        pen.crumbs(kernels, 0.036, shades)
    if rng.random() < 0.4:
        butter = np.array([[-0.1, -0.12], [0.14, -0.1], [0.12, 0.1], [-0.12, 0.08]])
        pen.fill(butter + (rng.uniform(-0.4, 0.4), 0), (252, 240, 160))
    if rng.random() < 0.25:
        pen.squiggle(line, 0.05, pen.pick(SAUCES), swing=0.14, turns=int(rng.integers(4, 9)))


def burger(pen: Pen) -> None:
    """Draw a burger from the side."""
    rng = pen.rng
    bread = pen.pick(BREADS)
    y = 0.5
    pen.tube(bow(0.55, 0, y), 0.2, bread)
    for _ in range(int(rng.integers(1, 3))):
        y -= 0.2
        pen.tube(bow(0.62, rng.uniform(-0.03, 0.03), y), 0.13, pen.vary(MEAT, 10))
        if rng.random() < 0.7:
            drip = np.column_stack([np.linspace(-0.72, 0.72, 9), y - 0.05 + rng.uniform(0, 0.2, 9)])
            pen.fill(np.concatenate([[[-0.7, y - 0.14], [0.7, y - 0.14]], drip[::-1]]), pen.vary(CHEESE))
        if rng.random() < 0.5:
            pen.tube(bow(0.58, 0, y - 0.13), 0.07, pen.vary(TOMATO))
        if rng.random() < 0.8:
            pen.ruffle(bow(0.66, 0.03, y - 0.16), 0.09, pen.pick(LEAVES))
    angle = np.linspace(np.pi, 2 * np.pi, 24)
    dome = np.column_stack([0.74 * np.cos(angle), rng.uniform(0.45, 0.65) * np.sin(angle)]) + (0, y - 0.16)
    pen.blob(np.concatenate([dome, [[0.6, y - 0.06], [-0.6, y - 0.06]]]), bread, gloss=0.25)
    if rng.random() < 0.7:
        pen.crumbs(pen.scatter(bow(0.45, 0.1, y - 0.45), 25, 0.14), 0.028, ((246, 230, 190),), long=1.6)


def burger_above(pen: Pen) -> None:
    """Draw a burger or a doughnut from above."""
    rng = pen.rng
    if rng.random() < 0.6:
        for color in (LEAVES[0], CHEESE, MEAT)[: rng.integers(1, 4)]:
            pen.disc((rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.08)), 0.8, pen.vary(color), rough=0.06, levels=3)
        pen.disc((0, 0), 0.7, pen.pick(BREADS), rough=0.015, gloss=0.3)
        pen.crumbs(rng.normal(0, 0.28, (45, 2)), 0.03, ((246, 230, 190),), long=1.6)
        return
    pen.disc((0, 0), 0.75, pen.pick(BREADS), rough=0.01)
    pen.disc((0, 0), 0.66, pen.pick((CHOCOLATE, (232, 130, 160), CREAM, (200, 140, 80))), rough=0.03, gloss=0.3)
    ring = bow(1, 0, num=40)[:, :1] * np.pi
    around = 0.45 * np.column_stack([np.cos(ring), np.sin(ring)]) + rng.normal(0, 0.08, (40, 2))
    pen.crumbs(around, 0.03, (*SAUCES, LEAVES[1]), long=2.2)
    pen.disc((0, 0), 0.2, (120, 80, 50), levels=4)


def pizza(pen: Pen) -> None:
    """Draw a whole pizza, or a slice."""
    rng = pen.rng
    is_slice = rng.random() < 0.5
    half = np.pi
    inside = 0.86  # of the outline, within the crust
    far = (0.1, 0.72)  # of toppings from the origin
    spread = 1.0  # of their directions
    origin = 0.0  # the tip of a slice lies so far to the left, the middle of a pizza does not
    if is_slice:
        half = 0.32
        inside = 0.88
        far = (0.35, 1.45)
        spread = 0.75
        origin = 1.1
    angle = np.linspace(-half, half, 30)
    shape = np.column_stack([np.cos(angle), np.sin(angle)]) * lobes(rng, 30, amount=0.012)[:, None]
    if is_slice:
        shape = np.concatenate([shape, [[0.0, 0.0]]]) * 1.9 - (origin, 0)
    pen.blob(shape, pen.pick(BREADS), levels=5)
    inner = (shape + (origin, 0)) * inside - (origin - 0.02, 0)
    pen.fill(inner, pen.vary(TOMATO))
    pen.blob((inner + (origin, 0)) * 0.96 - (origin, 0), pen.pick((CHEESE, (250, 222, 150))), levels=3)
    radius = rng.uniform(*far, 14)
    turn = rng.uniform(-half, half, 14) * spread
    places = np.column_stack([radius * np.cos(turn) - origin, radius * np.sin(turn)])
    for x, y in places[: rng.integers(4, 14)]:
        pen.disc((x, y), rng.uniform(0.08, 0.13), pen.pick(((178, 48, 34), (196, 66, 44))), rough=0.04, levels=4)
    pen.crumbs(places, 0.05, (LEAVES[0], (60, 50, 40), ONION), long=1.5)


def taco(pen: Pen) -> None:
    """Draw a folded shell with its filling showing."""
    rng = pen.rng
    shell = pen.pick(((236, 190, 96), (226, 170, 80), (244, 216, 150)))
    angle = np.linspace(np.pi, 2 * np.pi, 24)
    arch = np.column_stack([0.9 * np.cos(angle), 0.75 * np.sin(angle)]) + (0, 0.4)
    pen.blob(arch + (0.06, -0.08), dim(shell, 0.8), levels=4)
    pen.ruffle(arch[3:-3] * (0.95, 1.0), 0.13, pen.pick(LEAVES))
    pen.crumbs(pen.scatter(arch[3:-3], 70, 0.1), 0.07, (MEAT, TOMATO, CHEESE, ONION, LEAVES[1]))
    pen.blob(arch * (1, 0.9) + (-0.03, 0.08), shell, levels=7)
    pen.crumbs(rng.uniform((-0.6, 0.0), (0.6, 0.4), (18, 2)), 0.035, (dim(shell, 0.85), dim(shell, 1.1)))


def fries(pen: Pen) -> None:
    """Draw fries in a carton, or a heap of them."""
    rng = pen.rng
    has_carton = rng.random() < 0.7
    for _ in range(int(rng.integers(14, 26))):
        if has_carton:
            foot = np.array([rng.uniform(-0.35, 0.35), 0.25])
            lean = rng.normal(0, 0.25)
        else:
            foot = rng.uniform(-0.5, 0.5, 2)
            lean = rng.uniform(-3.2, 3.2)
        tip = foot + rng.uniform(0.6, 1.1) * np.array([np.sin(lean), -np.cos(lean)])
        color = pen.pick(((244, 206, 96), (232, 184, 80), (250, 222, 130)))
        pen.tube(np.linspace(foot, tip, 3), 0.055, color, levels=4)
    if has_carton:
        color = pen.pick((KETCHUP, WHITE, (40, 90, 160), (220, 170, 40)))
        box = np.array([[-0.5, -0.05], [-0.2, 0.1], [0.2, 0.1], [0.5, -0.05], [0.38, 0.85], [-0.38, 0.85]])
        pen.blob(box, color, levels=4)
        mark = KETCHUP
        if color[0] < 230:
            mark = dim(color, 1.3)
        pen.disc((0, 0.45), 0.16, mark, levels=2)


def ice_cream(pen: Pen) -> None:
    """Draw scoops in a cone or a cup."""
    rng = pen.rng
    has_cone = rng.random() < 0.65
    if has_cone:
        wafer = pen.pick(((222, 168, 96), (204, 146, 80)))
        pen.blob(np.array([[-0.36, 0.0], [0.36, 0.0], [0.05, 1.0], [-0.05, 1.0]]), wafer, levels=5)
        for k in np.linspace(-0.3, 0.3, 5):
            for side in (-1, 1):
                pen.line(np.array([[k, 0.02], [k * 0.25 + side * 0.1, 0.7]]), 0.02, dim(wafer, 0.78))
    flavours = ((244, 236, 214), (240, 170, 184), (110, 70, 48), (190, 220, 170), (250, 226, 150))
    for k in range(int(rng.integers(1, 4))):
        if has_cone:
            place = (rng.uniform(-0.08, 0.08), -0.15 - 0.42 * k)
        else:
            place = (0.3 * (k - 1), -0.05 - 0.2 * (k % 2))
        pen.disc(place, rng.uniform(0.36, 0.44), pen.pick(flavours), rough=0.04, gloss=0.15)
    if not has_cone:
        cup = np.array([[-0.7, 0.0], [0.7, 0.0], [0.45, 0.8], [-0.45, 0.8]])
        pen.blob(cup, pen.pick((WHITE, (90, 150, 190), (226, 120, 140))))
    if rng.random() < 0.5:
        pen.squiggle(bow(0.3, 0.1, -0.35), 0.06, pen.pick((CHOCOLATE, KETCHUP)), swing=0.1, turns=4)


LONG: Final[tuple[Callable[[Pen], None], ...]] = (sub, eclair, bratwurst, banana, corn)
FLAT: Final[tuple[Callable[[Pen], None], ...]] = (burger_above, pizza)
UPRIGHT: Final[tuple[Callable[[Pen], None], ...]] = (burger, taco, fries, ice_cream)
