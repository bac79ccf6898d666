"""Logistic regression on frozen features: python -m benchmarks.peers.sklearn_probe DATA SEED OUT.pkl

One pass over the images in eager fp32; the strength of the penalty comes from cross-validation on the training part.
"""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchvision.transforms import InterpolationMode

from benchmarks.peers import images
from benchmarks.peers.networks import lite0


def features(network: nn.Module, folder: Path) -> tuple[np.ndarray, list[int]]:
    batches = images.loader(folder, images.centred(InterpolationMode.BICUBIC))
    with torch.inference_mode():
        return np.concatenate([network(inputs).numpy() for inputs, _ in batches]), batches.dataset.targets


def main() -> None:
    data, seed, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    network = lite0().eval()
    network.reset_classifier(0)
    train, held_out = (features(network, folder) for folder in images.splits(data))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    probe = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-5, 0, 6), cv=folds, max_iter=3000))
    probe.fit(*train)
    out.write_bytes(pickle.dumps({"body": network.state_dict(), "probe": probe}))
    print(json.dumps({"peer": "sklearn-probe", "accuracy": probe.score(*held_out), "seed": seed}))


if __name__ == "__main__":
    main()
