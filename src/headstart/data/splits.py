"""Make splits where the data has none, inner splits of train, and balanced subsets. All seeded."""

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
from headstart.errors import DataError, counted, did_you_mean, listed

_MAX_FOLDS = 20


def make_splits(manifest: Manifest, test_fraction: float, seed: int) -> Manifest:
    """Put every image into `train` or `test`: stratified by class, groups kept together.

    Args:
        manifest: Data set, whose own splits, if any, are forgotten.
        test_fraction: Share of the test split, 0 to 1, met as closely as whole images and groups allow.
        seed: Equal seeds and images give equal splits.

    Raises:
        DataError: A class has too few images, or too few groups, to appear in both splits.
    """
    in_test = _held_out(manifest.records, manifest.labels, test_fraction, seed, "a train and a test split")
    records = []
    for record, is_held in zip(manifest.records, in_test, strict=True):
        split = "test" if is_held else "train"
        records.append(replace(record, split=split))
    return manifest.with_records(records)


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
    limits = _limit_per_split(manifest, max_per_class)
    kept: list[ImageRecord] = []
    for (split, label), records in _records_of_each_class(manifest).items():
        limit = limits.get(split, len(records))
        name = f"{split}/{manifest.labels[label]}".encode()
        order = np.random.default_rng([seed, zlib.crc32(name)]).permutation(len(records))
        kept += [records[position] for position in order[:limit]]
    return manifest.with_records(kept)


def _records_of_each_class(manifest: Manifest) -> dict[tuple[str, int], list[ImageRecord]]:
    """Return (split, label) -> records."""
    found: dict[tuple[str, int], list[ImageRecord]] = {}
    for record in manifest.records:
        found.setdefault((record.split, record.label), []).append(record)
    return found


def _limit_per_split(manifest: Manifest, max_per_class: int | Mapping[str, int]) -> dict[str, int]:
    """Return split -> most images of a class, of the splits that have such a limit."""
    if isinstance(max_per_class, int):
        max_per_class = dict.fromkeys(manifest.splits, max_per_class)
    limits = {}
    for word, limit in max_per_class.items():
        split = split_of(word)
        if split not in manifest.splits:
            usable = [known for known in SPLIT_WORDS if split_of(known) in manifest.splits]
            hint = ""
            if split is None:
                hint = did_you_mean(word, usable)
            raise DataError(f"max_per_class names the split {word!r}; the data has {', '.join(manifest.splits)}.{hint}")
        if limit < 1:
            raise DataError(f"max_per_class is {limit} for {split}; expected at least 1 image")
        limits[split] = limit
    return limits


def _held_out(
    records: Sequence[ImageRecord], names: Sequence[str] | None, fraction: float, seed: int, purpose: str
) -> npt.NDArray[np.bool_]:
    """Tell of each record whether it is held out, so that every class is on both sides.

    Raises:
        DataError: That cannot be done for some classes; it names them all.
    """
    labels = np.array([record.label for record in records], dtype=np.int64)
    has_groups = any(record.group is not None for record in records)
    draw = _draw_groups if has_groups else _draw_images
    held_out = draw(records, labels, fraction, seed)
    small = _one_sided(labels, held_out)
    if not small:
        return held_out

    # The message says how many images the classes have that are too small.
    has_splits = any(record.split for record in records)
    kind = "training " if has_splits else ""
    excluded = []
    found = []
    for label in small:
        name = names[label] if names else str(label)
        excluded.append(name)
        found.append(f"{name!r} has {counted(np.flatnonzero(labels == label), kind)}")
    in_groups = " in groups" if has_groups else ""
    raise DataError(
        f"too few images{in_groups} to have each class in both {purpose}: {listed(found)}. Add images, leave out such "
        f"classes with --exclude {shlex.quote(','.join(excluded))}, or make the splits yourself (folders train "
        "and test, or a table with a column split)"
    )


def _one_sided(labels: npt.NDArray[np.int64], held_out: npt.NDArray[np.bool_]) -> list[int]:
    """Return the labels that are not on both sides."""
    totals = np.bincount(labels)
    held = np.bincount(labels[held_out], minlength=len(totals))
    is_one_sided = (held == 0) | (held == totals)
    return np.flatnonzero(is_one_sided & (totals > 0)).tolist()


def _draw_images(
    records: Sequence[ImageRecord], labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Hold out a share of the images of each class, one at least and never all."""
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
    """Hold out a share of the groups, so that every class is on both sides if there is such a share."""
    groups = np.array(group_numbers(record.group for record in records))
    share = Fraction(fraction).limit_denominator(_MAX_FOLDS)
    share = min(max(share, Fraction(1, _MAX_FOLDS)), Fraction(9, 10))
    most_folds = min(max(share.denominator, 2), len(np.unique(groups)))
    held_out = np.zeros(len(records), dtype=np.bool_)
    # The share wanted first; with few groups a class may be missing from some folds, so then fewer and larger ones.
    for num_folds in range(most_folds, 1, -1):
        folds = _fold_numbers(labels, groups, num_folds, seed)
        num_held = min(max(round(share * num_folds), 1), num_folds - 1)
        for first in range(num_folds):
            held_out = (folds - first) % num_folds < num_held
            if not _one_sided(labels, held_out):
                return held_out
    return held_out


def _fold_numbers(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], num_folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return the fold of each image: stratified, groups kept together. All are in fold 0 where that cannot be done."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.zeros(len(labels), dtype=np.int64)
    with warnings.catch_warnings(), contextlib.suppress(ValueError):
        warnings.simplefilter("ignore")  # of classes smaller than the number of folds, which is dealt with above
        parts = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, fold) in enumerate(parts):
            folds[fold] = number
    return folds
