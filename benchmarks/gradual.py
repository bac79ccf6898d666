"""How much faster is unfreezing in three phases than a plain loop? python -m benchmarks.gradual --data DIR"""

from benchmarks.timing import Contest, Side, main

_LOOP = ("python", "-m", "benchmarks.peers.plain_loop", "gradual", "{data}/hymenoptera", "--epochs", "{epochs}")
_TRAIN = ("headstart", "train", "{data}/hymenoptera", "--strategy", "gradual", "--epochs", "{epochs}")
_ENDING = ("--seed", "{seed}", "--out", "{out}")

CONTESTS = (
    Contest(
        "`gradual`, 3 phases of 5 epochs, hymenoptera",
        (Side("plain loop", (*_LOOP, *_ENDING)), Side("headstart", (*_TRAIN, *_ENDING))),
        {"epochs": 5},
        {"ratio": 5},
    ),
)

if __name__ == "__main__":
    main("gradual", CONTESTS, __doc__)
