import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data.dataset import load_dataset
from headstart.data.sources import FILES, read_picture
from headstart.errors import DataError, UnreadableImageError

MakeFolder = Callable[..., Path]
SPLITS = {"train/apple": 6, "train/leaf": 6, "test/apple": 3, "test/leaf": 3}


def refused(source: Path | str, kind: type[DataError] = DataError, **settings: object) -> str:
    with pytest.raises(kind) as caught:
        load_dataset(source, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_clean_folder_is_read_and_nothing_is_written_beside_it(image_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in image_folder.rglob("*")}
    stages: dict[str, int] = {}
    manifest, report = load_dataset(image_folder, progress=lambda stage, done, _: stages.__setitem__(stage, done))
    assert report.counts == manifest.counts()
    assert report.warnings == report.leaks == report.duplicates == report.conflicts == report.unreadable == ()
    assert not report.splits_made
    assert all(len(record.sha256) == 64 for record in manifest.records)
    assert stages == {"reading headers": 54, "checking pixels": 54}
    assert {path: path.stat().st_mtime_ns for path in image_folder.rglob("*")} == before


def test_every_picture_decoded_is_handed_on(make_folder: MakeFolder) -> None:
    kept: dict[str, Image.Image] = {}
    manifest, _ = load_dataset(make_folder(SPLITS), keep=kept.__setitem__)
    assert kept.keys() == {record.key for record in manifest.records}
    assert all(np.array_equal(np.asarray(image), np.asarray(read_picture(FILES, key))) for key, image in kept.items())


def test_pictures_that_train_are_handed_on_first(make_folder: MakeFolder) -> None:
    """There may be room for a part of them only, and those that train are decoded in every epoch."""
    kept: list[str] = []
    manifest, _ = load_dataset(make_folder(SPLITS), keep=lambda key, _: kept.append(key), threads=1)
    trains = {record.key for record in manifest.of_split("train")}
    assert set(kept[: len(trains)]) == trains
    assert len(kept) == len(manifest.records)


def test_the_report_can_be_saved(make_folder: MakeFolder) -> None:
    folder = make_folder(SPLITS)
    (folder / "README.md").touch()
    (folder / "train/leaf/bad.jpg").write_text("no")
    shutil.copy(folder / "train/apple/000.jpg", folder / "train/leaf/copy.jpg")
    shutil.copy(folder / "test/apple/000.jpg", folder / "train/apple/copy.jpg")
    _, report = load_dataset(folder, skip_bad=True)
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved["ignored_files"] == {".md": 1}
    assert len(saved["unreadable"]) == len(saved["leaks"]) == len(saved["conflicts"]) == 1
    assert saved["leaks"][0]["copy_of_split"] == "test"


def test_a_folder_without_splits_is_split(make_folder: MakeFolder) -> None:
    folder = make_folder({"apple": 10, "leaf": 10})
    manifest, report = load_dataset(folder, test_fraction=0.3)
    assert report.splits_made
    assert manifest.counts() == {"train": {"apple": 7, "leaf": 7}, "test": {"apple": 3, "leaf": 3}}
    assert load_dataset(folder, test_fraction=0.3)[0] == manifest
    assert load_dataset(folder, test_fraction=0.3, split_seed=1)[0] != manifest


def test_a_train_folder_alone_is_split_and_a_test_folder_alone_is_refused(make_folder: MakeFolder) -> None:
    manifest, report = load_dataset(make_folder({"train/apple": 5, "train/leaf": 5}, "one"))
    assert report.splits_made
    assert manifest.splits == ("train", "test")
    assert "no train split" in refused(make_folder({"test/apple": 2, "test/leaf": 2}, "two"))


def test_max_per_class_is_taken_from_every_split(make_folder: MakeFolder) -> None:
    manifest, _ = load_dataset(make_folder(SPLITS), max_per_class={"train": 4, "test": 2})
    assert manifest.counts() == {"train": {"apple": 4, "leaf": 4}, "test": {"apple": 2, "leaf": 2}}


def test_the_map_may_merge_all_but_not_into_one_class(make_folder: MakeFolder) -> None:
    folder = make_folder({"apple": 4, "leaf": 4, "sky": 4})
    manifest, report = load_dataset(folder, label_map={"apple": "thing", "leaf": "thing"})
    assert manifest.labels == ("sky", "thing")
    assert report.label_map == {"apple": "thing", "leaf": "thing"}
    assert "only one class" in refused(folder, label_map=dict.fromkeys(("apple", "leaf", "sky"), "thing"))


def test_copies_of_reported_images_leave_train_also_across_formats(make_folder: MakeFolder) -> None:
    folder = make_folder(SPLITS)
    with Image.open(folder / "test/apple/000.jpg") as picture:
        picture.convert("RGB").save(folder / "train/apple/zz copy.png")
    manifest, report = load_dataset(folder)
    assert manifest.counts()["train"] == {"apple": 6, "leaf": 6}
    assert [(Path(leak.path).name, leak.copy_of_split) for leak in report.leaks] == [("zz copy.png", "test")]
    assert "dropped 1 image" in report.warnings[0]
    kept, report = load_dataset(folder, leaks="keep")
    assert kept.counts()["train"] == {"apple": 7, "leaf": 6}
    assert "kept 1 image" in report.warnings[0]
    assert "zz copy.png (train) is an exact copy of" in refused(folder, leaks="error")


def test_a_class_that_is_all_copies_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder(SPLITS)
    shutil.rmtree(folder / "train/leaf")
    shutil.copytree(folder / "test/leaf", folder / "train/leaf")
    assert "'leaf'" in (message := refused(folder))
    assert "3 images dropped as copies" in message


def test_unreadable_images_stop_the_command_or_are_listed(make_folder: MakeFolder) -> None:
    folder = make_folder(SPLITS)
    (folder / "train/apple/a.jpg").write_text("no image")
    (folder / "train/apple/b.jpg").touch()
    message = refused(folder, UnreadableImageError)
    assert f"{folder / 'train/apple/a.jpg'}: not an image" in message
    cut = folder / "train/leaf/000.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    message = refused(folder, UnreadableImageError)  # headers and bodies in one round
    assert "cannot read 3 images: " in message
    assert f"{cut}: image file is truncated" in message
    manifest, report = load_dataset(folder, skip_bad=True)
    assert manifest.counts()["train"] == {"apple": 6, "leaf": 5}
    assert [Path(image.path).name for image in report.unreadable] == ["a.jpg", "b.jpg", "000.jpg"]
    assert "left out 3 unreadable images" in report.warnings[0]


def test_a_truncated_body_alone_stops_the_command(make_folder: MakeFolder) -> None:
    folder = make_folder(SPLITS)
    cut = folder / "test/leaf/000.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    assert f"{cut}: " in refused(folder, UnreadableImageError)


def test_a_class_that_is_all_unreadable_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder({**SPLITS, "train/leaf": 1})
    (folder / "train/leaf/000.jpg").write_text("no image")
    assert "(1 unreadable image left out)" in refused(folder, skip_bad=True)


@pytest.mark.parametrize("is_evaluation", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["headers", "bodies", "copies"])
def test_a_split_that_loses_all_its_images_is_refused(
    make_folder: MakeFolder, split: str, damage: str, is_evaluation: bool
) -> None:
    """An empty split once made a run train on nothing, or report on the images that trained."""
    folder = make_folder(SPLITS)
    if damage == "copies":
        shutil.rmtree(folder / "train")
        shutil.copytree(folder / "test", folder / "train")
        message = refused(folder, single_split_ok=is_evaluation)
        assert f"no image is left in the train split of {folder} (6 images dropped as copies" in message
        return
    for file in (folder / split).glob("*/*"):
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if damage == "bodies" else b"no image")
    message = refused(folder, skip_bad=True, single_split_ok=is_evaluation)
    count = sum(number for name, number in SPLITS.items() if name.startswith(split))
    assert f"no image is left in the {split} split of {folder} ({count} unreadable images left out)" in message


@pytest.mark.parametrize(
    ("counts", "empty", "said"),
    [
        ({"apple": 3, "leaf": 3}, "sky", "class 'sky' in"),
        ({"apple": 3}, None, "only one class, 'apple'"),
        ({"train/apple": 3, "train/leaf": 3, "val/apple": 2}, None, "'leaf' in"),
        ({"train/apple": 3, "train/leaf": 3, "val/apple": 2}, "val/leaf", "no image in validation"),
        ({"apple": 3, "leaf": 1}, None, "a train and a test split: 'leaf' has 1 image. Add"),
    ],
)
def test_missing_classes_are_refused(
    make_folder: MakeFolder, counts: dict[str, int], empty: str | None, said: str
) -> None:
    folder = make_folder(counts)
    if empty:
        (folder / empty).mkdir(parents=True)
    assert said in refused(folder)


def test_ignored_files_are_named_where_they_may_explain_an_empty_class(make_folder: MakeFolder) -> None:
    folder = make_folder({"apple": 3, "leaf": 1})
    (folder / "leaf/000.jpg").rename(folder / "leaf/000")
    assert "(files without an image extension, ignored: 1)" in refused(folder)


def test_a_source_that_is_not_there_is_refused_with_a_suggestion(make_folder: MakeFolder) -> None:
    folder = make_folder(SPLITS, "hotdogs")
    assert "Did you mean 'hotdogs'?" in refused(folder.parent / "hotdgos")


def test_a_manifest_names_its_missing_files(image_folder: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted(image_folder.glob("train/*/*"))]
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows, "gone.jpg,apple"]))
    assert f"{tmp_path / 'gone.jpg'}: no such file" in refused(tmp_path / "m.csv", UnreadableImageError)
    manifest, report = load_dataset(tmp_path / "m.csv", skip_bad=True)
    assert len(manifest.records) == 36
    assert [Path(image.path).name for image in report.unreadable] == ["gone.jpg"]


def test_a_path_that_is_labelled_twice_is_a_conflict(image_folder: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name},train" for path in sorted(image_folder.glob("train/*/*"))]
    rows += [f"{path},{path.parent.name},val" for path in sorted(image_folder.glob("val/*/*"))]
    twice = image_folder / "train/apple/000.jpg"
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows, f"{twice},leaf,train"]))
    _, report = load_dataset(tmp_path / "m.csv")
    assert report.conflicts == (((str(twice), "apple"), (str(twice), "leaf")),)
    assert "different labels" in report.warnings[0]


def test_groups_of_a_manifest_stay_together(image_folder: Path, tmp_path: Path) -> None:
    paths = sorted(image_folder.glob("train/*/*"))
    rows = [f"{path},{path.parent.name},{path.parent.name}{n // 3}" for n, path in enumerate(paths)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,group", *rows]))
    manifest, _ = load_dataset(tmp_path / "m.csv", test_fraction=0.25)
    groups = [{record.group for record in manifest.of_split(split)} for split in ("train", "test")]
    assert not groups[0] & groups[1]


def test_evaluation_takes_a_folder_as_it_is(make_folder: MakeFolder) -> None:
    folder = make_folder({"apple": 3}, "one")
    (folder / "leaf").mkdir()
    manifest, report = load_dataset(folder, single_split_ok=True)
    assert manifest.counts() == {"test": {"apple": 3}}
    assert "no image of 'leaf'" in report.warnings[0]
    whole, _ = load_dataset(make_folder(SPLITS, "two"), single_split_ok=True)
    assert whole.splits == ("train", "test")
    assert "no image" in refused(make_folder({"apple": 0}, "three"), single_split_ok=True)
