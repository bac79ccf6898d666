"""Find the images of a folder of class folders, with or without splits. No file is opened."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path

from headstart.errors import DataError, listed

# Formats that Pillow cannot read without a plugin are listed too: a photo must be reported, not passed over.
# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
    ".avif", ".heic", ".heif", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".jp2", ".j2k", ".jpx",
})
# fmt: on
SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_WORDS = tuple(_SPLIT_WORDS)
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
_LAYOUT = "expected FOLDER/<class>/picture.jpg or FOLDER/train/<class>/picture.jpg"


def split_of(word: str) -> str | None:
    """Return `train`, `validation` or `test` for a word that means it (any case), else None."""
    return _SPLIT_WORDS.get(word.strip().lower())


def class_name(text: str) -> str:
    """Return a class's name in one spelling: macOS and Linux compose the same accented letter differently."""
    return unicodedata.normalize("NFC", text)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder name is to be passed over: hidden, or litter of an operating system."""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def has_image_suffix(name: str) -> bool:
    """Tell whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@dataclass
class Listing:
    """What a source holds, before labels become numbers.

    Attributes:
        images: (key, class name, split or '', group or None) of every image; the key of a file is its path.
        classes: All class names, also of classes without an image.
        ignored: Files passed over because they have no image extension.
        warnings: One sentence for each thing that the user should know.
    """

    images: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    ignored: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Folder:
    images: list[str] = field(default_factory=list)
    folders: dict[str, "_Folder"] = field(default_factory=dict)

    def all_images(self) -> Iterator[str]:
        yield from self.images
        for folder in self.folders.values():
            yield from folder.all_images()

    def has_images(self) -> bool:
        return any(True for _ in self.all_images())

    def has_class_folders(self) -> bool:
        return any(folder.has_images() for folder in self.folders.values())


def list_folder(root: Path) -> Listing:
    """List the images of `root`, a folder of class folders or of split folders that hold class folders.

    Folders below a class folder belong to the class. Symbolic links are followed, loops are not.

    Raises:
        DataError: A folder cannot be listed, the layout is ambiguous, or there is no class folder.
    """
    listing = Listing()
    tree = _read(str(root), frozenset(), listing)
    if not tree.has_images():
        ignored = f" (files without an image extension: {len(listing.ignored)})" if listing.ignored else ""
        raise DataError(f"no image in {root}{ignored}; {_LAYOUT}")
    splits = _find_splits(root, tree, listing)
    for split, folder in splits.items() if splits is not None else [("", tree)]:
        _add_classes(listing, folder, split, root)
    return listing


def _read(path: str, ancestors: frozenset[tuple[int, int]], listing: Listing) -> _Folder:
    try:
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        if key in ancestors:
            listing.warnings.append(f"{path} is a link back to a folder above it; not followed")
            return _Folder()
        with os.scandir(path) as found:
            entries = sorted((entry for entry in found if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot list the folder {path}: {error.strerror}; check its permissions") from error
    folder = _Folder()
    for entry in entries:
        if entry.is_dir():
            folder.folders[entry.name] = _read(entry.path, ancestors | {key}, listing)
        elif has_image_suffix(entry.name):
            folder.images.append(entry.path)
        else:
            listing.ignored.append(Path(entry.path))
    return folder


def _find_splits(root: Path, tree: _Folder, listing: Listing) -> dict[str, _Folder] | None:
    """Return split -> folder, or None where the folders of `tree` are classes (one may be called 'train')."""
    named = {name: split for name in tree.folders if (split := split_of(name))}
    others = [name for name, folder in tree.folders.items() if name not in named and folder.has_images()]
    nested = [name for name in named if tree.folders[name].has_class_folders()]
    if not named or (others and not nested):
        return None
    if others and (len(nested) < 2 or len(nested) < len(named)):
        raise DataError(
            f"in {root}, {_quoted(named)} may be a split or a class beside {_quoted(others)}; move the splits into a "
            "folder of their own, or give a CSV manifest with the columns path,label,split"
        )
    if others:
        listing.warnings.append(f"{_quoted(others)} beside the splits in {root}: not a split, ignored")
    return _by_split(root, tree, named)


def _by_split(root: Path, tree: _Folder, named: Mapping[str, str]) -> dict[str, _Folder]:
    splits: dict[str, _Folder] = {}
    for name, split in named.items():
        folder = tree.folders[name]
        if split in splits:
            same = [other for other, its_split in named.items() if its_split == split]
            raise DataError(f"in {root}, {_quoted(same)} all mean {split}; keep one of them")
        if not folder.has_images():
            raise DataError(f"no image in {root / name}; add some, or remove the folder")
        if not folder.has_class_folders():
            raise DataError(
                f"{root / name} holds {counted(folder.images)} and no class folder; expected {name}/<class>/"
                f"picture.jpg (if {name!r} is a class, give a CSV manifest with the columns path,label)"
            )
        splits[split] = folder
    return splits


def _add_classes(listing: Listing, folder: _Folder, split: str, root: Path) -> None:
    if folder.images:
        place = f"the {split} folder" if split else "the folder itself"
        if not folder.folders:
            raise DataError(f"{root} holds {counted(folder.images)} and no class folder; {_LAYOUT}")
        lie = "lies" if len(folder.images) == 1 else "lie"
        listing.warnings.append(f"{counted(folder.images)} {lie} in {place} of {root}, outside any class; ignored")
    for name, class_folder in folder.folders.items():
        label = class_name(name)
        listing.classes.add(label)
        listing.images += [(image, label, split, None) for image in class_folder.all_images()]
        if inner := [below for below in class_folder.folders if split_of(below)]:
            listing.warnings.append(
                f"{_quoted(inner)} inside class {name!r} is read as a part of the class; "
                f"if it is a split, the layout is {inner[0]}/{name}/picture.jpg"
            )


def counted(images: Sized, kind: str = "") -> str:
    """Return `1 image` or `2 images`, of a kind."""
    return f"{len(images)} {kind}image{'' if len(images) == 1 else 's'}"


def _quoted(names: Iterable[str]) -> str:
    return listed(map(repr, names))
