"""Rows for a report, and the page as a parser sees it."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from headstart.training.schedules import lr_factor


def history(*phases: tuple[str, int], lr: float = 0.01, fit: str = "final") -> list[dict[str, Any]]:
    """Make rows of metrics.csv with the rates of `one-cycle`; a phase of no epochs is a solved head."""
    rows = []
    for number, (name, epochs) in enumerate(phases, 1):
        for epoch in range(1, epochs + 1) if epochs else (0,):
            rate = lr * lr_factor("one-cycle", 4 * epoch - 1, 4 * epochs) if epochs else None
            loss = 1 / (number + epoch)
            rows.append(
                {
                    "fit": fit, "phase": number, "phase_name": name, "epoch": epoch, "step": 4 if epochs else 0,
                    "lr": rate, "head_lr": rate, "train_loss": loss, "train_accuracy": 1 - loss / 2,
                    "val_split": "validation", "val_loss": loss + 0.1, "val_accuracy": 0.9 - loss / 2, "time_s": 0.5,
                }
            )  # fmt: skip
    return rows


class Page(HTMLParser):
    """What a page is made of: its elements with their attributes, in order, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def headings(self) -> list[int]:
        return [int(name[1]) for name, _ in self.elements if len(name) == 2 and name[0] == "h" and name[1].isdigit()]

    @property
    def section_ids(self) -> list[str]:
        return [attributes["aria-labelledby"].removeprefix("run1-") for attributes in self.all("section")]
