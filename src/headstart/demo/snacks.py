"""`snacks`: a data set that needs no download. Pictures of hot dogs and of other foods, rendered on the spot.

Shape, pose, light, background, occlusion and the faults of a camera vary; near misses (filled rolls, sausages without a
bun, iced eclairs, corn, bananas) share the hot dog's outline, so that colour or shape alone do not tell the two classes
apart.
"""

import itertools
import math
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from headstart.demo.scene import Scene, photograph
from headstart.errors import DataError
from headstart.files import whole_folder
from headstart.types import Progress

LABELS: Final = ("hot_dog", "not_hot_dog")
SPLITS: Final = ("train", "test")


def render_snacks(
    folder: Path,
    *,
    seed: int = 0,
    train_per_class: int = 120,
    test_per_class: int = 100,
    size: int = 192,
    progress: Progress | None = None,
) -> Path:
    """Write the pictures as PNG files in `folder/{train,test}/{hot_dog,not_hot_dog}/NNNN.png`.

    The folder appears whole or not at all. With the same versions of NumPy and Pillow the same arguments give the same
    bytes, and a picture does not depend on how many others there are.

    Args:
        folder: A folder that does not exist yet, or is empty.
        seed: Another seed, other pictures.
        train_per_class: Pictures of each class to learn from.
        test_per_class: Pictures of each class to report on.
        size: Side of the square pictures, pixels.
        progress: Called with what is done, how many pictures are ready and how many there will be.

    Returns:
        The folder.

    Raises:
        DataError: The folder is occupied or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"cannot render snacks into {folder}: it exists and is not empty; name a new folder or remove it"
        )
    counts = {"train": train_per_class, "test": test_per_class}
    pictures: list[tuple[str, str, int]] = []
    for split, label in itertools.product(SPLITS, LABELS):
        pictures += [(split, label, index) for index in range(counts[split])]
    try:
        with whole_folder(folder) as whole:
            for done, (split, label, index) in enumerate(pictures, 1):
                path = whole / split / label / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_snack(split, label, index, seed=seed, size=size).save(path, compress_level=3)
                if progress is not None:
                    progress("rendering snacks", done, len(pictures))
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}; choose another folder or make room") from error
    return folder


def draw_snack(split: str, label: str, index: int, *, seed: int = 0, size: int = 192) -> Image.Image:
    """Draw one picture, a pure function of the arguments.

    Args:
        split: `train` or `test`.
        label: `hot_dog` or `not_hot_dog`.
        index: Which picture of its split and class.
        seed: The data set's seed.
        size: Side, pixels.

    Returns:
        An RGB image.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), LABELS.index(label), index])
    angle = rng.uniform(np.pi, 2 * np.pi)
    scene = Scene(rng, size, (math.cos(angle), math.sin(angle)))
    scene.set_table()
    scene.serve(label)
    scene.put_in_front()
    return photograph(rng, scene.picture)
