"""One HTML page about one or several runs, made from their folders alone. Importing this package loads no torch."""

from headstart.report.page import page_path, write_report
from headstart.report.reading import read_comparison, read_run

__all__ = ["page_path", "read_comparison", "read_run", "write_report"]
