"""The photographs of a report: small copies inside the page, and sheets of them as PNG files."""

import base64
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from headstart.data.contact_sheet import contact_sheet
from headstart.data.manifest import Manifest, read_manifest
from headstart.data.sources import FILES, Picture, Source, read_picture
from headstart.errors import HeadstartError, UnreadableImageError
from headstart.preprocessing import Augment, eval_view, train_view
from headstart.types import Decoding, GreyRange, InputSpec

_SIDE = 224  # pixels of the square that a picture is fitted into: twice what the page shows, for sharp screens
_MAX_ROWS = 4
_NUM_VIEWS = 7


@dataclass(frozen=True)
class Thumbnail:
    """A picture inside the page.

    Attributes:
        uri: The picture itself, a `data:` address; '' where the file is gone.
        alt: Words for what it shows.
        image: Small picture for sheets; grey where the file is gone.
    """

    uri: str
    alt: str
    image: Image.Image


def thumbnail(picture: Picture, alt: str, source: Source = FILES, *, grey_range: GreyRange | None = None) -> Thumbnail:
    """Make a small JPEG of a picture; one that is gone or unreadable gives a placeholder.

    Args:
        picture: Key of the picture in `source`, or the picture itself.
        alt: Words for what it shows.
        source: Source that has the key.
        grey_range: See `InputSpec.grey_range`.
    """
    how = Decoding(_SIDE, grey_range)
    try:
        image = ImageOps.contain(read_picture(source, picture, how, is_quick=True), (_SIDE, _SIDE))
    except (UnreadableImageError, ValueError):  # ValueError: so long a strip that it would be less than a pixel wide
        return Thumbnail("", alt, Image.new("RGB", (_SIDE, _SIDE), "#c8ccd1"))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{text}", alt, image)


def augmented(manifest: Path, spec: InputSpec, augment: Augment, seed: int) -> list[tuple[str, list[Thumbnail]]]:
    """Show what training sees: for a few classes their name and one image, its evaluation view, then augmented ones.

    There is nothing where the manifest or the images are gone.
    """
    try:
        listed = read_manifest(manifest)
    except HeadstartError:
        return []
    rows = []
    rng = np.random.default_rng(seed)
    for number in np.unique(np.linspace(0, len(listed.labels) - 1, _MAX_ROWS).astype(int)).tolist():
        picture = _first_picture(listed, number, spec)
        if picture is None:
            continue
        name = listed.labels[number]
        views = [thumbnail(Image.fromarray(eval_view(picture, spec)), f"{name}: evaluation view")]
        for count in range(1, _NUM_VIEWS + 1):
            view = train_view(picture, spec, augment, rng)
            views.append(thumbnail(Image.fromarray(view), f"{name}: augmented view {count}"))
        rows.append((name, views))
    return rows


def _first_picture(manifest: Manifest, label: int, spec: InputSpec) -> Image.Image | None:
    """Return the first training image of a class, or None where there is none, or it is gone."""
    for record in manifest.of_split("train"):
        if record.label == label:
            with suppress(UnreadableImageError):
                return read_picture(manifest.source, record.key, spec.decoding, is_quick=True)
            break
    return None


def sheet(rows: list[tuple[str, list[Thumbnail]]]) -> bytes:
    """Put pictures on one sheet, as a PNG; see `contact_sheet`."""
    shown = []
    for caption, pictures in rows:
        shown.append((caption, [picture.image for picture in pictures]))
    buffer = io.BytesIO()
    contact_sheet(shown).save(buffer, "PNG")
    return buffer.getvalue()
