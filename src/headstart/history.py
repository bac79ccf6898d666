"""The table of epochs of a run, `metrics.csv`."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import RunError
from headstart.files import file_error, write_atomic

_INTEGERS = ("phase", "epoch", "step")
_WORDS = ("fit", "phase_name", "val_split")


class MetricsLog:
    """The table of epochs, `metrics.csv`: written whole after each, readable after a kill at any moment.

    A row counts once its line is ended; what stands behind the last line end is ignored when reading and left out by
    the next `append`. A run may fit twice (to select an epoch, then for good); the rows say which fit they are of.
    """

    COLUMNS = (
        "fit", "phase", "phase_name", "epoch", "step", "lr", "head_lr", "train_loss", "train_accuracy",
        "val_split", "val_loss", "val_accuracy", "time_s",
    )  # fmt: skip

    def __init__(self, path: Path, *, fit: str | None = None) -> None:
        """Name the table; nothing is read or written yet.

        Args:
            path: The file, in an existing folder.
            fit: Whose rows `truncate_to` counts (`selection` or `final`); None: all rows.
        """
        self.path = Path(path)
        self.fit = fit

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row and bring it to the disk; columns left out are empty.

        Raises:
            ValueError: The row has a column that the table has not.
            RunError: It cannot be written; the table is then as it was.
        """
        if unknown := row.keys() - set(self.COLUMNS):
            raise ValueError(f"metrics.csv has no column {sorted(unknown)}")
        earlier = self._whole_lines()
        write_atomic(self.path, earlier + self._csv([row], with_header=not earlier))

    def rows(self) -> list[dict[str, Any]]:
        """Return the whole rows, with numbers as numbers and empty cells as None.

        Raises:
            RunError: The table cannot be read, or is damaged.
        """
        text = io.StringIO(self._whole_lines().decode("utf-8", "replace"), newline="")
        found = []
        try:
            for row in csv.DictReader(text):
                found.append({column: _parsed(column, cell) for column, cell in row.items()})
        except (ValueError, TypeError, AttributeError, csv.Error) as error:
            raise RunError(f"{self.path} is damaged: {error}; train again with --overwrite") from error
        return found

    def _whole_lines(self) -> bytes:
        """Return the file up to and with its last line end."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise file_error("read", self.path, error) from error
        return data[: data.rfind(b"\n") + 1]

    def truncate_to(self, num_rows: int) -> None:
        """Keep the first `num_rows` rows of this fit: a resume goes on from its checkpoint, so later rows come again.

        Raises:
            RunError: There are fewer.
        """
        kept = []
        num_kept = 0
        for row in self.rows():
            is_own = self.fit is None or row.get("fit") == self.fit
            if not is_own or num_kept < num_rows:
                kept.append(row)
                num_kept += is_own
        if num_kept < num_rows:
            raise RunError(
                f"{self.path} holds {num_kept} rows where the checkpoint comes after {num_rows}; it was changed by "
                f"hand: train again with --overwrite"
            )
        if kept or self.path.exists():
            write_atomic(self.path, self._csv(kept, with_header=True))

    def _csv(self, rows: Iterable[Mapping[str, Any]], *, with_header: bool) -> bytes:
        """Return rows as lines; None and columns left out are empty, and columns of another version are left out."""
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, self.COLUMNS, lineterminator="\n", extrasaction="ignore")
        if with_header:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue().encode("utf-8")


def _parsed(column: str, text: str) -> int | float | str | None:
    if text == "":
        return None
    if column in _WORDS:
        return text
    return int(text) if column in _INTEGERS else float(text)
