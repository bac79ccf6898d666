from dataclasses import dataclass, field
from typing import BinaryIO

import pytest

from headstart.data.sources import FILES


@dataclass(frozen=True)
class WatchedFiles:
    """Files; remembers which were opened, in order."""

    opened: list[str] = field(default_factory=list)

    def open(self, key: str) -> BinaryIO:
        self.opened.append(key)
        return FILES.open(key)


@pytest.fixture
def watched() -> WatchedFiles:
    return WatchedFiles()
