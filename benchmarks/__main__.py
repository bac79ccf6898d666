"""Run all benchmarks: python -m benchmarks --data DIR

Every question writes its figures as JSON; then docs/benchmarks.md is written from them. A smoke run (--quick) writes
its page beside its figures.
"""

from importlib import import_module
from pathlib import Path

from benchmarks import page, timing


def main() -> None:
    given = timing.parser(__doc__).parse_args()
    target = given.out / "benchmarks.md" if given.quick else Path("docs/benchmarks.md")
    for question in page.QUESTIONS:
        timing.answer(question, import_module(f"benchmarks.{question}").CONTESTS, given)
        page.write(given.out, target)


if __name__ == "__main__":
    main()
