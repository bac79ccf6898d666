"""Find the images of a folder of class folders, with or without splits. No file is opened."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from headstart.data.layouts import data_tree, understand
from headstart.data.walk import IMAGE_SUFFIXES, Tree, has_image_suffix, read_tree
from headstart.errors import DataError, listed
from headstart.types import Layout

# What cameras write, and Pillow does not read.
_RAW_SUFFIXES = frozenset({
    ".arw", ".cr2", ".cr3", ".crw", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw",
})  # fmt: skip
_DOCUMENTS = frozenset({"authors", "changelog", "copying", "licence", "license", "makefile", "notice", "readme"})


@dataclass
class Listing:
    """What a source holds, before labels become numbers.

    Attributes:
        images: (key, class name, split or '', group or None) of every image; the key of a file is its path.
        classes: All class names, also of classes without an image.
        layout: Way in which the folders were read; '' where there are none.
        splits: Split -> name of the folder that holds it, where the splits lie above the classes.
        ignored: Files passed over because they have no image extension.
        warnings: One sentence for each thing that the user should know.
    """

    images: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    layout: str = ""
    splits: dict[str, str] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def list_folder(root: Path, *, layout: Layout = "auto", known: Iterable[str] = ()) -> Listing:
    """List the images of `root`, a folder of class folders or of split folders that hold class folders.

    Folders below a class folder belong to the class. Symbolic links are followed, loops are not.

    Args:
        root: The folder.
        layout: Way in which folders are read as classes or splits; see `headstart.data.layouts`.
        known: Classes that a model knows.

    Raises:
        DataError: A folder cannot be listed, the layout is ambiguous, or there is no class folder.
    """
    listing = Listing()
    whole = read_tree(str(root))
    for folder in whole.folders():
        listing.ignored += map(Path, folder.others)
    if not any(whole.images()):
        place = str(root)
        if listing.ignored:
            place += f" (files without an image extension: {len(listing.ignored)})"
        raise DataError(f"no image in {place}; expected FOLDER/<class>/picture.jpg or FOLDER/train/<class>/picture.jpg")

    tree = data_tree(whole, layout, known)
    if tree is not whole:
        listing.warnings.append(f"read from {tree.folder.path}, the only folder in {root} that holds images in folders")
    reading = understand(tree, layout)
    listing.layout = reading.layout
    listing.splits = reading.splits
    for each in reading.classes:
        listing.classes.add(each.label)
        listing.images += [(image, each.label, each.split, None) for image in each.tree.images()]
    listing.warnings += reading.notes
    listing.warnings += _folder_notes(whole)
    listing.warnings += _file_notes(listing.ignored)
    listing.warnings += _blank_notes(listing.classes)
    return listing


def _folder_notes(tree: Tree) -> list[str]:
    """Say which links were not followed, and which folders with images are taken for junk."""
    notes = []
    junk = []
    for folder in tree.folders():
        notes += [f"{link} is a link back to a folder above it; not followed" for link in folder.loops]
        junk += [path for path in folder.junk if _may_hold_images(path)]
    if junk:
        names = {os.path.basename(path) for path in junk}
        notes.append(
            f"left out {listed(map(repr, sorted(names)))}, which a system or a program made (first {junk[0]}); "
            "a class needs another name"
        )
    return notes


def _may_hold_images(path: str) -> bool:
    """Tell whether a folder holds images, at any depth, as far as this user may look."""
    try:
        return any(read_tree(path).images())
    except DataError:  # of a system, and closed to users
        return False


def _file_notes(ignored: Iterable[Path]) -> list[str]:
    """Say which of the files that were passed over may be pictures."""
    found: dict[str, list[Path]] = {}
    for path in ignored:
        kind = _picture_kind(path.name)
        if kind:
            found.setdefault(kind, []).append(path)
    notes = []
    for kind, paths in found.items():
        what = "1 file that may be a picture"
        if len(paths) > 1:
            what = f"{len(paths)} files that may be pictures"
        advice = "the name has to end in .jpg, .png or the like"
        if kind == "camera raw":
            advice = "convert to JPEG or PNG"
        notes.append(f"passed over {what} ({kind}), first {str(paths[0])!r}; {advice}")
    return notes


def _picture_kind(name: str) -> str:
    """Say why a file without an image extension may be a picture, or ''."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _RAW_SUFFIXES:
        return "camera raw"
    if suffix.strip() in IMAGE_SUFFIXES or has_image_suffix(name.rstrip()):
        return "a blank ends the name"
    if not suffix and name.lower() not in _DOCUMENTS:
        return "no suffix"
    return ""


def _blank_notes(classes: Iterable[str]) -> list[str]:
    """Say which classes have names that begin or end with a blank."""
    odd = sorted(name for name in classes if name != name.strip())
    if not odd:
        return []
    if len(odd) == 1:
        return [f"the name of class {odd[0]!r} begins or ends with a blank; it is kept as it is"]
    return [f"the names of classes {listed(map(repr, odd))} begin or end with a blank; they are kept as they are"]
