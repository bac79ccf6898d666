"""What does another setting of the head cost on data seen before? python -m benchmarks.second_run --data DIR"""

from benchmarks.head import HEADSTART
from benchmarks.timing import Contest, Side, main

CONTESTS = (
    Contest(
        "`head` again with `--lr 3e-3`, 5 epochs, hymenoptera, the features cached",
        (Side("first run", HEADSTART), Side("headstart", (*HEADSTART, "--lr", "3e-3"), is_warm=True)),
        {"epochs": 5},
        {"seconds": 10},
    ),
)

if __name__ == "__main__":
    main("second_run", CONTESTS, __doc__)
