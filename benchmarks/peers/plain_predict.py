"""Classify a folder of photos the plain way: python -m benchmarks.peers.plain_predict RUN FOLDER OUT.csv

RUN is a finished Headstart run of lite0, so that both sides have one model; FOLDER holds one folder of photos. Eager
fp32, batch 32. The resize is bicubic, as the model's own preprocessing has it, so that the answers can be compared.
"""

import csv
import json
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torchvision.transforms import InterpolationMode

from benchmarks.peers import images


def main() -> None:
    run, folder, out = map(Path, sys.argv[1:4])
    labels = (run / "model" / "labels.txt").read_text(encoding="utf-8").splitlines()
    network = timm.create_model("tf_efficientnet_lite0", num_classes=len(labels)).eval()
    network.load_state_dict(load_file(run / "model" / "model.safetensors"))
    batches, rows = images.loader(folder, images.centred(InterpolationMode.BICUBIC)), []
    with torch.inference_mode():
        for inputs, _ in batches:
            rows += zip(*(part.tolist() for part in network(inputs).softmax(1).max(1)), strict=True)
    with out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "probability"])
        for (path, _), (probability, index) in zip(batches.dataset.samples, rows, strict=True):
            writer.writerow([path, labels[index], probability])
    print(json.dumps({"peer": "plain-predict", "images": len(rows)}))


if __name__ == "__main__":
    main()
