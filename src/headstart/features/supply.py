"""What a phase trains on: pixels, or what the frozen part of the network makes of them, computed once."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data import loading
from headstart.data.loading import BatchSource, ImageBatches
from headstart.display import Display
from headstart.engines.choose import choices
from headstart.errors import CacheFullError
from headstart.features.batches import Features, KeptBatches, StreamedBatches
from headstart.features.cache import FeatureCache
from headstart.features.cut import Cut, cut
from headstart.features.limits import readable
from headstart.features.table import FeatureTable, RowKey
from headstart.features.trunk import Trunk, as_stored
from headstart.models.classifier import ClassifierNetwork

_CHUNK = 32
_Wanted = list[tuple[ImageBatches, list[loading.Task]]]
# Bytes per second that a disk of a small machine writes and reads, for the choice between keeping and recomputing.
_WRITE_SPEED = 300e6
_READ_SPEED = 1e9


@dataclass(frozen=True, eq=False)
class PhaseInputs:
    """What a phase trains on.

    Attributes:
        module: Maps the batches' inputs to logits: the network, or its tail above the boundary.
        train: Training batches.
        held_out: Batches evaluated after every epoch, or None.
        shape: Shape of what the module takes of one image, such as (3, H, W).
        features: The training features, where they are at hand for all views.
        trunk: What computes them, or None.
    """

    module: nn.Module
    train: BatchSource
    held_out: BatchSource | None
    shape: tuple[int, ...]
    features: Features | None = None
    trunk: Trunk | None = None


@final
class FeatureSupply:
    """Feeds each phase with activations at its freeze boundary, and with pixels where everything trains.

    Activations come from the cache or, where that would not pay, are computed as they are needed. They are the same
    bits either way: which views an epoch uses does not depend on whether they are kept.

    Attributes:
        train: Training images.
        held_out: Images to evaluate, or None.
        numbered: The training images with the views that a frozen part sees.
        display: Told what goes on.
        engines: Number of frozen stages -> what computes the features above them; filled in as they are found.
        refused: Which engines were refused, and why; filled in as they are.
        seconds: Spent computing features so far.
    """

    def __init__(
        self,
        model: ClassifierNetwork,
        train: ImageBatches,
        held_out: ImageBatches | None,
        *,
        device: torch.device,
        views: int,
        cache: FeatureCache | None,
        engine: str = "auto",
        precision: str = "auto",
        pinned: Mapping[int, str] | None = None,
        display: Display | None = None,
    ) -> None:
        """Remember what to feed; nothing is computed yet.

        Args:
            model: The network, on its device.
            train: Training images, with a fresh view in every epoch.
            held_out: Images to evaluate, or None.
            device: Where the network is.
            views: Different views of each training image below a boundary; view 0 is the evaluation view.
            cache: Where rows are kept, or None: they are always computed as they are needed.
            engine: `auto`, `openvino` or `torch`.
            precision: `auto`, `32` or `bf16`, of the engine.
            pinned: Number of frozen stages -> the engine that was found before, such as `openvino 32`.
            display: Told what goes on; default: nothing is shown.

        Raises:
            ConfigError: The engine or precision is not known, or is not for this device.
        """
        self.train = train
        self.held_out = held_out
        self.numbered = train.numbered(views)
        self._model = model
        self._device = device
        self._cache = cache
        num_images = train.num_images * (self.numbered.num_views or 1)
        if held_out is not None:
            num_images += held_out.num_images
        self._candidates = choices(device, engine=engine, precision=precision, num_images=num_images)
        self.display = display or Display()
        self.refused: list[str] = []
        self._is_asked_for = engine != "auto" or precision != "auto"
        self.engines = dict(pinned or {})
        self.seconds = 0.0

    def phase(self, boundary: int, epochs: Sequence[int], *, all_views: bool = False) -> PhaseInputs:
        """Return the inputs of a phase; the network's modules are in the phase's modes.

        Args:
            boundary: Number of leading stages in which nothing trains.
            epochs: Numbers of the epochs to come.
            all_views: Whether every view of every training image is needed at once.
        """
        parts = cut(self._model.network, self._model.stages, boundary)
        if parts.note:
            self.display.note(parts.note)
        if parts.trunk is None:
            return PhaseInputs(self._model.network, self.train, self.held_out, (3, *self._model.spec.size))
        started = time.monotonic()
        try:
            return self._inputs_above(parts, epochs, all_views)
        finally:
            self.seconds += time.monotonic() - started

    def _inputs_above(self, parts: Cut, epochs: Sequence[int], all_views: bool) -> PhaseInputs:
        """Return the inputs of a phase whose frozen part is cut off: rows that are kept, or computed as needed."""
        trunk = Trunk(
            parts,
            self._model,
            self.numbered,
            self._candidates,
            self._device,
            self._cache,
            self._note_refusal,
            pinned=self.engines.get(parts.boundary),
        )
        wanted = self._wanted_views(epochs, all_views)

        # A solver goes through all features many times: they are held in memory where nothing is kept on disk.
        solves = all_views and not epochs
        cache = self._cache
        if cache is None and solves:
            cache = FeatureCache(limit_bytes=0)
        table = None
        if cache is not None:
            table = self._fill(cache, trunk, wanted, None if solves else len(epochs))

        def batches(images: ImageBatches) -> BatchSource:
            if table is None:
                return StreamedBatches(images, trunk.open(), trunk.recipe.dtype)
            return KeptBatches(images, table)

        train = batches(self.numbered)
        held_out = None if self.held_out is None else batches(self.held_out)
        self.engines[parts.boundary] = trunk.recipe.engine_name
        if table is None:
            return PhaseInputs(parts.tail, train, held_out, trunk.recipe.shape)
        is_solvable = all_views and len(table.shape) == 1
        features = Features(self.numbered, table) if is_solvable else None
        return PhaseInputs(parts.tail, train, held_out, table.shape, features, trunk)

    def _note_refusal(self, reason: str) -> None:
        """Remember that an engine was refused; people are told where they asked for one."""
        self.refused.append(reason)
        if self._is_asked_for:
            self.display.note(reason)
        else:
            self.display.detail(reason)

    def _wanted_views(self, epochs: Sequence[int], all_views: bool) -> _Wanted:
        """List which views of which images a phase needs, once each."""
        images = self.numbered
        is_needed = np.full((images.num_images, images.num_views or 1), all_views)
        for epoch in epochs:
            is_needed[np.arange(images.num_images), images.view_numbers(epoch)] = True
        tasks: list[loading.Task] = []
        for image, views in enumerate(is_needed):
            if views.any():
                tasks.append((image, tuple(np.flatnonzero(views).tolist())))

        wanted = [(images, tasks)]
        if self.held_out is not None:
            wanted.append((self.held_out, [(image, (0,)) for image in range(self.held_out.num_images)]))
        return wanted

    def _fill(self, cache: FeatureCache, trunk: Trunk, wanted: _Wanted, num_epochs: int | None) -> FeatureTable | None:
        """Compute the rows that are not in the table yet; None where keeping them is impossible or does not pay.

        Args:
            cache: Cache that holds the table.
            trunk: What computes them.
            wanted: The rows needed.
            num_epochs: How often they are needed, or None: so often that keeping them pays.
        """
        try:
            table, missing = _look_up(cache, trunk, wanted)
            if any(tasks for _, tasks in missing):
                trunk.open()  # here, because another engine may be found than before, with a table of its own
                table, missing = _look_up(cache, trunk, wanted)
            num_missing = _num_views(missing)
            num_images = sum(images.num_images for images, _ in wanted)
            row_bytes = int(np.prod(table.shape)) * table.dtype.itemsize
            # Keep them only where there is room, and where that takes less time than computing them again.
            reason = _why_not_kept(cache, num_missing * row_bytes, table.num_bytes)
            if not reason and num_epochs is not None:
                num_uses = num_images * max(num_epochs, 1)
                reason = _why_not_worth_it(num_missing, num_uses, row_bytes, trunk.recipe.view_s)
            if num_missing and reason:
                self.display.note(f"features are computed in every epoch instead of kept: {reason}")
                return None

            done = 0
            for images, tasks in missing:
                if not tasks:
                    continue
                for count in _compute_rows(trunk, images, tasks, table):
                    done += count
                    self.display.progress("computing features", done, num_missing)
            table.flush()
        except CacheFullError as error:
            self.display.note(f"features are computed in every epoch instead of kept: {error}")
            return None
        if table.note and self._cache is not None:
            self.display.note(f"features are kept in memory only: {table.note}")
        return table


def network_input(model: ClassifierNetwork, inputs: Tensor) -> Tensor:
    """Turn a batch's inputs into what a phase's module takes: pixels are normalised, features are made 32 bits wide."""
    if inputs.dtype == torch.uint8:
        return model.normalize(inputs)
    return inputs.float()


def _look_up(cache: FeatureCache, trunk: Trunk, wanted: _Wanted) -> tuple[FeatureTable, _Wanted]:
    """Return a trunk's table, and what of `wanted` is not in it."""
    table = cache.open(trunk.table_key, trunk.recipe.shape, np.dtype(trunk.recipe.dtype))
    return table, [(images, missing_views(images, tasks, table)) for images, tasks in wanted]


def _num_views(wanted: _Wanted) -> int:
    """Return how many rows are wanted."""
    count = 0
    for _, tasks in wanted:
        count += sum(len(views) for _, views in tasks)
    return count


def _why_not_kept(cache: FeatureCache, num_bytes: int, kept_bytes: int) -> str:
    if cache.room(num_bytes, kept_bytes):
        return ""
    return f"{readable(num_bytes)} do not fit (HEADSTART_CACHE and HEADSTART_CACHE_LIMIT set the place)"


def _why_not_worth_it(num_missing: int, num_uses: int, row_bytes: int, view_s: float) -> str:
    kept_s = num_missing * (view_s + row_bytes / _WRITE_SPEED) + num_uses * row_bytes / _READ_SPEED
    # What is kept also serves the next run, so it may cost a little more than it saves in this one.
    if kept_s > 1.25 * num_uses * view_s:
        return f"that would take about {kept_s:.0f} s, computing them {num_uses * view_s:.0f} s"
    return ""


def missing_views(images: ImageBatches, tasks: list[loading.Task], table: FeatureTable) -> list[loading.Task]:
    """Return what of some tasks is not in a table."""
    missing = []
    for image, views in tasks:
        is_kept = table.has([(images.digests[image], view) for view in views])
        absent = tuple(view for view, kept in zip(views, is_kept, strict=True) if not kept)
        if absent:
            missing.append((image, absent))
    return missing


def _compute_rows(trunk: Trunk, images: ImageBatches, tasks: list[loading.Task], table: FeatureTable) -> Iterator[int]:
    """Compute rows into the table; yield how many, batch by batch."""
    keys = _row_keys(images, tasks)
    for rows in trunk.open().run(images.views(tasks, _CHUNK)):
        keys_of_rows = list(islice(keys, len(rows)))
        table.append(keys_of_rows, as_stored(rows, table.dtype))
        yield len(rows)


def _row_keys(images: ImageBatches, tasks: list[loading.Task]) -> Iterator[RowKey]:
    """Name the rows of some tasks, in the order in which they are computed."""
    for image, views in tasks:
        for view in views:
            yield images.digests[image], view
