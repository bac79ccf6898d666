"""One HTML page about one or several runs, made from their folders alone. Importing this package loads no torch."""

from headstart.report.page import write_report

__all__ = ["write_report"]
