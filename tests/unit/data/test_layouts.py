"""Which folders are classes and which are splits: said by the names, chosen by the setting, or refused."""

from collections import Counter
from pathlib import Path

import pytest

from headstart.data.folders import Listing, list_folder
from headstart.errors import DataError
from headstart.types import Layout


def tree(root: Path, *folders: str, files: tuple[str, ...] = ("1.jpg",)) -> Path:
    """Make folders such as `{train,test}/{a,b}`, each with the files."""
    for folder in folders:
        for path in expanded(folder):
            (root / path).mkdir(parents=True, exist_ok=True)
            for name in files:
                (root / path / name).touch()
    return root


def expanded(text: str) -> list[str]:
    """Write out `{a,b}` as a shell does."""
    before, brace, rest = text.partition("{")
    if not brace:
        return [text]
    words, _, after = rest.partition("}")
    found = []
    for word in words.split(","):
        found += expanded(before + word + after)
    return found


def counts(listing: Listing) -> dict[str, int]:
    """Return `split/class` -> number of images."""
    return dict(Counter(f"{split}/{label}" for _, label, split, _ in listing.images))


def refused(root: Path, layout: Layout = "auto") -> str:
    with pytest.raises(DataError) as caught:
        list_folder(root, layout=layout)
    message = str(caught.value).replace(str(root), "ROOT")
    assert "\n" not in message
    return message


TWO = {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train Data", "Testing Data"),
        ("training_set", "test_set"),
        ("train_data", "test_data"),
        ("trn", "tst"),
        ("train-images", "test-images"),
        ("01_train", "02_test"),
        ("TrainImages", "TestImages"),
        ("trainset", "testset"),
        ("cats.train", "cats.test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train/images", "test/images"),
        ("training", "testing/data"),
    ],
)
def test_names_that_say_so_are_splits(tmp_path: Path, train: str, test: str) -> None:
    listing = list_folder(tree(tmp_path, f"{train}/{{a,b}}", f"{test}/{{a,b}}"))
    assert counts(listing) == TWO
    assert listing.layout == "split/class"
    assert listing.splits == {"train": train.split("/")[0], "test": test.split("/")[0]}
    assert listing.warnings == []


def test_splits_within_every_class_are_splits(tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, "{a,b}/{train,test}"))
    assert counts(listing) == TWO
    assert listing.layout == "class/split"


@pytest.mark.parametrize("above", ["images", "dataset/dataset", "my dogs", "training"])
def test_the_only_folder_is_no_class(tmp_path: Path, above: str) -> None:
    listing = list_folder(tree(tmp_path, f"{above}/{{train,test}}/{{a,b}}"))
    assert counts(listing) == TWO
    assert listing.warnings == [
        f"read from {tmp_path / above}, the only folder in {tmp_path} that holds images in folders"
    ]


def test_the_only_folder_is_a_class_where_a_model_knows_it(tmp_path: Path) -> None:
    tree(tmp_path, "ants/{2024,2025}")
    assert counts(list_folder(tmp_path)) == {"/2024": 1, "/2025": 1}
    assert counts(list_folder(tmp_path, known=("ants", "bees"))) == {"/ants": 2}
    assert counts(list_folder(tmp_path, layout="class")) == {"/ants": 2}


# Folders -> the layouts that the message offers, and what it says first.
UNCLEAR = {
    "other names": (("{labeled,unlabeled}/{a,b}",), ["part/class", "class"], "'labeled', 'unlabeled' hold folders"),
    "beside a class": (("{a,b}/{x,y}", "c"), ["part/class", "class"], "'a', 'b' hold folders of the same names"),
    "sites": (("{north,south}/{a,b}",), ["part/class", "class"], "'north', 'south' hold folders of the same names"),
    "without labels": (("labeled/{a,b}", "unlabeled"), ["part/class", "class"], "'labeled', 'unlabeled' may be a part"),
    "test beside classes": (("{a,b,test}",), ["class"], "'test' beside 'a', 'b' may be a class, or a split"),
    "train beside another": (("train/{a,b}", "holdout"), ["split/class", "class"], "'train' may be a split or a class"),
    "train beside more": (("{train,more}/{a,b}",), ["split/class", "class", "part/class"], "'train' may be a split"),
    "class in the name": (("{train_a,train_b,test_a}",), ["class"], "'test_a', 'train_a', 'train_b' may"),
    "other classes": (("x_train/{a,b}", "y_test/{a,b}"), ["split/class", "class"], "'x_train', 'y_test' may be splits"),
    "one class has splits": (("a/{train,test}", "b"), ["class/split", "class"], "'test', 'train' in 'a' may be splits"),
    "a copy within": (("{a,b}", "all/{a,b}"), ["class"], "'all' holds 'a', 'b', which also lie beside it"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_can_be_read_in_two_ways_is_refused_with_the_flag_that_chooses(tmp_path: Path, name: str) -> None:
    folders, layouts, said = UNCLEAR[name]
    message = refused(tree(tmp_path, *folders))
    assert message.startswith(f"the layout of ROOT is not clear: {said}")
    offered = [part.split()[0] for part in message.split("--layout ")[1:]]
    assert offered == layouts
    for layout in offered:
        assert list_folder(tmp_path, layout=layout).layout == layout  # type: ignore[arg-type]


def test_a_split_without_labels_is_refused_or_left_out(tmp_path: Path) -> None:
    tree(tmp_path, "train/{a,b}", "test")
    message = refused(tmp_path)
    assert message.startswith("ROOT/test holds 1 image and no class folder, so the class of each is not known.")
    assert "--layout split/class leaves them out" in message
    assert "headstart predict" in message
    listing = list_folder(tmp_path, layout="split/class")
    assert counts(listing) == {"train/a": 1, "train/b": 1}
    assert "left out. headstart predict classifies images without labels" in listing.warnings[0]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("class", {"/train": 2, "/val": 2, "/x": 1}),
        ("split/class", {"train/a": 1, "train/b": 1, "validation/a": 1, "validation/b": 1}),
        ("part/class", {"/a": 2, "/b": 2}),
    ],
)
def test_the_setting_decides(tmp_path: Path, layout: Layout, expected: dict[str, int]) -> None:
    listing = list_folder(tree(tmp_path, "{train,val}/{a,b}", "x"), layout=layout)
    assert counts(listing) == expected
    assert listing.layout == layout


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("split/class", "no folder in ROOT is named for a split and holds class folders"),
        ("class/split", "no folder in ROOT holds folders that are named for splits"),
        ("part/class", "no folder in ROOT holds class folders"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path: Path, layout: Layout, said: str) -> None:
    message = refused(tree(tmp_path, "{a,b}"), layout)
    assert said in message
    assert message.endswith("there are 'a', 'b'")


def test_what_only_resembles_a_split_is_a_class(tmp_path: Path) -> None:
    names = ["test tube", "petri dish", "trainer", "development"]
    for name in names:
        tree(tmp_path, name)
    listing = list_folder(tmp_path)
    assert listing.classes == set(names)
    assert listing.warnings == []


@pytest.mark.parametrize("folders", [("{a,b}/images",), ("a/{2024,2025}", "b/{2025,2026}"), ("a/train", "b/train")])
def test_folders_within_classes_belong_to_them(tmp_path: Path, folders: tuple[str, ...]) -> None:
    listing = list_folder(tree(tmp_path, *folders))
    assert listing.classes == {"a", "b"}
    assert listing.layout == "class"


def test_what_lies_outside_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "{train,test}/{a,b}", "more/{a,b}", "train", ".")
    listing = list_folder(tmp_path)
    assert counts(listing) == TWO
    assert listing.warnings == [
        f"1 image lies directly in {tmp_path / 'train'}, outside any class; left out",
        f"'more' beside the splits in {tmp_path}: left out",
        f"1 image lies directly in {tmp_path}, outside any class; left out",
    ]
