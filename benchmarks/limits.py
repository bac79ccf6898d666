"""What does the machine allow? python -m benchmarks.limits --data DIR

The engine on arrays that are ready, decoding with one thread per core, both at once as `predict` has them
(`stream`), a copy of memory, and what importing costs. Each runs in a process of its own, as often as asked for.
`python -m benchmarks.limits RUN FOLDER` measures once and prints JSON.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.timing import Contest, Side, main

PHOTOS = ("python", "-m", "benchmarks.photos", "{data}/hymenoptera", "{work}/photos", "{images}")
MODEL = ("headstart", "train", "{data}/hymenoptera", "--epochs", "1", "--out", "{work}/run")
MEASURE = ("python", "-m", "benchmarks.limits", "{work}/run", "{work}/photos/all")

CONTESTS = (
    Contest(
        "limits",
        (
            Side("limits", MEASURE),
            Side("imports", ("python", "-c", "import headstart.experiment, headstart.inference.predict")),
            Side("help", ("headstart", "--help")),
            Side("bare Python", ("python", "-c", "pass")),
        ),
        {"images": 1000},
        prepare=(PHOTOS, MODEL),
    ),
)


def engine_images_per_second(
    run: Path, views: npt.NDArray[np.uint8], *, batch_size: int = 32, seconds: float = 10.0
) -> float:
    """Time what a trained model's forward pass takes on preprocessed pictures, `uint8` (N, H, W, 3)."""
    import headstart

    classifier = headstart.load(run)
    next(classifier.classify_batches([views[:batch_size]]))  # opens the engine
    batches = [views[start : start + batch_size] for start in range(0, len(views), batch_size)]
    started = time.perf_counter()
    in_time = takewhile(lambda batch: time.perf_counter() - started < seconds, cycle(batches))
    done = sum(len(rows) for rows in classifier.classify_batches(in_time))
    return done / (time.perf_counter() - started)


def decoded(run: Path, files: list[Path], threads: int) -> tuple[float, npt.NDArray[np.uint8]]:
    """Return images/s of decoding, resizing and cropping as the model asks for, and the last views."""
    import headstart
    from headstart.data.sources import FILES, read_picture
    from headstart.preprocessing import eval_view

    spec = headstart.load(run).spec

    def view(file: Path) -> npt.NDArray[np.uint8]:
        return eval_view(read_picture(FILES, str(file), smallest=spec.smallest_side), spec)

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        views = list(pool.map(view, files))
        return len(files) / (time.perf_counter() - started), np.stack(views[-256:])


def stream_images_per_second(run: Path, files: list[Path]) -> float:
    """Time `predict` without its start: files in, predictions out."""
    import headstart
    from headstart.inference.stream import predict_stream

    classifier = headstart.load(run)
    classifier.predict(files[:32])
    started = time.perf_counter()
    done = sum(1 for _ in predict_stream(classifier, files))
    return done / (time.perf_counter() - started)


def copied_gb_per_second(threads: int, megabytes: int = 512, repeats: int = 8) -> float:
    """Time a copy of memory, split over the threads; each byte copied is read once and written once."""
    source = np.ones(megabytes * 2**20 // 8)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))  # the first touch of the target maps its pages
        started = time.perf_counter()
        for _ in range(repeats):
            list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))
        return repeats * source.nbytes / 1e9 / (time.perf_counter() - started)


def measure(run: Path, folder: Path) -> dict[str, float]:
    from headstart.data.threads import default_threads

    files, threads = sorted(folder.iterdir()), default_threads()
    decode, views = decoded(run, files, threads)
    engine = engine_images_per_second(run, views)
    figures = {"engine": engine, "decode": decode, "together": 1 / (1 / decode + 1 / engine)}
    figures |= {"stream": stream_images_per_second(run, files), "copy_gb_s": copied_gb_per_second(threads)}
    return {name: round(value, 1) for name, value in figures.items()}


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))))
    else:
        main("limits", CONTESTS, __doc__)
