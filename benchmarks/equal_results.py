"""Show that a change of the code changes no result: twelve tiny runs, of which every figure is compared.

    python benchmarks/equal_results.py --out before.json                     # on the code before the change
    python benchmarks/equal_results.py --out after.json --against before.json

The runs cover the strategies, data with and without groups, selection, a scored run, a resume after a kill, a table of
one's own, and weights of an earlier run. Of each, `model.safetensors`, the predictions, the table of epochs and
metrics.json (seconds and memory aside) are compared. Everything runs as commands, so that any version can be measured:
the code is the one that `python -m headstart` finds. It takes about three minutes on two cores.
"""

import argparse
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
COLOURS = {"apple": (200, 40, 40), "leaf": (50, 160, 60), "sky": (70, 110, 220)}
NOT_COMPARED = ("time_s", "peak_memory_mb")
# Nothing is chosen by timing, so that a busy machine decides nothing.
COMMON = ("--tune", "off", "--image-size", str(SIDE), "--epochs", "2", "--batch-size", "8", "--threads", "2")

TABLE = """
name: mine
phases:
  - {name: top, epochs: 1, lr: 5e-3, rules: {classifier: 1, "*": null}}
  - name: more
    epochs: 2
    lr: 3e-4
    batch_norm: batch
    rules: {classifier: 10, "blocks.6": 1, conv_head: 1, "*": null}
  - {name: all, epochs: 1, lr: 1e-4, penalty: {alpha: 0.1, beta: 0.01}, rules: {"*": 1}}
"""

RUNS: dict[str, tuple[str, ...]] = {
    "head": ("folder", "--strategy", "head"),
    "full-selected-groups": ("groups.csv", "--strategy", "full", "--best-epoch", "--optimizer", "adam"),
    "partial-mixed": (
        "folder", "--strategy", "partial", "--stages", "2", "--mixup", "0.2", "--cutmix", "0.5", "--ema", "0.9",
        "--accumulate", "2", "--clip-norm", "1",
    ),
    "gradual-sgd": (
        "folder", "--strategy", "gradual", "--optimizer", "sgd", "--schedule", "step", "--batch-norm", "batch",
        "--phase-epochs", "1,1,2",
    ),
    "lp-ft-scored-groups": ("groups.csv", "--strategy", "lp-ft", "--selection-score", "--schedule", "cosine"),
    "scratch": ("folder", "--strategy", "scratch", "--backbone", "simple-cnn", "--augment", "strong"),
    "lora-scored": ("no-splits", "--strategy", "lora", "--selection-score", "--lora-rank", "2"),
    "adapter-patience": (
        "no-splits", "--strategy", "adapter", "--patience", "1", "--no-refit", "--select-by", "accuracy", "--seed", "3",
    ),
    "own-table": ("folder", "--strategy", "mine.yaml", "--loss-reduction", "sum", "--no-cache"),
    "source-rows": (
        "folder", "--strategy", "layerwise", "--match", "apple=948,leaf=rest,sky=none", "--label-smoothing", "0.1",
    ),
    "killed-norm": ("groups.csv", "--strategy", "norm", "--best-epoch", "--epochs", "6", "--views", "1"),
    "from-a-run": (
        "folder", "--strategy", "l2-sp", "--weights", "runs/head", "--select-on", "reported", "--best-epoch",
    ),
}  # fmt: skip


def draw_data(root: Path) -> None:
    """Write one set as a folder with splits, as a folder without, and as a table with groups and without splits."""
    rng = np.random.default_rng(0)
    rows = [("path", "label", "group")]
    for label, colour in COLOURS.items():
        for number in range(18):
            noise = rng.integers(60, 196, size=(70 + number, 90, 3), dtype=np.uint8)
            picture = Image.fromarray(noise)
            left, top = (int(value) for value in rng.integers(0, 40, size=2))
            shade = tuple(int(np.clip(value + rng.integers(-90, 91), 0, 255)) for value in colour)
            ImageDraw.Draw(picture).ellipse((left, top, left + 40, top + 40), fill=shade)
            split = "train" if number < 12 else "test"
            with_split = root / "folder" / split / label / f"{number:02d}.png"
            without = root / "no-splits" / label / f"{number:02d}.jpg"
            for path in (with_split, without):
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            rows.append((str(without.relative_to(root)), label, f"{label}{number // 3}"))
    with (root / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (root / "mine.yaml").write_text(TABLE)


def train(name: str, words: tuple[str, ...], root: Path) -> Path:
    """Run one of the trainings; the one that is killed is killed at its third checkpoint and resumed."""
    folder = Path("runs") / name
    start = [sys.executable, "-m", "headstart", "train"]
    command = [*start, *words[:1], *COMMON, *words[1:], "--out", str(folder)]
    environment = {**os.environ, "HEADSTART_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    if name.startswith("killed"):
        process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
        history = root / folder / "metrics.csv"
        while process.poll() is None:
            if history.exists() and len(history.read_text().splitlines()) > 3:
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.01)
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"{name} ended before it could be killed (exit code {process.returncode})")
        command = [*start, "--resume", str(folder)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return root / folder


def results(folder: Path) -> dict[str, Any]:
    """Return what must not change of a run."""
    import pyarrow.parquet

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    with (folder / "metrics.csv").open(newline="") as file:
        history = [{key: value for key, value in row.items() if key != "time_s"} for row in csv.DictReader(file)]
    predictions = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pydict()
    predictions["path"] = [Path(path).name for path in predictions["path"]]  # the folder is another one each time
    return {
        "weights": digest((folder / "model" / "model.safetensors").read_bytes()),
        "predictions": digest(json.dumps(predictions).encode()),
        "history": digest(json.dumps(history).encode()),
        "plan": digest((folder / "plan.json").read_bytes()),
        "metrics": _timeless(json.loads((folder / "metrics.json").read_text())),
    }


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in NOT_COMPARED}
    return value


def main() -> None:
    """Run everything, write the results, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    parser.add_argument("--against", type=Path, help="results of other code to compare with")
    parser.add_argument("--only", nargs="*", help="names of runs, of those that stand alone")
    arguments = parser.parse_args()
    chosen = {name: words for name, words in RUNS.items() if not arguments.only or name in arguments.only}
    found = {}
    with tempfile.TemporaryDirectory(prefix="equal-results-") as folder:
        root = Path(folder)
        draw_data(root)
        for name, words in chosen.items():
            started = time.monotonic()
            found[name] = results(train(name, words, root))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    arguments.out.write_text(json.dumps(found, indent=1))
    if arguments.against is None:
        return
    before, num_different = json.loads(arguments.against.read_text()), 0
    for name, result in found.items():
        different = [key for key in result if result[key] != before[name].get(key)]
        num_different += bool(different)
        print(f"{name}: {'differs in ' + ', '.join(different) if different else 'equal'}")
    raise SystemExit(1 if num_different else 0)


if __name__ == "__main__":
    main()
