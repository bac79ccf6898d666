"""What it gains to keep freed memory: python -m benchmarks.allocator [pairs]

Runs a forward pass and a training step of lite0 (batch 32, 224 px, fp32, channels-last, eager) in separate processes,
without and with `keep_freed_memory` in turn, and prints images/s and the ratios' median and range.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

BATCH, REPEATS = 32, 4


def measure(keep: bool) -> dict[str, float]:
    import torch

    from headstart.machine import keep_freed_memory
    from headstart.models.backbones import create_backbone

    if keep and not keep_freed_memory():
        raise SystemExit("this C library has no mallopt, or a MALLOC_ variable is set: nothing to compare")
    network = create_backbone("lite0").network.eval().to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def forward() -> None:
        with torch.inference_mode():
            network(images)

    def step() -> None:
        optimizer.zero_grad()
        network(images).sum().backward()
        optimizer.step()

    return {"forward": rate(forward), "step": rate(step)}


def rate(work: Callable[[], None]) -> float:
    work()
    started = time.perf_counter()
    for _ in range(REPEATS):
        work()
    return BATCH * REPEATS / (time.perf_counter() - started)


def main() -> None:
    if sys.argv[1:] in (["without"], ["with"]):
        print(json.dumps(measure(sys.argv[1] == "with")))
        return
    pairs = int(sys.argv[1]) if sys.argv[1:] else 5
    print(f"{platform.processor() or platform.machine()}, {pairs} pairs")
    ratios: dict[str, list[float]] = {"forward": [], "step": []}
    for _ in range(pairs):
        found = {}
        for way in ("without", "with"):
            command = [sys.executable, "-m", "benchmarks.allocator", way]
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for name, values in ratios.items():
            values.append(found["with"][name] / found["without"][name])
        print(
            {way: {name: round(value, 1) for name, value in rates.items()} for way, rates in found.items()}, flush=True
        )
    for name, values in ratios.items():
        print(f"{name}: median ratio {median(values):.2f}, {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
