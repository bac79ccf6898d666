"""How much faster is training everything? python -m benchmarks.full --data DIR [--fastai-python PATH]

The ResNet-18 starts, on both sides, from one file of random weights: there only the time matters.
"""

from benchmarks.timing import Contest, Side, main

_DATA, _WEIGHTS = "{data}/hymenoptera", "{work}/resnet18.pth"
_LOOP = ("python", "-m", "benchmarks.peers.plain_loop", "full", _DATA)
_TRAIN = ("headstart", "train", _DATA, "--strategy", "full")
_FASTAI = ("fastai", "-m", "benchmarks.peers.fastai_finetune", _DATA, "{epochs}", "{seed}", "{out}")
_ENDING = ("--epochs", "{epochs}", "--seed", "{seed}", "--out", "{out}")

CONTESTS = (
    Contest(
        "`full`, ResNet-18, 5 epochs, hymenoptera",
        (
            Side("plain loop", (*_LOOP, "--network", "resnet18", "--weights", _WEIGHTS, *_ENDING)),
            Side("headstart", (*_TRAIN, "--backbone", "resnet18", "--weights", _WEIGHTS, *_ENDING)),
        ),
        {"epochs": 5},
        {"ratio": 2},
        prepare=(("python", "-m", "benchmarks.peers.networks", _WEIGHTS),),
    ),
    Contest(
        "`full`, `lite0`, 5 epochs, hymenoptera",
        (
            Side("plain loop", (*_LOOP, *_ENDING)),
            Side("headstart", (*_TRAIN, *_ENDING)),
            Side("fastai fine_tune", _FASTAI, repeats=1),
        ),
        {"epochs": 5},
        {"ratio": 1.5},
    ),
)

if __name__ == "__main__":
    main("full", CONTESTS, __doc__)
