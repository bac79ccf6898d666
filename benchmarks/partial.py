"""Does `partial` beat a plain loop that trains everything? python -m benchmarks.partial --data DIR"""

from benchmarks.timing import Contest, Side, main

_DATA = "{data}/hotdog"
_LOOP = ("python", "-m", "benchmarks.peers.plain_loop", "full", _DATA)
_TRAIN = ("headstart", "train", _DATA, "--strategy", "partial", "--stages", "3")
_FASTAI = ("fastai", "-m", "benchmarks.peers.fastai_finetune", _DATA, "{epochs}", "{seed}", "{out}")
_PROBE = ("python", "-m", "benchmarks.peers.sklearn_probe", _DATA, "{seed}", "{out}")
_ENDING = ("--epochs", "{epochs}", "--seed", "{seed}", "--out", "{out}")

CONTESTS = (
    Contest(
        "`partial --stages 3` against the loop's `full`, 8 epochs, hotdog",
        (
            Side("plain loop", (*_LOOP, *_ENDING), repeats=1),
            Side("headstart", (*_TRAIN, *_ENDING)),
            Side("fastai fine_tune", _FASTAI, repeats=1),
            Side("scikit-learn probe", _PROBE, repeats=1),
        ),
        {"epochs": 8},
        {"ratio": 4, "accuracy": 0.93},
    ),
)

if __name__ == "__main__":
    main("partial", CONTESTS, __doc__)
