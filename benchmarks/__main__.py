"""Run all benchmarks: python -m benchmarks --data DIR

First every question (one JSON each, then docs/benchmarks.md), then the grid of benchmarks/results.py, which says what
DIR holds. A smoke run (--quick) writes its page beside its figures and leaves the grid out.
"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks import page, timing


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--skip-results", action="store_true", help="leave the grid of benchmarks/results.py out")
    given = parser.parse_args()
    target = given.out / "benchmarks.md" if given.quick else Path("docs/benchmarks.md")
    for question in page.QUESTIONS:
        timing.answer(question, import_module(f"benchmarks.{question}").CONTESTS, given)
        page.write(given.out, target)
    if not (given.quick or given.skip_results):
        subprocess.run([sys.executable, "-m", "benchmarks.results", "--data", str(given.data)], check=True)


if __name__ == "__main__":
    main()
