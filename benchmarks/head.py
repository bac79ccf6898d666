"""How much faster is `head` than the tutorial's loop, and is it as accurate? python -m benchmarks.head --data DIR"""

from benchmarks.timing import Contest, Side, main

_LOOP = ("python", "-m", "benchmarks.peers.plain_loop", "head", "{data}/hymenoptera", "--epochs", "{epochs}")
PLAIN = (*_LOOP, "--seed", "{seed}", "--out", "{out}")
PROBE = ("python", "-m", "benchmarks.peers.sklearn_probe", "{data}/hymenoptera", "{seed}", "{out}")
_TRAIN = ("headstart", "train", "{data}/hymenoptera", "--strategy", "head", "--epochs", "{epochs}")
HEADSTART = (*_TRAIN, "--seed", "{seed}", "--out", "{out}")

CONTESTS = (
    Contest(
        "`head`, 5 epochs, hymenoptera",
        (Side("plain loop", PLAIN), Side("headstart", HEADSTART), Side("scikit-learn probe", PROBE)),
        {"epochs": 5},
        {"ratio": 8, "no_lower": True},
    ),
    Contest(
        "`head`, 30 epochs, hymenoptera",
        (Side("plain loop", PLAIN, repeats=1), Side("headstart", HEADSTART)),
        {"epochs": 30},
        {"ratio": 30},
    ),
)

if __name__ == "__main__":
    main("head", CONTESTS, __doc__)
