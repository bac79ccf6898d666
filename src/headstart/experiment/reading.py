"""Read and check the data of a run, while the rest of the program is still being imported.

Importing this module loads no torch: that takes seconds on one core, in which the others can decode.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Self

from headstart.config import Config
from headstart.data.checks import DataReport
from headstart.data.dataset import Keep, load_dataset
from headstart.data.manifest import Manifest
from headstart.data.pictures import Pictures
from headstart.data.threads import default_threads
from headstart.errors import ConfigError

DataProgress = Callable[[str, int, int], None]


def num_threads(config: Config) -> int:
    """Return how many threads decode: as set, else `default_threads`."""
    return config.threads or default_threads()


def read_data(
    config: Config, *, progress: DataProgress | None = None, keep: Keep | None = None
) -> tuple[Manifest, DataReport]:
    """Read and check the data that a config names; `keep` is given every decoded picture.

    Raises:
        ConfigError: No data is named.
        DataError: The data is not usable.
    """
    if not config.data:
        raise ConfigError(
            "no data given; name a folder of class folders, a manifest or a catalogue name such as snacks"
        )
    return load_dataset(
        config.data,
        label_map=config.map or None,
        max_per_class=config.max_per_class,
        leaks=config.leaks,
        skip_bad=config.skip_bad,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        threads=num_threads(config),
        progress=progress,
        keep=keep if config.decoder == "pillow" else None,
    )


class Reading:
    """Reads data in a thread of its own from the moment it is made; leaving its block stops it.

    Attributes:
        pictures: What was decoded, as far as it fits.
    """

    def __init__(self, config: Config, progress: DataProgress | None = None) -> None:
        self.pictures = Pictures()
        self._config, self._progress = config, progress
        self._result: Future[tuple[Manifest, DataReport]] = Future()
        self._is_over = False
        threading.Thread(target=self._read, name="headstart-read", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True

    def result(self) -> tuple[Manifest, DataReport]:
        """Wait for the data.

        Raises:
            DataError: It is not usable.
        """
        return self._result.result()

    def _read(self) -> None:
        try:
            self._result.set_result(read_data(self._config, progress=self._tell, keep=self.pictures.keep))
        except BaseException as error:
            self._result.set_exception(error)

    def _tell(self, title: str, done: int, total: int) -> None:
        if self._is_over:
            raise CancelledError
        if self._progress is not None:
            self._progress(title, done, total)
