"""How fast is `predict` on 3,000 JPEGs, and how close to the machine's limit? python -m benchmarks.predict --data DIR

Both sides have one model. `python -m benchmarks.predict A.csv B.csv` prints how often two tables name the same class.
"""

import csv
import json
import sys
from pathlib import Path

from benchmarks.limits import MEASURE, MODEL, PHOTOS
from benchmarks.timing import Contest, Side, main

_PLAIN = ("python", "-m", "benchmarks.peers.plain_predict", "{work}/run", "{work}/photos", "{work}/plain-{seed}.csv")
_OWN = ("headstart", "predict", "{work}/run", "{work}/photos/all", "--format", "csv", "--out", "{work}/own-{seed}.csv")
_AGREE = ("python", "-m", "benchmarks.predict", "{work}/plain-{seed}.csv", "{work}/own-{seed}.csv")

CONTESTS = (
    Contest(
        "`predict`, 3,000 JPEGs of 500x375",
        (Side("plain loop", _PLAIN), Side("headstart", _OWN), Side("limits", MEASURE), Side("agreement", _AGREE)),
        {"images": 3000},
        {"ratio": 6, "share": 0.9},
        prepare=(PHOTOS, MODEL),
    ),
)


def labels(table: str) -> dict[str, str]:
    with Path(table).open(newline="", encoding="utf-8") as stream:
        return {Path(row["path"]).name: row["label"] for row in csv.DictReader(stream)}


def agreement(first: dict[str, str], second: dict[str, str]) -> float:
    if first.keys() != second.keys():
        raise SystemExit("the tables do not name the same images")
    return sum(first[name] == second[name] for name in first) / len(first)


if __name__ == "__main__":
    if len(sys.argv) == 3 and not sys.argv[1].startswith("-"):
        print(json.dumps({"agreement": round(agreement(labels(sys.argv[1]), labels(sys.argv[2])), 5)}))
    else:
        main("predict", CONTESTS, __doc__)
