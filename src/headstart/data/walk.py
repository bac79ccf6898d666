"""Walk a folder of images: the one way in which training and prediction see folders. No file is opened."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from headstart.errors import DataError

# Formats that Pillow cannot read without a plugin are listed too: a photo must be reported, not passed over.
# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
    ".avif", ".heic", ".heif", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".jp2", ".j2k", ".jpx",
})
# Made by systems, network drives and programs; in lower case.
_JUNK_FOLDERS = frozenset({
    "__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information",
    "lost+found", "thumbs", "__pycache__",
})
# fmt: on
_Identity = tuple[int, int]  # device and inode


@dataclass
class Folder:
    """What lies directly in a folder, without hidden names. Each list is sorted by name.

    Attributes:
        path: Path of the folder.
        images: Paths of files whose names end like an image's. Whether they can be read is not known yet.
        others: Paths of all other files.
        below: Name -> path of each folder in it. Links to folders are followed.
        junk: Paths of folders that a system made, which are passed over.
        loops: Paths of links back to this folder or to one above it, which are not followed.
    """

    path: str
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    below: dict[str, str] = field(default_factory=dict)
    junk: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


def has_image_suffix(name: str) -> bool:
    """Tell whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk(path: str) -> Iterator[Folder]:
    """Yield a folder, then everything below it, depth first and by name.

    Raises:
        DataError: A folder cannot be listed.
    """
    yield from _walk(path, frozenset())


def _walk(path: str, above: frozenset[_Identity]) -> Iterator[Folder]:
    """Yield a folder, then everything below it; `above` holds those that it is in."""
    above = above | {_identity(path)}
    folder = _list_folder(path, above)
    yield folder
    for each in folder.below.values():
        yield from _walk(each, above)


@dataclass(frozen=True)
class Tree:
    """A folder with all that is below it.

    Attributes:
        folder: The folder itself.
        below: Name -> tree of each folder in it.
    """

    folder: Folder
    below: dict[str, "Tree"]

    def folders(self) -> Iterator[Folder]:
        """Yield the folder, then everything below it, depth first and by name."""
        yield self.folder
        for tree in self.below.values():
            yield from tree.folders()

    def images(self) -> Iterator[str]:
        """Yield the paths of all images in it and below it."""
        for folder in self.folders():
            yield from folder.images

    def filled(self) -> dict[str, "Tree"]:
        """Return the folders directly in it that hold images, at any depth."""
        return {name: tree for name, tree in self.below.items() if any(tree.images())}


def read_tree(path: str) -> Tree:
    """Read a folder and everything below it.

    Raises:
        DataError: A folder cannot be listed.
    """
    folders = {folder.path: folder for folder in walk(path)}
    return _tree_below(path, folders)


def _tree_below(path: str, folders: dict[str, Folder]) -> Tree:
    """Return the tree of a folder; `folders` holds all of them by their paths."""
    folder = folders[path]
    below = {name: _tree_below(each, folders) for name, each in folder.below.items()}
    return Tree(folder, below)


def _list_folder(path: str, above: frozenset[_Identity]) -> Folder:
    """List a folder; `above` holds those that a link in it must not lead back to."""
    try:
        with os.scandir(path) as found:
            entries = {entry.name: entry for entry in found if not is_hidden(entry.name)}
    except OSError as error:
        raise _cannot_list(path, error) from error
    folder = Folder(path)
    for name, entry in sorted(entries.items()):
        if not _is_folder(entry):
            files = folder.images if has_image_suffix(name) else folder.others
            files.append(entry.path)
        elif name.lower() in _JUNK_FOLDERS:
            folder.junk.append(entry.path)
        elif _identity(entry.path) in above:
            folder.loops.append(entry.path)
        else:
            folder.below[name] = entry.path
    return folder


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is passed over without a word: its name begins with a dot."""
    return name.startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one: as a file it is reported with the reason
        return False


def _identity(path: str) -> _Identity:
    """Return what tells a folder from all others, whatever path leads to it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _cannot_list(path, error) from error
    return status.st_dev, status.st_ino


def _cannot_list(path: str, error: OSError) -> DataError:
    """Return the error that says why a folder cannot be listed."""
    return DataError(f"cannot list the folder {path}: {error.strerror}; check its permissions")
