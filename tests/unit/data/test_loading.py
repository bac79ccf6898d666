import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.data.loading import Batch, ImageBatches
from headstart.data.manifest import ImageRecord, scan
from headstart.data.sources import FILES, read_picture
from headstart.errors import UnreadableImageError
from headstart.preprocessing import eval_view
from headstart.types import InputSpec

SPEC = InputSpec(size=(32, 32), resize=36)


@pytest.fixture(scope="module")
def records(image_folder: Path) -> tuple[ImageRecord, ...]:
    return scan(image_folder)[0].of_split("train")


def batches(records: tuple[ImageRecord, ...], **settings: object) -> ImageBatches:
    defaults = {"source": FILES, "batch_size": 8, "augment": "strong", "shuffle": True, "seed": 3, "threads": 2}
    return ImageBatches(records, SPEC, **{**defaults, **settings})  # type: ignore[arg-type]


def bits(found: list[Batch]) -> list[tuple[bytes, list[int], list[int]]]:
    return [
        (batch.pixels.contiguous().numpy().tobytes(), batch.targets.tolist(), batch.indices.tolist()) for batch in found
    ]


def decoders() -> int:
    return sum(thread.name.startswith("headstart-decode") for thread in threading.enumerate())


def test_batches_are_what_the_contract_says(records: tuple[ImageRecord, ...]) -> None:
    source = batches(records, augment=None, shuffle=False)
    found = list(source.epoch(0))
    assert (source.num_images, source.batch_size, len(source), len(found)) == (36, 8, 5, 5)
    assert [batch.indices.tolist() for batch in found][-1] == [32, 33, 34, 35]
    first = found[0]
    assert first.pixels.shape == (8, 3, 32, 32)
    assert first.pixels.dtype == torch.uint8
    assert first.pixels.is_contiguous(memory_format=torch.channels_last)
    assert first.targets.dtype == first.indices.dtype == torch.int64
    for batch in found:
        for row, index in enumerate(batch.indices.tolist()):
            assert int(batch.targets[row]) == records[index].label
            expected = eval_view(read_picture(FILES, records[index].key), SPEC)
            assert np.array_equal(batch.pixels[row].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("augment", [None, "crop", "strong"])
def test_the_number_of_threads_changes_no_bit(records: tuple[ImageRecord, ...], augment: str | None) -> None:
    assert bits(list(batches(records, augment=augment, threads=1).epoch(4))) == bits(
        list(batches(records, augment=augment, threads=4).epoch(4))
    )


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 9])
def test_start_skips_exactly_so_many_batches(records: tuple[ImageRecord, ...], start: int) -> None:
    source = batches(records)
    assert bits(list(source.epoch(2, start=start))) == bits(list(source.epoch(2))[start:])


def test_epochs_and_seeds_differ_and_repeat(records: tuple[ImageRecord, ...]) -> None:
    def run(seed: int, epoch: int) -> list[tuple[bytes, list[int], list[int]]]:
        return bits(list(batches(records, seed=seed).epoch(epoch)))

    assert run(0, 0) == run(0, 0)
    assert run(0, 0) != run(0, 1)
    assert run(0, 0) != run(1, 0)
    assert sorted(index for batch in run(0, 1) for index in batch[2]) == list(range(36))


def test_a_view_depends_on_the_image_and_the_epoch_and_not_on_the_batch(records: tuple[ImageRecord, ...]) -> None:
    def views(batch_size: int, epoch: int) -> dict[int, bytes]:
        source = batches(records, augment="crop", batch_size=batch_size, shuffle=batch_size > 5)
        return {
            int(index): pixels.contiguous().numpy().tobytes()
            for batch in source.epoch(epoch)
            for index, pixels in zip(batch.indices, batch.pixels, strict=True)
        }

    assert views(5, 0) == views(36, 0)
    assert views(5, 0) != views(5, 1)


@pytest.mark.parametrize("views", [None, 3])
def test_a_view_depends_on_the_content_of_the_file_and_not_on_its_name_or_place(
    records: tuple[ImageRecord, ...], tmp_path: Path, views: int | None
) -> None:
    def view(chosen: list[ImageRecord]) -> bytes:
        source = batches(tuple(chosen), augment="crop", shuffle=False, views=views, batch_size=len(chosen))
        return next(iter(source.epoch(1))).pixels[-1].contiguous().numpy().tobytes()

    copied = tmp_path / "copy.jpg"
    copied.write_bytes(Path(records[0].key).read_bytes())
    assert view([records[0]]) == view([ImageRecord(str(copied), 0, "train")])
    if views is None:  # which of its views an image starts with depends on its place
        assert view([records[0]]) == view([records[1], ImageRecord(str(copied), 2, "train")])


def test_stopping_early_leaves_no_thread(records: tuple[ImageRecord, ...]) -> None:
    epoch = batches(records, threads=4).epoch(0)
    next(epoch)
    assert decoders() > 0
    epoch.close()  # type: ignore[attr-defined]
    assert decoders() == 0
    list(batches(records).epoch(0))
    assert decoders() == 0


class AtOnce(ThreadPoolExecutor):
    """Does what it is given before it returns, as threads would that are faster than whoever takes the results."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments, **named))
        return future


def test_only_a_few_batches_are_decoded_ahead(
    records: tuple[ImageRecord, ...], watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.data.threads.ThreadPoolExecutor", AtOnce)
    source = batches(records * 10, source=watched, batch_size=4, threads=2)
    watched.opened.clear()  # the files were hashed
    epoch = source.epoch(0)
    next(epoch)
    assert 4 <= len(watched.opened) <= 4 * 4
    epoch.close()  # type: ignore[attr-defined]


def test_an_unreadable_file_is_named_and_ends_the_epoch(records: tuple[ImageRecord, ...], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(records[0].key).read_bytes()[:300])
    source = batches((*records[:10], ImageRecord(str(broken), 0, "train")), shuffle=False)
    with pytest.raises(UnreadableImageError, match=r"broken\.jpg"):
        list(source.epoch(0))
    assert decoders() == 0


def test_an_image_without_a_group_joins_none_whatever_its_name(records: tuple[ImageRecord, ...]) -> None:
    groups = batches((*records[:7], replace(records[7], group="3"), replace(records[8], group="3"))).groups
    assert len(set(groups)) == 8
    assert groups[7] == groups[8]


def test_no_records_make_no_batches() -> None:
    source = batches(())
    assert len(source) == 0
    assert list(source.epoch(0)) == []


def test_order_and_views_are_drawn_from_streams_of_their_own(records: tuple[ImageRecord, ...]) -> None:
    """The numbers of views once came from the stream that the order of epoch 2 is drawn from."""
    source = batches(records, augment="crop", views=3, seed=3)
    for epoch in range(4):
        stream = np.random.Generator(np.random.Philox(key=[3, epoch]))
        assert not np.array_equal(source.view_numbers(0), stream.integers(3, size=source.num_images))
