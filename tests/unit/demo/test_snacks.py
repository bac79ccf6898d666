import numpy as np
import pytest
from PIL import Image

from headstart.demo.snacks import draw_snack, render_snacks
from headstart.errors import DataError


def test_pictures_are_the_same_bytes_by_seed(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        render_snacks(folder, seed=seed, train_per_class=2, test_per_class=1, size=48)
    names = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*.png"))
    assert len(names) == 6
    contents = [[(folder / name).read_bytes() for name in names] for folder in folders]
    assert contents[0] == contents[1]
    assert all(one != other for one, other in zip(contents[0], contents[2], strict=True))
    assert len(set(contents[0])) == 6


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path):
    render_snacks(tmp_path / "a", train_per_class=3, test_per_class=1, size=48)
    picture = Image.open(tmp_path / "a" / "train" / "hot_dog" / "0002.png")
    assert np.array_equal(np.asarray(picture), np.asarray(draw_snack("train", "hot_dog", 2, size=48)))


def test_pictures_never_go_into_an_occupied_folder(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        render_snacks(tmp_path)
