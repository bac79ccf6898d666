"""Make splits where the data brings none, inner splits of train, and balanced subsets. All seeded."""

import contextlib
import shlex
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from headstart.data.manifest import ImageRecord, Manifest, group_numbers
from headstart.data.split_names import SPLIT_WORDS, split_of
from headstart.errors import DataError, did_you_mean, listed

_MAX_FOLDS = 20


def make_splits(manifest: Manifest, test_fraction: float, seed: int) -> Manifest:
    """Put every image into `train` or `test`: stratified by class, groups kept together.

    Args:
        manifest: Its own splits, if any, are forgotten.
        test_fraction: Share of the test split, 0 to 1, met as closely as whole images and groups allow.
        seed: Equal seeds and images give equal splits.

    Raises:
        DataError: A class has too few images, or too few groups, to appear in both splits.
    """
    in_test = _held_out(manifest.records, manifest.labels, test_fraction, seed, "a train and a test split")
    pairs = zip(manifest.records, in_test, strict=True)
    return manifest.with_records(replace(record, split="test" if held else "train") for record, held in pairs)


def inner_split(
    records: Sequence[ImageRecord], fraction: float, seed: int, labels: Sequence[str] | None = None
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """Part train into (what trains, what is held out to select): stratified by class, groups kept together.

    Raises:
        DataError: A class has too few images, or too few groups, to appear in both parts.
    """
    trains: list[ImageRecord] = []
    selects: list[ImageRecord] = []
    held_out = _held_out(records, labels, fraction, seed, "a part that trains and one that selects")
    for record, is_held in zip(records, held_out, strict=True):
        if is_held:
            selects.append(record)
        else:
            trains.append(record)
    return tuple(trains), tuple(selects)


def subset(manifest: Manifest, max_per_class: int | Mapping[str, int], seed: int) -> Manifest:
    """Keep at most so many images of every class in every split.

    The subset of 10 images is a part of the subset of 20, and does not depend on what other classes there are.

    Args:
        manifest: A data set with splits.
        max_per_class: One number, or split -> number; splits that are not named keep all.
        seed: Equal seeds and images give equal subsets.

    Raises:
        DataError: A split is unknown, or a number is not positive.
    """
    limits = _limits(manifest, max_per_class)
    kept: list[ImageRecord] = []
    for (split, label), records in _by_split_and_label(manifest).items():
        limit = limits.get(split, len(records))
        name = f"{split}/{manifest.labels[label]}".encode()
        order = np.random.default_rng([seed, zlib.crc32(name)]).permutation(len(records))
        kept += [records[position] for position in order[:limit]]
    return manifest.with_records(kept)


def _by_split_and_label(manifest: Manifest) -> dict[tuple[str, int], list[ImageRecord]]:
    found: dict[tuple[str, int], list[ImageRecord]] = {}
    for record in manifest.records:
        found.setdefault((record.split, record.label), []).append(record)
    return found


def _limits(manifest: Manifest, max_per_class: int | Mapping[str, int]) -> dict[str, int]:
    if isinstance(max_per_class, int):
        given: Mapping[str, int] = dict.fromkeys(manifest.splits, max_per_class)
    else:
        given = max_per_class
    limits = {}
    for word, limit in given.items():
        split = split_of(word)
        if split not in manifest.splits:
            usable = [known for known in SPLIT_WORDS if split_of(known) in manifest.splits]
            hint = did_you_mean(word, usable) if split is None else ""
            raise DataError(f"max_per_class names the split {word!r}; the data has {', '.join(manifest.splits)}.{hint}")
        if limit < 1:
            raise DataError(f"max_per_class is {limit} for {split}; expected at least 1 image")
        limits[split] = limit
    return limits


def _held_out(
    records: Sequence[ImageRecord], names: Sequence[str] | None, fraction: float, seed: int, purpose: str
) -> npt.NDArray[np.bool_]:
    """Return one bool per record, with every class on both sides.

    Raises:
        DataError: That cannot be done for some classes; it names them all.
    """
    labels = np.array([record.label for record in records], dtype=np.int64)
    grouped = any(record.group is not None for record in records)
    draw = _draw_groups if grouped else _draw_images
    held_out = draw(records, labels, fraction, seed)
    small = _one_sided(labels, held_out)
    if small:
        counts = {names[label] if names else str(label): int((labels == label).sum()) for label in small}
        kind = "image" if {record.split for record in records} == {""} else "training image"
        found = listed(f"{name!r} has {count} {kind}{'' if count == 1 else 's'}" for name, count in counts.items())
        in_groups = " in groups" if grouped else ""
        raise DataError(
            f"too few images{in_groups} to have each class in both {purpose}: {found}. Add images, leave out such "
            f"classes with --exclude {shlex.quote(','.join(counts))}, or bring splits of your own (folders train and "
            "test, or a table with a column split)"
        )
    return held_out


def _one_sided(labels: npt.NDArray[np.int64], held_out: npt.NDArray[np.bool_]) -> list[int]:
    """Return the labels that are not on both sides."""
    totals = np.bincount(labels)
    held = np.bincount(labels[held_out], minlength=len(totals))
    is_one_sided = (held == 0) | (held == totals)
    return np.flatnonzero(is_one_sided & (totals > 0)).tolist()


def _draw_images(
    records: Sequence[ImageRecord], labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    held_out = np.zeros(len(records), dtype=np.bool_)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        num_held = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_out[members[:num_held]] = True
    return held_out


def _draw_groups(
    records: Sequence[ImageRecord], labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    groups = np.array(group_numbers(record.group for record in records))
    share = Fraction(fraction).limit_denominator(_MAX_FOLDS)
    share = min(max(share, Fraction(1, _MAX_FOLDS)), Fraction(9, 10))
    most_folds = min(max(share.denominator, 2), len(np.unique(groups)))
    held_out = np.zeros(len(records), dtype=np.bool_)
    # The share wanted first; with few groups a class may be missing from some folds, so then fewer and larger ones.
    for num_folds in range(most_folds, 1, -1):
        folds = _folds(labels, groups, num_folds, seed)
        num_held = min(max(round(share * num_folds), 1), num_folds - 1)
        for first in range(num_folds):
            held_out = (folds - first) % num_folds < num_held
            if not _one_sided(labels, held_out):
                return held_out
    return held_out


def _folds(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], num_folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return the fold of each image: stratified, groups kept together; all in fold 0 where that cannot be done."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.zeros(len(labels), dtype=np.int64)
    with warnings.catch_warnings(), contextlib.suppress(ValueError):
        warnings.simplefilter("ignore")  # of classes smaller than the number of folds, which is dealt with above
        parts = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, fold) in enumerate(parts):
            folds[fold] = number
    return folds
