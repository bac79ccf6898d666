"""Many small pictures on one sheet, row by row with captions."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from headstart.text import visible_line

TILE = 160  # side of the square that a picture is fitted into, pixels
_MARGIN = 12  # pixels, as all of these
_GAP = 4
_CAPTION = 26
_MOST_PIXELS = 65_500  # of a side of a JPEG


def most_rows(tile: int = TILE) -> int:
    """Return how many rows fit on a sheet that every format and viewer takes."""
    return (_MOST_PIXELS - 2 * _MARGIN + _GAP) // (tile + _CAPTION + _GAP)


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], tile: int = TILE) -> Image.Image:
    """Draw rows of pictures, each under its caption, on white.

    Args:
        rows: Caption and pictures of each row, of any size and length; pictures keep their aspect ratio.
        tile: Side of the square that a picture is fitted into, pixels.

    Returns:
        An RGB image wide enough for the longest row.

    Raises:
        ValueError: There is no picture at all.
    """
    columns = max((len(pictures) for _, pictures in rows), default=0)
    if columns == 0:
        raise ValueError("a contact sheet needs at least one picture")
    width = 2 * _MARGIN + columns * tile + (columns - 1) * _GAP
    height = 2 * _MARGIN + len(rows) * (tile + _CAPTION + _GAP) - _GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for row, (caption, pictures) in enumerate(rows):
        top = _MARGIN + row * (tile + _CAPTION + _GAP)
        text = _shortened(visible_line(caption), pen, font, width - 2 * _MARGIN)
        pen.text((_MARGIN, top), text, fill="black", font=font)
        for column, picture in enumerate(pictures):
            small = ImageOps.pad(picture.convert("RGB"), (tile, tile), color="white")
            sheet.paste(small, (_MARGIN + column * (tile + _GAP), top + _CAPTION))
    return sheet


def _shortened(
    text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int
) -> str:
    """Cut a text so that it fits into so many pixels."""
    while len(text) > 4 and pen.textlength(text, font=font) > room:
        text = text[:-4] + "..."
    return text
