"""What is wrong with the images: unreadable files, empty classes, copies, leaks. What is found goes into a report."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from PIL import Image

from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.sources import Source, read_bytes, sha256, shown
from headstart.data.split_names import SPLITS
from headstart.data.threads import map_ahead
from headstart.decoding import open_image, read_measured, why_unreadable
from headstart.errors import DataError, UnreadableImageError, did_you_mean, listed
from headstart.types import GreyRange, Progress

_NO_SUCH_FILE = os.strerror(errno.ENOENT).lower()  # as `why_unreadable` says it
_MAX_NAMED = 3  # images in an error message
_AHEAD = 4096  # a million images in the queue would fill gigabytes
_T = TypeVar("_T")


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Leak:
    """An image with exactly the pixels of one in a split that judges it."""

    path: str
    split: str
    copy_of: str
    copy_of_split: str


@dataclass(frozen=True)
class SharedGroup:
    """A group of images that is in more than one split.

    Attributes:
        group: Name of the group.
        counts: Split -> number of images of the group, for the splits that have some.
    """

    group: str
    counts: dict[str, int]


@dataclass(frozen=True)
class Fingerprint:
    """What was found in a picture.

    Attributes:
        sha256: SHA-256 of the file, hexadecimal.
        pixels: Hash of the decoded, upright RGB pixels and of `extent`, hexadecimal.
        extent: Lowest and highest value, in grey of more than 8 bits; else None.
    """

    sha256: str
    pixels: str
    extent: GreyRange | None = None


@dataclass(frozen=True)
class DataReport:
    """What the checks found; `data_report.json` in the run folder.

    Attributes:
        source: Folder, manifest or catalogue name as given.
        counts: Split -> class -> images that are used.
        label_map: Class in the source -> class used.
        splits_made: Whether Headstart made the split.
        ignored_files: Extension ('' for none) -> files passed over because it is no image's.
        unreadable: Images left out because of `skip_bad`.
        leaks: Copies of an image of a split that judges them.
        leaks_policy: `drop`, `error` or `keep`.
        shared_groups: Groups that are in more than one split, kept because of `leaks_policy`.
        duplicates: Groups of paths with the same pixels within one split.
        conflicts: Groups of (path, class) with the same pixels and different classes.
        grey_range: Which values become black and white in grey pictures of more than 8 bits; None: there are none.
        warnings: All of it in sentences.
    """

    source: str
    counts: dict[str, dict[str, int]]
    label_map: dict[str, str]
    splits_made: bool
    ignored_files: dict[str, int]
    unreadable: tuple[BadImage, ...]
    leaks: tuple[Leak, ...]
    leaks_policy: str
    shared_groups: tuple[SharedGroup, ...]
    duplicates: tuple[tuple[str, ...], ...]
    conflicts: tuple[tuple[tuple[str, str], ...], ...]
    grey_range: GreyRange | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def unreadable_headers(
    source: Source, records: Sequence[ImageRecord], *, threads: int, progress: Progress | None = None
) -> list[BadImage]:
    """Read the header of every image and return those without a usable one, in order."""
    reasons = _results_by_threads("reading headers", partial(_header_problem, source), records, threads, progress)
    bad = []
    for record, reason in zip(records, reasons, strict=True):
        if reason:
            bad.append(BadImage(shown(record.key), reason))
    return bad


def fingerprint(
    source: Source,
    records: Sequence[ImageRecord],
    *,
    threads: int,
    progress: Progress | None = None,
    keep: Callable[[str, Image.Image], None] | None = None,
) -> list[Fingerprint | BadImage]:
    """Read and decode every image once, and return its hashes, or why it cannot be decoded; in order.

    Args:
        source: Gives their bytes.
        records: The images.
        threads: Number of decoding threads.
        progress: Told how far it is.
        keep: Called from any thread with the key of each picture and the picture, decoded; not called for grey of more
            than 8 bits.
    """
    return _results_by_threads("checking pixels", partial(_fingerprint, source, keep), records, threads, progress)


def change_of(source: Source, record: ImageRecord) -> str:
    """Say how an image differs from what was checked: `is gone`, `has changed`, or ''."""
    try:
        found = sha256(source, record.key)
    except (FileNotFoundError, NotADirectoryError):
        return "is gone"
    if record.sha256 and found != record.sha256:
        return "has changed"
    return ""


def raise_unreadable(bad: Sequence[BadImage], *, num_images: int) -> None:
    """Refuse images that cannot be read, if there are any.

    Args:
        bad: Images that cannot be read.
        num_images: Number of images, these among them.

    Raises:
        UnreadableImageError: It names the first few and counts the others.
    """
    if not bad:
        return
    reasons = {image.reason for image in bad}
    if len(bad) == num_images > 1 and len(reasons) == 1:
        said = f"none of the {num_images} images can be read: {bad[0].reason}; the first is {bad[0].path}"
        if bad[0].reason == _NO_SUCH_FILE:  # a folder's images are there, those of a table need not be
            said += ". Paths in a table are relative to the folder of the table"
        raise UnreadableImageError(said)
    if len(bad) == 1:
        raise UnreadableImageError(
            f"cannot read image {bad[0].path}: {bad[0].reason}; repair or remove it, or leave such images out with "
            "--skip-bad"
        )
    named = listed((f"{image.path}: {image.reason}" for image in bad), _MAX_NAMED)
    advice = "repair or remove them, or leave such images out with --skip-bad"
    if len(bad) > _MAX_NAMED:
        advice += "; headstart data show --skip-bad --verbose lists them all"
    raise UnreadableImageError(f"cannot read {len(bad)} images: {named}; {advice}")


def check_classes(manifest: Manifest, source: str, *, hint: str = "") -> None:
    """Check that there are two classes at least, and images of each in every split.

    Args:
        manifest: Data set, with or without splits.
        source: Place that it came from, for the message.
        hint: Words that may explain a missing class, for the message.

    Raises:
        DataError: There is one class only, or classes have no image; it names them all.
    """
    check_not_empty(manifest, source, hint=hint)
    if len(manifest.labels) < 2:
        raise DataError(
            f"{source} has only one class, {manifest.labels[0]!r}; expected two or more class folders (FOLDER/<class>/ "
            f"or FOLDER/train/<class>/){hint}"
        )
    total = Counter(record.label for record in manifest.records)
    empty = [name for label, name in enumerate(manifest.labels) if not total[label]]
    if empty:
        raise DataError(f"{_without_image(empty, source)}{hint}; add images, or remove the {_class_word(empty)}")
    for split, counts in manifest.counts().items():
        empty = [name for name, count in counts.items() if not count]
        if empty:
            raise DataError(
                f"{_without_image(empty, source)} in {split}{hint}.{_similar_class(empty, manifest.labels)} Every "
                f"split needs every class: add images, or remove or --map the {_class_word(empty)}"
            )


def _without_image(empty: Sequence[str], source: str) -> str:
    """Return words such as `class 'a' in FOLDER has no image`."""
    has = "has" if len(empty) == 1 else "have"
    return f"{_class_word(empty)} {listed(map(repr, empty))} in {source} {has} no image"


def _class_word(names: Sequence[str]) -> str:
    """Return `class` or `classes`, for so many names."""
    return "class" if len(names) == 1 else "classes"


def _similar_class(empty: Sequence[str], labels: Sequence[str]) -> str:
    """Return ` Did you mean 'x'?` for a class that may be another one, written otherwise, or ''."""
    if len(empty) > 1:  # the question would not say which of them is meant
        return ""
    (name,) = empty
    return did_you_mean(name, [label for label in labels if label != name])


def check_not_empty(manifest: Manifest, source: str, *, hint: str = "") -> None:
    """Raise a `DataError` where there is no image at all."""
    if not manifest.records:
        raise DataError(f"no image to use in {source}{hint}; expected FOLDER/<class>/picture.jpg")


def check_splits(manifest: Manifest, expected: Sequence[str], source: str, *, hint: str = "") -> None:
    """Check that no split has lost all of its images to what was left out.

    Args:
        manifest: Images that are left.
        expected: Splits that there were.
        source: Place that they came from, for the message.
        hint: Words for what was left out, for the message.

    Raises:
        DataError: A split is empty.
    """
    for split in expected:
        if split not in manifest.splits:
            raise DataError(
                f"no image is left in the {split} split of {source}{hint}; give it images of its own that can be read, "
                "or remove the split"
            )


def find_leaks(records: Sequence[ImageRecord], pixels: Sequence[str]) -> dict[int, Leak]:
    """Return position -> leak for every image whose pixels also are in a split that judges it.

    Test judges validation and train; validation judges train.
    """
    leaks = {}
    for positions in _positions_of_repeated(pixels):
        copies = {position: records[position] for position in positions}
        original = max(copies.values(), key=_nearness_to_report)
        for position, record in copies.items():
            if _nearness_to_report(record) < _nearness_to_report(original):
                leaks[position] = Leak(record.key, record.split, original.key, original.split)
    return leaks


def _nearness_to_report(record: ImageRecord) -> int:
    """Return the place of a record's split among train, validation and test: a later one judges an earlier one."""
    return SPLITS.index(record.split)


def find_shared_groups(records: Iterable[ImageRecord]) -> tuple[SharedGroup, ...]:
    """Return the groups that are in more than one split, by name; an image without a group shares none."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        if record.group is not None:
            counts.setdefault(record.group, Counter())[record.split] += 1
    found = []
    for group, of_split in sorted(counts.items()):
        if len(of_split) > 1:
            in_order = {split: of_split[split] for split in SPLITS if of_split[split]}
            found.append(SharedGroup(group, in_order))
    return tuple(found)


def check_groups(manifest: Manifest, source: str) -> None:
    """Check that each group is in one split only.

    Raises:
        DataError: A group is in several splits; the message has their counts and what to do.
    """
    shared = find_shared_groups(manifest.records)
    if not shared:
        return
    what = "1 group is"
    if len(shared) > 1:
        what = f"{len(shared)} groups are"
    named = listed((shared_group_text(each) for each in shared), 3)
    raise DataError(
        f"in {source}, {what} in more than one split: {named}. What is learnt from one part of a group helps with the "
        "other, so the figures would be optimistic. Give each group one split, or leave out the column split: then "
        "Headstart splits by groups. --leaks keep goes on and marks the figures"
    )


def shared_group_text(shared: SharedGroup) -> str:
    """Return a group with its counts, such as `'p1' (4 train, 2 test)`."""
    counts = ", ".join(f"{count} {split}" for split, count in shared.counts.items())
    return f"{shared.group!r} ({counts})"


def find_duplicates(records: Sequence[ImageRecord], pixels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of images with the same pixels and label within one split."""
    same = [f"{hashed} {record.split} {record.label}" for record, hashed in zip(records, pixels, strict=True)]
    groups = []
    for positions in _positions_of_repeated(same):
        groups.append(tuple(records[position].key for position in positions))
    return tuple(groups)


def find_conflicts(
    records: Sequence[ImageRecord], pixels: Sequence[str], labels: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Return the groups of images with the same pixels and more than one label, as (path, class name)."""
    groups = []
    for positions in _positions_of_repeated(pixels):
        copies = [records[position] for position in positions]
        if len({record.label for record in copies}) > 1:
            groups.append(tuple((record.key, labels[record.label]) for record in copies))
    return tuple(groups)


def _positions_of_repeated(keys: Iterable[str]) -> list[list[int]]:
    """Return the positions of each key that is there more than once."""
    groups: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def _header_problem(source: Source, key: str) -> str:
    """Return why the header is not usable, or ''."""
    try:
        key.encode()
        with source.open(key) as stream, open_image(stream):
            return ""
    except UnicodeEncodeError:
        return "its name is not valid Unicode, rename it"
    except Exception as error:  # decoders raise all kinds
        return why_unreadable(error)


def _fingerprint(source: Source, keep: Callable[[str, Image.Image], None] | None, key: str) -> Fingerprint | BadImage:
    """Decode an image; return its hashes, or why it cannot be decoded."""
    try:
        data = read_bytes(source, key)
        image, extent = read_measured(data)
        if keep is not None and extent is None:  # how others become RGB is not known before all are read
            keep(key, image)
        header = f"{image.width}x{image.height} "
        if extent is not None:
            header += str(extent)
        pixels = hashlib.blake2b(header.encode(), digest_size=16)
        pixels.update(image.tobytes())
        return Fingerprint(hashlib.sha256(data).hexdigest(), pixels.hexdigest(), extent)
    except Exception as error:  # decoders raise all kinds
        return BadImage(shown(key), why_unreadable(error))


def _results_by_threads(
    stage: str, function: Callable[[str], _T], records: Sequence[ImageRecord], threads: int, progress: Progress | None
) -> list[_T]:
    """Apply `function` to the key of each record in threads, and leave at once when interrupted."""
    results: list[_T] = []
    keys = [record.key for record in records]
    with closing(map_ahead(function, keys, threads=threads, ahead=_AHEAD)) as coming:
        for result in coming:
            results.append(result)
            if progress is not None:
                progress(stage, len(results), len(records))
    return results
