"""fastai's `fine_tune`: python -m benchmarks.peers.fastai_finetune DATA EPOCHS SEED OUT.pkl

One epoch with the body frozen, then EPOCHS - 1 with all of it, at fastai's own defaults. It needs an interpreter that
has fastai besides what the other peers need.
"""

import json
import sys
from pathlib import Path

import fastai
from fastai.vision import all as vision

from benchmarks.peers import images
from benchmarks.peers.networks import lite0


def main() -> None:
    data, epochs, seed, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    vision.set_seed(seed)
    train, held_out = images.splits(data)
    batches = vision.ImageDataLoaders.from_folder(
        data,
        train=train.name,
        valid=held_out.name,
        item_tfms=vision.Resize(256),
        batch_tfms=[*vision.aug_transforms(size=224), vision.Normalize.from_stats([0.5] * 3, [0.5] * 3)],
        bs=images.BATCH,
        num_workers=images.WORKERS,
    )
    # Without weights of its own, which it would download; the body then gets those that all peers start from.
    learner = vision.vision_learner(
        batches, "tf_efficientnet_lite0", pretrained=False, normalize=False, metrics=vision.accuracy
    )
    body = {name: value for name, value in lite0().state_dict().items() if not name.startswith("classifier.")}
    learner.model[0].model.load_state_dict(body)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(max(1, epochs - 1))
    learner.export(out.resolve())
    found = float(learner.recorder.values[-1][-1])
    print(json.dumps({"peer": "fastai-fine_tune", "accuracy": found, "seed": seed, "fastai": fastai.__version__}))


if __name__ == "__main__":
    main()
