import pytest

from headstart.data.manifest import ImageRecord, Manifest
from headstart.data.splits import inner_split, make_splits, subset
from headstart.errors import DataError


def manifest(*counts: int, split: str = "", group_size: int = 0) -> Manifest:
    records = [
        ImageRecord(f"/d/{label}/{n:04d}.jpg", label, split, f"{label}-{n // group_size}" if group_size else None)
        for label, count in enumerate(counts)
        for n in range(count)
    ]
    return Manifest("d", tuple("abcdef"[: len(counts)]), ()).with_records(records)


def test_split_is_stratified_and_seeded() -> None:
    whole = manifest(50, 10, 5)
    parts = make_splits(whole, 0.2, seed=0)
    assert parts.counts() == {"train": {"a": 40, "b": 8, "c": 4}, "test": {"a": 10, "b": 2, "c": 1}}
    assert parts.reported == "test"
    assert make_splits(whole, 0.2, seed=0) == parts
    assert make_splits(whole, 0.2, seed=1) != parts
    assert {r.key for r in parts.records} == {r.key for r in whole.records}


def test_every_class_is_on_both_sides_even_of_two_images() -> None:
    assert make_splits(manifest(2, 100), 0.01, seed=0).counts()["test"] == {"a": 1, "b": 1}
    assert make_splits(manifest(2, 100), 0.99, seed=0).counts()["train"] == {"a": 1, "b": 1}


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25, 0.3, 0.5])
def test_groups_stay_together(fraction: float) -> None:
    parts = make_splits(manifest(120, 60, group_size=3), fraction, seed=3)
    train = {record.group for record in parts.of_split("train")}
    test = {record.group for record in parts.of_split("test")}
    assert not train & test
    for label, total in (("a", 120), ("b", 60)):
        assert parts.counts()["test"][label] == pytest.approx(fraction * total, abs=7)


def test_images_without_a_group_part_freely_beside_groups() -> None:
    records = [ImageRecord(f"/d/{n}.jpg", n % 2, "", "" if n < 20 else None) for n in range(60)]
    parts = make_splits(Manifest("d", ("a", "b"), tuple(records)), 0.2, seed=0)
    assert len({record.split for record in parts.records if record.group == ""}) == 1
    assert 8 <= len(parts.of_split("test")) <= 24


def test_a_class_that_cannot_be_split_is_named() -> None:
    said = r"in both a train and a test split: 'b' has 1 image\. Add images, leave out .* --exclude b,"
    with pytest.raises(DataError, match=said):
        make_splits(manifest(10, 1), 0.2, seed=0)
    with pytest.raises(DataError, match=r"too few images in groups .* 'a' has 10 images"):
        make_splits(manifest(10, 10, group_size=10), 0.2, seed=0)


def test_few_groups_are_split_as_well_as_they_can_be() -> None:
    parts = make_splits(manifest(10, 10, group_size=5), 0.2, seed=0)  # two groups in a class: one of them each
    assert parts.counts() == {"train": {"a": 5, "b": 5}, "test": {"a": 5, "b": 5}}


def test_inner_split_parts_all_records() -> None:
    records = manifest(20, 10, split="train").records
    train, held_out = inner_split(records, 0.2, seed=0)
    assert [sum(r.label == label for r in held_out) for label in (0, 1)] == [4, 2]
    assert sorted([*train, *held_out], key=lambda r: r.key) == list(records)
    assert inner_split(records, 0.2, seed=0) == (train, held_out)


def test_subset_is_balanced_seeded_and_nested() -> None:
    whole = manifest(30, 12, split="train").records + manifest(9, 4, split="test").records
    both = Manifest("d", ("a", "b"), whole)
    small, larger = subset(both, 5, seed=0), subset(both, 10, seed=0)
    assert small.counts() == {"train": {"a": 5, "b": 5}, "test": {"a": 5, "b": 4}}
    assert set(small.records) < set(larger.records)
    assert subset(both, 5, seed=0) == small
    assert subset(both, 5, seed=1) != small


def test_subset_per_split_leaves_the_others_whole() -> None:
    both = Manifest("d", ("a", "b"), manifest(9, 8, split="train").records + manifest(7, 6, split="test").records)
    assert subset(both, {"training": 3}, seed=0).counts() == {"train": {"a": 3, "b": 3}, "test": {"a": 7, "b": 6}}


@pytest.mark.parametrize(
    ("limit", "said"), [({"tran": 3}, "Did you mean"), ({"val": 3}, "the data has train"), (0, "at least 1")]
)
def test_limits_without_sense_are_refused(limit: int | dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        subset(manifest(9, 8, split="train"), limit, seed=0)
