"""What a GPU does to the same commands: seconds and accuracy beside the CPU of the same machine, and what is bit-equal.

    python benchmarks/gpu.py --data DIR --out gpu.json

DIR is a folder of labelled images. Each row is one `headstart train` in a process of its own, so that the seconds hold
imports; `--tune off` leaves out what is chosen by timing, where bits are compared. It takes about five minutes.
"""

import argparse
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

ROWS: dict[str, tuple[str, ...]] = {
    "head": ("--strategy", "head", "--epochs", "5"),
    "gradual": ("--strategy", "gradual", "--epochs", "5"),
    "full": ("--strategy", "full", "--epochs", "5"),
}


def train(root: Path, name: str, data: str, *words: str, kill: bool = False) -> dict[str, Any]:
    """Run one training; return its figures, its decisions, and the hash of its weights."""
    folder = root / name
    command = [sys.executable, "-m", "headstart", "train", data, *words, "--out", str(folder)]
    environment = {**os.environ, "HEADSTART_CACHE": str(root / f"cache-{name}")}
    started = time.monotonic()
    if kill:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        history = folder / "metrics.csv"
        while process.poll() is None:
            if history.exists() and len(history.read_text().splitlines()) > 2:
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.01)
        command = [sys.executable, "-m", "headstart", "train", "--resume", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = round(time.monotonic() - started, 1)
    if done.returncode:
        return {"failed": done.stderr[-1500:]}
    metrics = json.loads((folder / "metrics.json").read_text())
    resolved = json.loads((folder / "resolved.json").read_text())
    weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    return {
        "seconds": seconds,
        "train_s": metrics["time_s"],
        "accuracy": metrics["accuracy"]["value"],
        "engine": f"{metrics['engine']} {metrics['precision']}",
        "batch_size": resolved["batch_size"],
        "steps": resolved["steps"],
        "engines": resolved["engines"],
        "peak_memory_mb": metrics["peak_memory_mb"],
        "weights": weights[:12],
        "notes": [line for line in done.stderr.splitlines() if line.startswith(("note", "steps"))],
    }


def main() -> None:
    """Run everything, and print it as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0)}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def row(name: str, *words: str, kill: bool = False) -> None:
            found[name] = train(root, name, arguments.data, *words, kill=kill)
            print(name, json.dumps(found[name]), flush=True)
            arguments.out.write_text(json.dumps(found, indent=1))

        for name, words in ROWS.items():
            for device in ("cuda", "cpu"):
                row(f"{name} {device}", *words, "--device", device)
        row("full cuda, batch size found", *ROWS["full"], "--device", "cuda", "--batch-size", "0")
        plain = (*ROWS["full"], "--device", "cuda", "--tune", "off")
        row("full cuda, once", *plain)
        row("full cuda, again", *plain)
        row("full cuda, killed and resumed", *plain, kill=True)


if __name__ == "__main__":
    main()
