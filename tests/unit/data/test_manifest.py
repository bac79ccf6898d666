import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headstart.data.manifest import Manifest, group_numbers, read_manifest, scan, write_manifest
from headstart.errors import DataError

MakeFolder = Callable[..., Path]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(manifest: Manifest) -> dict[str, list[str]]:
    return {
        f"{split}/{label}": sorted(
            Path(r.key).name for r in manifest.of_split(split) if manifest.labels[r.label] == label
        )
        for split in (manifest.splits or ("",))
        for label in manifest.labels
    }


def refused(source: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        scan(source, **settings)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_class_folders_with_splits(image_folder: Path) -> None:
    manifest, notes = scan(image_folder)
    assert manifest.name == "fruit"
    assert manifest.labels == ("apple", "leaf", "sky")
    assert manifest.counts() == {
        "train": {"apple": 12, "leaf": 12, "sky": 12},
        "validation": {"apple": 6, "leaf": 6, "sky": 6},
    }
    assert (manifest.reported, manifest.selection) == ("validation", None)
    assert all(Path(record.key).is_absolute() for record in manifest.records)
    keys = [(record.split, record.key) for record in manifest.records]
    assert keys == sorted(keys)
    assert notes.ignored == notes.warnings == []


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("Training", "train"),
        ("VAL", "validation"),
        ("valid", "validation"),
        ("Validation", "validation"),
        ("dev", "validation"),
        ("Testing", "test"),
        ("TEST", "test"),
    ],
)
def test_recognises_split_names_in_any_case(tmp_path: Path, word: str, split: str) -> None:
    other = "test" if split == "train" else "train"
    manifest, _ = scan(touch(tmp_path, f"{word}/a/1.jpg", f"{other}/a/2.jpg"))
    assert set(manifest.splits) == {split, other}


def test_with_three_splits_validation_selects_and_test_is_reported(tmp_path: Path) -> None:
    manifest, _ = scan(touch(tmp_path, "train/a/1.jpg", "dev/a/2.jpg", "test/a/3.jpg"))
    assert (manifest.splits, manifest.reported, manifest.selection) == (
        ("train", "validation", "test"),
        "test",
        "validation",
    )


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    manifest, _ = scan(touch(tmp_path, "a/1.jpg", "a/deep/er/2.PNG", "b/x/3.webp"))
    assert found(manifest) == {"/a": ["1.jpg", "2.PNG"], "/b": ["3.webp"]}


def test_hidden_files_and_litter_are_passed_over_and_other_files_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "README.md", "a/Thumbs.db", "b/LICENSE")
    touch(tmp_path, ".cache/x/9.jpg", "__MACOSX/a/._1.jpg", "a/.DS_Store", "a/._1.jpg")
    manifest, notes = scan(tmp_path)
    assert found(manifest) == {"/a": ["1.jpg"], "/b": ["2.jpg"]}
    assert sorted(path.name for path in notes.ignored) == ["LICENSE", "README.md", "Thumbs.db"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    manifest, notes = scan(touch(tmp_path, "train/1.jpg", "car/2.jpg", "bus/3.jpg"))
    assert manifest.labels == ("bus", "car", "train")
    assert notes.warnings == ["'train' beside 'bus', 'car' is read as a class"]
    assert manifest.splits == ()
    inside, _ = scan(touch(tmp_path / "in", "train/train/1.jpg", "train/car/2.jpg", "test/train/3.jpg"))
    assert found(inside)["train/train"] == ["1.jpg"]


def test_folders_beside_splits_are_ignored_with_a_warning(tmp_path: Path) -> None:
    _, notes = scan(touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "unlabelled/3.jpg"))
    assert "'unlabelled'" in notes.warnings[0]


def test_images_outside_any_class_are_ignored_with_a_warning(tmp_path: Path) -> None:
    manifest, notes = scan(touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "train/stray.jpg"))
    assert len(manifest.records) == 2
    assert notes.warnings == [f"1 image lies directly in {tmp_path / 'train'}, outside any class; left out"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["notes.txt"], "no image in"),
        (["1.jpg", "2.jpg"], "2 images and no class folder"),
        (["train/a/1.jpg", "test/2.jpg"], "test holds 1 image and no class folder"),
        (["train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg"], "2 folders are named for validation: 'val', 'valid'"),
        (["train/a/1.jpg", "val/a/notes.txt"], "no image in"),
    ],
)
def test_layouts_without_sense_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    assert said in refused(touch(tmp_path, *names))


def test_a_path_that_is_nothing_usable_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "gone")
    assert "give one of these" in refused(touch(tmp_path, "a.txt") / "a.txt")


@pytest.mark.usefixtures("not_root")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "b").chmod(0)
    try:
        assert "Permission denied" in refused(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "store/1.jpg", "data/b/2.jpg")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    manifest, notes = scan(tmp_path / "data")
    assert found(manifest) == {"/a": ["1.jpg"], "/b": ["2.jpg"]}
    assert "not followed" in notes.warnings[0]


def test_accented_names_are_one_class_however_they_are_spelt(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "café crème"), unicodedata.normalize("NFD", "café crème")
    manifest, _ = scan(touch(tmp_path, f"train/{composed}/ein Bild.jpg", f"val/{apart}/写真.jpg"))
    assert manifest.labels == (composed,)


def test_the_map_merges_classes_and_refuses_unknown_ones(image_folder: Path) -> None:
    manifest, _ = scan(image_folder, label_map={"apple": "thing", "leaf": "thing"})
    assert manifest.labels == ("sky", "thing")
    assert manifest.counts()["train"] == {"sky": 12, "thing": 24}
    assert "Did you mean 'apple'?" in refused(image_folder, label_map={"aple": "thing"})


def test_csv_manifest(tmp_path: Path) -> None:
    elsewhere = touch(tmp_path, "elsewhere/3.jpg") / "elsewhere" / "3.jpg"
    table = tmp_path / "my set.csv"
    table.write_text(
        f"Path,label,split,group,note\nimages/1.jpg,b,Train,g1,\n\n../x/2.jpg,a,val,,hm\n{elsewhere},a,train,g1,\n",
        encoding="utf-8-sig",
    )
    manifest, _ = scan(table)
    assert (manifest.name, manifest.labels, manifest.splits) == ("my set", ("a", "b"), ("train", "validation"))
    by_name = {Path(record.key).name: record for record in manifest.records}
    assert by_name["1.jpg"].key == str(tmp_path / "images" / "1.jpg")
    assert by_name["3.jpg"].key == str(elsewhere)
    assert by_name["1.jpg"].group == "g1"
    assert by_name["2.jpg"].group is None


def test_csv_with_semicolons_as_european_spreadsheets_write_it(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path;label\na,b.jpg;x\n")
    assert [Path(record.key).name for record in scan(tmp_path / "m.csv")[0].records] == ["a,b.jpg"]


def test_parquet_manifest_with_numbers_as_labels(tmp_path: Path) -> None:
    columns = {"weight": [1.0, 2.0], "label": [7, 10], "path": ["1.jpg", "2.jpg"], "group": [None, "g"]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    manifest, _ = scan(tmp_path / "m.parquet")
    assert manifest.labels == ("10", "7")
    assert [(Path(r.key).name, manifest.labels[r.label], r.group) for r in manifest.records] == [
        ("1.jpg", "7", None),
        ("2.jpg", "10", "g"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("path,label\n", "lists no image"),
        ("path,lable\n1.jpg,a\n", "no column 'label'. Its columns are: path, lable. Rename"),
        ("file,label\n1.jpg,a\n", "no column 'path'"),
        ("path,label,split\n1.jpg,a,tset\n", "line 2: unknown split 'tset'. Did you mean 'test'"),
        ("path,label,split\n1.jpg,a,train\n2.jpg,a,\n", "1 of 2 rows have no split"),
        ("path,label\n1.jpg,a\n,a\n", "line 3: path is empty"),
        ("path,label\n1.jpg,\n", "line 2: label is empty"),
        ("path,label\n1,2.jpg,a\n", "line 2: number of fields 3, expected 2"),
    ],
)
def test_malformed_csv_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    assert said in refused(tmp_path / "m.csv")


def test_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"path,label\n\xff\xfe.jpg,a\n")
    (tmp_path / "m.parquet").write_bytes(b"path,label\n")
    assert "UTF-8" in refused(tmp_path / "m.csv")
    assert "not a parquet file" in refused(tmp_path / "m.parquet")


def test_a_written_manifest_reads_back_equal_and_is_the_same_bytes(image_folder: Path, tmp_path: Path) -> None:
    manifest, _ = scan(image_folder, name="x")
    write_manifest(manifest, tmp_path / "1.parquet")
    with (tmp_path / "2.parquet").open("wb") as file:
        write_manifest(manifest, file)
    assert read_manifest(tmp_path / "1.parquet") == manifest
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    again, _ = scan(tmp_path / "1.parquet")
    assert again.records == manifest.records


def test_an_image_without_a_group_joins_none_whatever_its_name() -> None:
    assert group_numbers(["b", "3", "b", None, "", None, ""]) == [0, 1, 0, 2, 3, 4, 3]


def test_a_foreign_parquet_file_is_no_run_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["1.jpg"], "label": ["a"]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="not written by Headstart"):
        read_manifest(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="cannot read"):
        read_manifest(tmp_path / "gone.parquet")


def test_many_records_are_read_in_linear_time(tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,c{n % 100},train\n" for n in range(50_000))
    (tmp_path / "m.csv").write_text("path,label,split\n" + rows)
    manifest, _ = scan(tmp_path / "m.csv")  # seconds at most; a quadratic reader would take minutes
    assert len(manifest.records) == 50_000
    assert manifest.counts()["train"]["c7"] == 500


def test_nothing_is_written_beside_the_images(image_folder: Path) -> None:
    before = sorted(os.walk(image_folder))
    scan(image_folder)
    assert sorted(os.walk(image_folder)) == before


def write_table(file: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def test_numbers_that_are_labels_are_whole_and_missing_ones_are_refused(tmp_path: Path) -> None:
    """A column of whole numbers in which one was missing is one of floats, as pandas writes it."""
    whole = write_table(tmp_path / "m.parquet", path=["1.jpg", "2.jpg"], label=[0.0, 1.0])
    assert scan(whole)[0].labels == ("0", "1")
    missing = write_table(tmp_path / "n.parquet", path=["1.jpg", "2.jpg"], label=[0.0, float("nan")])
    with pytest.raises(DataError, match=r"n\.parquet row 2: label is empty"):
        scan(missing)


def test_several_labels_for_an_image_are_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "m.parquet", path=["1.jpg"], label=[["cat", "dog"]])
    with pytest.raises(DataError, match=r"row 1: label holds \['cat', 'dog'\]; expected one text or number"):
        scan(table)


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text("path,label,Set,width\n1.jpg,a,train,3\n2.jpg,b,test,4\n")
    notes = scan(table)[1].warnings
    assert notes == [
        f"{table} has columns that are not used: Set, width. If 'Set' says which images train and which test, rename "
        "it to split"
    ]
    table.write_text("path,label,split,fold\n1.jpg,a,train,3\n2.jpg,b,test,4\n")
    assert scan(table)[1].warnings == [f"{table} has columns that are not used: fold"]


def test_classes_that_may_be_one_are_named(tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text(
        "path,label\n" + "".join(f"{n}.jpg,{name}\n" for n, name in enumerate(["Cat", "cat", "1", "1.0", "dog"]))
    )
    manifest, listing = scan(table)
    assert len(manifest.labels) == 5
    assert listing.warnings == [
        "'1' and '1.0' are different classes; if they are one, use --map 1=1.0",
        "'Cat' and 'cat' are different classes; if they are one, use --map Cat=cat",
    ]


def test_a_class_can_be_left_out(image_folder: Path) -> None:
    manifest, listing = scan(image_folder, exclude=["leaf"])
    assert manifest.labels == ("apple", "sky")
    assert {Path(record.key).parent.name for record in manifest.records} == {"apple", "sky"}
    assert listing.warnings == ["left out as asked: 'leaf' (images: 18)"]
    merged, _ = scan(image_folder, label_map={"leaf": "sky"}, exclude=["sky"])
    assert merged.labels == ("apple",)
