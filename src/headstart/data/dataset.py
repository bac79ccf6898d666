"""From a folder, manifest or catalogue name to checked images with splits: the whole way."""

import contextlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

from PIL import Image

from headstart.data.checks import (
    BadImage,
    DataReport,
    Leak,
    check_classes,
    check_groups,
    check_not_empty,
    check_splits,
    find_conflicts,
    find_duplicates,
    find_leaks,
    find_shared_groups,
    fingerprint,
    raise_unreadable,
    unreadable_headers,
)
from headstart.data.folders import Listing
from headstart.data.manifest import ImageRecord, Manifest, scan
from headstart.data.report_text import report_sentences
from headstart.data.sources import shown
from headstart.data.splits import make_splits, subset
from headstart.data.threads import default_threads
from headstart.errors import DataError, counted, did_you_mean
from headstart.files import may_exist
from headstart.grey import USUAL_RANGES, common_range
from headstart.runs import locate
from headstart.types import GreyRange, Layout, Progress

LeaksPolicy = Literal["drop", "error", "keep"]
Keep = Callable[[str, Image.Image], None]


def load_dataset(
    source: str | Path,
    *,
    layout: Layout = "auto",
    label_map: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    max_per_class: int | Mapping[str, int] | None = None,
    leaks: LeaksPolicy = "drop",
    skip_bad: bool = False,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    single_split_ok: bool = False,
    keep: Keep | None = None,
    known: Sequence[str] = (),
) -> tuple[Manifest, DataReport]:
    """Read, check and split a data set; nothing is written, each image that is used is decoded once.

    Args:
        source: Folder of class folders (with or without splits), CSV or parquet manifest, or catalogue name.
        layout: Which folders are classes and which are splits; see `headstart.data.layouts`.
        label_map: Class in the source -> class to use; others keep their name.
        exclude: Classes to leave out, as they are called after the map.
        max_per_class: Keep a balanced, seeded subset: one number, or split -> number.
        leaks: What to do with images that are exact copies of one in a split nearer to the report (train, validation,
            test): `drop`, `error` or `keep`. A group that is in more than one split is an error unless it is `keep`.
        skip_bad: Leave unreadable images out and list them, instead of stopping.
        test_fraction: Share of the test split where the data has no splits.
        split_seed: Seed of that split and of the subset.
        threads: Decoding threads; default: one per core, 8 at most.
        progress: Called with (what is done, images done, images in all).
        single_split_ok: For evaluation: make no split (all is `test` where there is none), accept one or missing
            classes.
        keep: Called with the key of a picture and the picture, decoded, so that it need not be decoded again; see
            `fingerprint`.
        known: Classes that a model knows, for evaluation: a folder with such a name is a class.

    Returns:
        The manifest, with a SHA-256 for each image, and what the checks found.

    Raises:
        UnreadableImageError: An image cannot be decoded and `skip_bad` is False.
        DataError: The source, its layout, its classes or the settings are not usable.
    """
    threads = threads or default_threads()

    # Which images there are, by name.
    path, name, located = _find_source(source, progress)
    if locate(path).is_run:
        raise DataError(
            f"{path} is the folder of a run, not of images. Its model is used by headstart predict and evaluate; "
            f"--weights {shlex.quote(str(path))} starts a training from it, and --resume goes on with it"
        )
    manifest, listing = scan(path, name=name, label_map=label_map, exclude=exclude, layout=layout, known=known)
    warnings = [*located, *listing.warnings]
    check = check_not_empty if single_split_ok else check_classes
    check(manifest, str(source), hint=_ignored_hint(listing))
    given = manifest.splits

    # Which of them begin as an image does.
    manifest, bad_headers = _drop_bad_headers(manifest, threads, progress)
    if bad_headers and not skip_bad:  # all that cannot be read is named at once
        bodies = _with_hashes(manifest, threads, progress, None)[3]
        raise_unreadable([*bad_headers, *bodies], num_images=len(manifest.records) + len(bad_headers))
    # Before splits are made: they would take the place of the one that is empty now.
    check_splits(manifest, given, str(source), hint=_unreadable_hint(bad_headers))

    # The splits, and the subset that was asked for.
    if single_split_ok:
        manifest, warnings = _without_empty_classes(manifest, warnings)
    manifest, splits_made = _with_splits(manifest, str(source), test_fraction, split_seed, single_split_ok)
    splits = manifest.splits
    if max_per_class is not None:
        manifest = subset(manifest, max_per_class, split_seed)
    if leaks != "keep":
        check_groups(manifest, str(source))

    # Each image is decoded once.
    num_images = len(manifest.records)
    manifest, pixels, extents, bad_bodies = _with_hashes(manifest, threads, progress, keep)
    if not skip_bad:
        raise_unreadable(bad_bodies, num_images=num_images)
    bad = (*bad_headers, *bad_bodies)
    check_splits(manifest, splits, str(source), hint=_unreadable_hint(bad))
    check(manifest, str(source), hint=_unreadable_hint(bad))

    # What their pixels say.
    leaked = find_leaks(manifest.records, pixels)
    if leaked and leaks == "error":
        _refuse_leaks(tuple(leaked.values()))
    grey_range, grey_warnings = _grey_range(manifest.records, extents)
    if single_split_ok:  # then a model knows already
        grey_warnings = []
    duplicates = find_duplicates(manifest.records, pixels)
    conflicts = find_conflicts(manifest.records, pixels, manifest.labels)
    if leaked and leaks == "drop":
        kept = [record for position, record in enumerate(manifest.records) if position not in leaked]
        manifest = manifest.with_records(kept)
        dropped = f" ({counted(leaked)} dropped as copies of one in another split)"
        check_splits(manifest, splits, str(source), hint=dropped)
        check(manifest, str(source), hint=dropped)

    suffixes = Counter(path.suffix.lower() for path in listing.ignored)
    report = DataReport(
        source=str(source),
        counts=manifest.counts(),
        label_map=dict(label_map or {}),
        splits_made=splits_made,
        ignored_files=dict(sorted(suffixes.items())),
        unreadable=bad,
        leaks=tuple(leaked.values()),
        leaks_policy=leaks,
        shared_groups=find_shared_groups(manifest.records),
        duplicates=duplicates,
        conflicts=conflicts,
        grey_range=grey_range,
        warnings=(),
    )
    return manifest, replace(report, warnings=(*warnings, *report_sentences(report), *grey_warnings))


def _find_source(source: str | Path, progress: Progress | None) -> tuple[Path, str | None, tuple[str, ...]]:
    """Return the path, the catalogue name if it is one, and warnings."""
    from headstart.data import catalog

    word = str(source)
    path = Path(source).expanduser()
    is_name = catalog.is_catalog_name(word)
    if may_exist(path) and is_name:
        return path, None, (f"read {word!r} from the folder here; the catalogue has a data set of that name too",)
    if may_exist(path):
        return path, None, ()
    if is_name:
        return catalog.data_set_folder(word, progress), word, ()

    known: list[str] = []
    with contextlib.suppress(OSError):
        known = sorted(os.listdir(path.parent))
    if path.parent == Path():
        known += catalog.CATALOG
    hint = did_you_mean(path.name, known)
    raise DataError(
        f"there is no folder, manifest or catalogue data set {word!r}.{hint} Give a folder of class folders, a CSV or "
        "parquet manifest, or a name from: headstart data list"
    )


def _ignored_hint(listing: Listing) -> str:
    """Return what may explain a missing image: files that are no images by their names."""
    if not listing.ignored:
        return ""
    return f" (files without an image extension, ignored: {len(listing.ignored)})"


def _unreadable_hint(bad: Sequence[BadImage]) -> str:
    """Return what may explain a missing image: images that cannot be read."""
    if not bad:
        return ""
    return f" ({counted(bad, 'unreadable ')} left out)"


def _drop_bad_headers(manifest: Manifest, threads: int, progress: Progress | None) -> tuple[Manifest, list[BadImage]]:
    """Return the images whose headers can be read, and why those of the others cannot."""
    bad = unreadable_headers(manifest.source, manifest.records, threads=threads, progress=progress)
    paths = {image.path for image in bad}
    kept = [record for record in manifest.records if shown(record.key) not in paths]
    return manifest.with_records(kept), bad


def _without_empty_classes(manifest: Manifest, warnings: list[str]) -> tuple[Manifest, list[str]]:
    """Return a data set without the classes that have no image, and the warnings with one about them."""
    used = sorted({record.label for record in manifest.records})
    empty = [name for label, name in enumerate(manifest.labels) if label not in used]
    if not empty:
        return manifest, warnings
    labels = tuple(manifest.labels[label] for label in used)
    records = tuple(replace(record, label=used.index(record.label)) for record in manifest.records)
    warning = f"no image of {', '.join(map(repr, empty))}; not evaluated"
    return replace(manifest, labels=labels, records=records), [*warnings, warning]


def _with_splits(
    manifest: Manifest, source: str, test_fraction: float, seed: int, single_split_ok: bool
) -> tuple[Manifest, bool]:
    """Return the manifest with splits, and whether they were made here."""
    if single_split_ok:
        if not manifest.splits:
            manifest = manifest.with_records(replace(record, split="test") for record in manifest.records)
        return manifest, False
    # A train folder alone is a data set without splits.
    if manifest.splits in ((), ("train",)):
        return make_splits(manifest, test_fraction, seed), True
    if "train" not in manifest.splits:
        raise DataError(f"{source} has {' and '.join(manifest.splits)} but no train split; add train/<class>/ folders")
    return manifest, False


def _with_hashes(
    manifest: Manifest, threads: int, progress: Progress | None, keep: Keep | None
) -> tuple[Manifest, list[str], list[GreyRange | None], list[BadImage]]:
    """Return the manifest with SHA-256s, the pixel hash and the extent of each record, and what cannot be decoded."""
    # What trains comes first: it is decoded in every epoch, and there is not room for all pictures.
    positions = list(range(len(manifest.records)))
    positions.sort(key=lambda position: manifest.records[position].split != "train")
    ordered = [manifest.records[position] for position in positions]
    results = fingerprint(manifest.source, ordered, threads=threads, progress=progress, keep=keep)
    result_at = dict(zip(positions, results, strict=True))

    records: list[ImageRecord] = []
    pixels: list[str] = []
    extents: list[GreyRange | None] = []
    bad: list[BadImage] = []
    for position, record in enumerate(manifest.records):
        result = result_at[position]
        if isinstance(result, BadImage):
            bad.append(result)
        else:
            records.append(replace(record, sha256=result.sha256))
            pixels.append(result.pixels)
            extents.append(result.extent)
    return replace(manifest, records=tuple(records)), pixels, extents, bad


def _grey_range(
    records: Sequence[ImageRecord], extents: Sequence[GreyRange | None]
) -> tuple[GreyRange | None, list[str]]:
    """Return the range of grey of more than 8 bits in the images that train, and what people should know of it."""
    of_train = []
    for record, extent in zip(records, extents, strict=True):
        if record.split == "train" and extent is not None:
            of_train.append(extent)
    found = common_range(of_train)
    if found is None or found in USUAL_RANGES:
        return found, []
    low = min(low for low, _ in of_train)
    high = max(high for _, high in of_train)
    return found, [
        f"{counted(of_train, 'grey training ')} with more than 8 bits hold values from {low:,g} to {high:,g}: "
        f"{found[0]:,g} becomes black and {found[1]:,g} white"
    ]


def _refuse_leaks(leaks: Sequence[Leak]) -> NoReturn:
    """Refuse images that are copies of one in another split."""
    first = leaks[0]
    copies = f"{first.path} ({first.split}) is an exact copy of {first.copy_of} ({first.copy_of_split})"
    if len(leaks) > 1:
        copies += f", and {len(leaks) - 1} more such copies"
    raise DataError(f"{copies}; remove them, or use --leaks drop")
