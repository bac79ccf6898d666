"""Draw a figure once, as SVG for the page (in the page's colours) and as a PNG file."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from headstart.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The colours of a PNG; in the SVG each becomes the page's variable of that name, which follows light and dark.
_COLOURS = {
    "paper": "#ffffff", "ink": "#1b1d20", "muted": "#5d646d", "line": "#dcdfe3",
    "c0": "#1f66ad", "c1": "#c2500e", "c2": "#2a7d4f", "c3": "#8e4a9e", "c4": "#8a6a00", "c5": "#b03060",
    "c6": "#2b7f93", "c7": "#6a6f2a",
}  # fmt: skip
INK = _COLOURS["ink"]
MUTED = _COLOURS["muted"]
LINE = _COLOURS["line"]
PAPER = _COLOURS["paper"]
SERIES = tuple(_COLOURS[f"c{number}"] for number in range(8))
_STYLE = {
    "font.size": 9.5, "legend.fontsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.7, "grid.color": LINE, "grid.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "lines.linewidth": 1.6, "lines.markersize": 5, "lines.markeredgewidth": 0.8, "legend.frameon": False,
    # Text stays text, so that the page's fonts draw it; labels may hold any character, so none is taken for a formula.
    "svg.fonttype": "none", "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        name: Name of the PNG file, without the suffix.
        caption: Sentences about what it shows.
        svg: Drawing for the page, with a text that says the same to those who cannot see it.
        png: Drawing for the folder.
    """

    name: str
    caption: str
    svg: Markup
    png: bytes


def draw(
    name: str,
    caption: str,
    alt: str,
    paint: Callable[["Axes"], None],
    *,
    size: tuple[float, float] = (5.0, 3.2),
    is_cut: bool = False,
) -> Figure:
    """Draw a figure.

    Args:
        name: Name of the figure; the ids of the SVG begin with it.
        caption: Sentences about what it shows.
        alt: Text that says what is drawn, with the figures that matter, for those who cannot see it.
        paint: Function that draws on the axes.
        size: Width and height, inches.
        is_cut: Whether empty margins are cut off.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    box = "tight" if is_cut else None
    # A character that the PNG's font lacks is a box there and itself on the page; that is no news.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings(action="ignore"):
        canvas = Canvas(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        paint(canvas.add_subplot())
        png = io.BytesIO()
        canvas.savefig(png, format="png", dpi=180, bbox_inches=box)
        svg = io.BytesIO()
        canvas.savefig(svg, format="svg", transparent=True, metadata={"Date": None}, bbox_inches=box)
    return Figure(name, caption, _for_page(svg.getvalue().decode("utf-8"), name, alt), png.getvalue())


def legend(axes: "Axes") -> None:
    """Put the names of the lines above the axes, in as many columns as fit, three at most."""
    for columns in (3, 2, 1):
        names = axes.figure.legend(loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.4)
        if columns == 1 or names.get_window_extent().width <= axes.figure.bbox.width:
            return
        names.remove()


def shortened(text: str, most: int) -> str:
    """Cut a long text in its middle, where names differ least."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    num_first = most // 2
    num_last = most - num_first - 1
    return f"{text[:num_first]}…{text[-num_last:]}"


def _for_page(svg: str, name: str, alt: str) -> Markup:
    """Turn a file into an element: no prolog, no metadata, ids of its own, the page's colours, and a text for it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'style="[^"]*"', _themed, svg)
    return Markup(visible(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)))


def _themed(style: re.Match[str]) -> str:
    """Put the page's variables for the colours of a style."""
    text = style[0]
    for variable, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
