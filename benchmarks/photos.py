"""Make JPEGs of 500x375 from a data set's photographs: python -m benchmarks.photos FOLDER OUT NUMBER

Each is another crop of a photo (at least three quarters of it), saved at quality 90, to OUT/all/NNNN.jpg.
"""

import random
import sys
from itertools import cycle, islice
from pathlib import Path

from PIL import Image

SIZE, QUALITY = (500, 375), 90


def crop(photo: Image.Image, rng: random.Random) -> Image.Image:
    """Cut a box of the ratio of `SIZE` at a random place and resize it."""
    scale = min(photo.width / SIZE[0], photo.height / SIZE[1]) * rng.uniform(0.75, 1)
    width, height = scale * SIZE[0], scale * SIZE[1]
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    return photo.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def main() -> None:
    folder, out, number = Path(sys.argv[1]), Path(sys.argv[2], "all"), int(sys.argv[3])
    rng = random.Random(0)
    files = sorted(folder.rglob("*.jpg"))
    out.mkdir(parents=True)
    for index, file in enumerate(islice(cycle(files), number)):
        with Image.open(file) as photo:
            crop(photo.convert("RGB"), rng).save(out / f"{index:04}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
