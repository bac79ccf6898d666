"""Read and check the data of a run, while the rest of the program is still being imported.

Importing this module loads no torch: that takes seconds on one core, in which the others can decode.
"""

import threading
from concurrent.futures import CancelledError, Future
from typing import Self

from headstart.config import Config
from headstart.data.checks import DataReport
from headstart.data.dataset import Keep, load_dataset
from headstart.data.manifest import Manifest
from headstart.data.pictures import Pictures
from headstart.data.report_text import data_lines
from headstart.display import Display
from headstart.errors import ConfigError


def read_data(config: Config, display: Display, *, keep: Keep | None = None) -> tuple[Manifest, DataReport]:
    """Read and check the data that a config names.

    Args:
        config: Settings.
        display: Told how far the reading is.
        keep: Given every decoded picture, where the network takes it as it is decoded here.

    Raises:
        ConfigError: No data is named.
        DataError: The data is not usable.
    """
    if not config.data:
        raise ConfigError(
            "no data given; name a folder of class folders, a manifest or a catalogue name such as snacks"
        )
    if config.decoder != "pillow":
        keep = None
    return load_dataset(
        config.data,
        layout=config.layout,
        label_map=config.map or None,
        exclude=config.exclude,
        max_per_class=config.max_per_class,
        leaks=config.leaks,
        skip_bad=config.skip_bad,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        threads=config.threads,
        progress=display.progress,
        keep=keep,
    )


def show_report(report: DataReport, display: Display) -> None:
    """Say what a data set was understood as, what was left out of it, and what else the checks found."""
    for line in data_lines(report):
        display.say(line)
    for warning in report.warnings:
        display.note(warning)
    for image in report.unreadable:
        display.detail(f"left out {image.path}: {image.reason}")


class Reading:
    """Reads data in a thread of its own from the moment it is made, until it is stopped or left as a context.

    Attributes:
        pictures: What was decoded, as far as it fits.
    """

    def __init__(self, config: Config, display: Display) -> None:
        """Begin to read.

        Args:
            config: Settings that name the data.
            display: Told how far the reading is, and what it found.
        """
        self.pictures = Pictures()
        self._config = config
        self._shown_on = display
        self._is_shown = False
        self._display = _UntilStopped(display)
        self._result: Future[tuple[Manifest, DataReport]] = Future()
        threading.Thread(target=self._read, name="headstart-read", daemon=True).start()

    def __enter__(self) -> Self:
        """Return the reading itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the reading."""
        self.stop()

    def stop(self) -> None:
        """End the reading, if it is still going on."""
        self._display.is_over = True

    def result(self) -> tuple[Manifest, DataReport]:
        """Wait for the data, and say once what it was understood as.

        Raises:
            DataError: It is not usable.
        """
        manifest, report = self._result.result()
        if not self._is_shown:
            self._is_shown = True
            show_report(report, self._shown_on)
        return manifest, report

    def _read(self) -> None:
        """Read, in the thread, and pass on the result or the error."""
        try:
            self._result.set_result(read_data(self._config, self._display, keep=self.pictures.keep))
        except BaseException as error:
            self._result.set_exception(error)


class _UntilStopped(Display):
    """Passes progress on, and ends the reading once nobody wants its result any more."""

    def __init__(self, display: Display) -> None:
        self.is_over = False
        self._display = display

    def progress(self, title: str, done: int, total: int) -> None:
        """Show how far the reading is; raise an error that ends it, once it is stopped."""
        if self.is_over:
            raise CancelledError
        self._display.progress(title, done, total)
