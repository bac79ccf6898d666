"""Run all benchmarks: python -m benchmarks --data DIR (see benchmarks/results.py for what DIR holds)."""

from benchmarks import results

if __name__ == "__main__":
    results.main()
