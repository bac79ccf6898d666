"""A phase's batches: kept or computed as they are needed, they are the same bits, and never those of something else."""

import copy
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from headstart.data.loading import Batch, BatchSource, ImageBatches
from headstart.data.manifest import ImageRecord
from headstart.data.sources import FILES
from headstart.display import Display
from headstart.engines import conversion
from headstart.engines.parity import TOLERANCE
from headstart.features import supply, trunk
from headstart.features.cache import FeatureCache
from headstart.features.cut import cut
from headstart.features.supply import FeatureSupply, PhaseInputs, network_input
from headstart.features.trunk import as_stored
from headstart.machine import has_bf16
from headstart.models.classifier import ClassifierNetwork
from headstart.models.libraries import LIBRARIES
from headstart.training.plan import Phase, Rule, apply_modes, resolve
from tests.helpers.fits import PixelSupply
from tests.helpers.tiny import STAGES, make_model

CPU = torch.device("cpu")
NUM_TRAIN, NUM_HELD_OUT, VIEWS = 10, 5, 3
HEAD = len(STAGES) - 1  # the boundary below the head
EPOCHS = range(VIEWS)  # every view of every image
TORCH = {"engine": "torch"}  # the quickest to open
ALL_ROWS = NUM_TRAIN * VIEWS + NUM_HELD_OUT
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")


def write_image(path: Path, low: int = 0, high: int = 256, seed: int = 0) -> Path:
    """Write noise as BMP: every byte after the header is a pixel's."""
    noise = np.random.default_rng(seed).integers(low, high, size=(13, 11, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """The training images, then the held-out ones."""
    return [write_image(tmp_path / f"{i}.bmp", seed=i) for i in range(NUM_TRAIN + NUM_HELD_OUT)]


@pytest.fixture
def model() -> ClassifierNetwork:
    return make_model()


@dataclass
class Maker(Display):
    """Makes supplies of the same images; notes what they say and how many rows they compute."""

    images: list[Path]
    folder: Path
    said: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    computed: int = 0

    def batches(self, model: ClassifierNetwork, paths: Sequence[Path], **settings: Any) -> ImageBatches:
        records = [ImageRecord(str(path), position % 3, "train") for position, path in enumerate(paths)]
        return ImageBatches(records, model.spec, source=FILES, **{"seed": 0, "threads": 1, **settings})

    def __call__(
        self,
        model: ClassifierNetwork,
        *,
        cached: bool = True,
        cache: FeatureCache | None = None,
        views: int = VIEWS,
        batch_size: int = 4,
        augment: str = "crop",
        seed: int = 0,
        threads: int = 1,
        has_held_out: bool = True,
        **settings: Any,
    ) -> FeatureSupply:
        train, held_out = self.images[:NUM_TRAIN], self.images[NUM_TRAIN:]
        shared = {"seed": seed, "threads": threads}
        return FeatureSupply(
            model,
            self.batches(model, train, batch_size=batch_size, augment=augment, shuffle=True, **shared),
            self.batches(model, held_out, batch_size=3, augment=None, shuffle=False, **shared)
            if has_held_out
            else None,
            device=CPU,
            views=views,
            cache=(cache or FeatureCache(self.folder / "features")) if cached else None,
            display=self,
            **settings,
        )

    def note(self, line: str) -> None:
        self.said.append(line)

    def detail(self, line: str) -> None:
        self.details.append(line)

    def progress(self, title: str, done: int, total: int) -> None:
        assert title == "computing features"
        assert 0 < done <= total
        self.computed += total if done == total else 0

    def rows_computed(self, model: ClassifierNetwork, *, boundary: int = HEAD, **settings: Any) -> int:
        """Prepare a phase and tell how many rows were not there before."""
        before = self.computed
        at_boundary(model, boundary)
        self(model, **settings).phase(boundary, EPOCHS)
        return self.computed - before


@pytest.fixture
def make(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "no one should write here"))
    # A disk so fast that to keep features always pays: otherwise it would depend on how busy the machine is.
    monkeypatch.setattr(supply, "_WRITE_SPEED", 1e15)
    monkeypatch.setattr(supply, "_READ_SPEED", 1e15)
    return Maker(images, tmp_path / "cache")


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which an engine may not be opened any more."""

    def forbid() -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise AssertionError("an engine is opened where all rows are there")

        monkeypatch.setattr(trunk, "open_engine", refuse)

    return forbid


def at_boundary(model: ClassifierNetwork, boundary: int) -> None:
    """Put the modules into the modes of a phase that freezes so many stages."""
    frozen = tuple(Rule(prefix, None) for stage in STAGES[:boundary] for prefix in stage.prefixes)
    phase = Phase("phase", (*frozen, Rule("*", 1.0)), lr=1e-3, epochs=1)
    resolved = resolve(phase, model.network, model.stages)
    assert resolved.boundary == boundary
    apply_modes(model.network, resolved)


def all_batches(source: BatchSource | None, epochs: Sequence[int] = EPOCHS, start: int = 0) -> list[Batch]:
    assert source is not None
    return [batch for epoch in epochs for batch in source.epoch(epoch, start=start)]


def bits(batches: Sequence[Batch]) -> list[tuple[Any, ...]]:
    """Everything in some batches, to be compared by `==`."""
    return [
        (b.pixels.dtype, tuple(b.pixels.shape), b.pixels.numpy().tobytes(), b.targets.tolist(), b.indices.tolist())
        for b in batches
    ]


def everything(inputs: PhaseInputs, epochs: Sequence[int] = EPOCHS) -> list[tuple[Any, ...]]:
    return bits([*all_batches(inputs.train, epochs), *all_batches(inputs.held_out, [0])])


def table_rows(folder: Path) -> int:
    """Count the bytes of rows on disk, as a witness beside what the supply itself tells."""
    return sum(path.stat().st_size for path in folder.glob("features/*/*/*.rows"))


def test_at_boundary_0_a_phase_gets_pixels_and_the_network(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, 0)
    feed = make(model)
    inputs = feed.phase(0, EPOCHS)
    assert inputs.module is model.network
    assert inputs.features is None
    assert inputs.train is feed.train
    batch = next(iter(inputs.train.epoch(0)))
    assert (batch.pixels.dtype, batch.pixels.shape) == (torch.uint8, (4, 3, 8, 8))
    assert not make.folder.exists()
    assert feed.seconds == 0
    assert make.said == []
    # Every epoch has views of its own there, not a few in turn.
    views = {all_batches(inputs.train, [epoch])[0].pixels.numpy().tobytes() for epoch in range(2 * VIEWS)}
    assert len(views) == 2 * VIEWS


@pytest.mark.parametrize("boundary", [1, 2, HEAD])
def test_above_it_a_phase_gets_what_the_trunk_makes_of_each_view(
    make: Maker, model: ClassifierNetwork, boundary: int
) -> None:
    at_boundary(model, boundary)
    feed = make(model, precision="32")
    inputs = feed.phase(boundary, EPOCHS)
    assert feed.seconds > 0
    parts = cut(model.network, model.stages, boundary)
    assert parts.trunk is not None
    for source, plain in (
        (inputs.train, make.batches(model, make.images[:NUM_TRAIN], batch_size=4, augment="crop", shuffle=True)),
        (inputs.held_out, make.batches(model, make.images[NUM_TRAIN:], batch_size=3, augment=None, shuffle=False)),
    ):
        expected = all_batches(plain.numbered(VIEWS))
        found = all_batches(source)
        assert (source.num_images, source.batch_size, len(source)) == (plain.num_images, plain.batch_size, len(plain))
        assert len(found) == len(expected)
        for batch, pixels in zip(found, expected, strict=True):
            assert torch.equal(batch.indices, pixels.indices)
            assert torch.equal(batch.targets, pixels.targets)
            with torch.no_grad():
                truth = parts.trunk(model.normalize(pixels.pixels))
                assert torch.allclose(batch.pixels.float(), truth, rtol=1e-3, atol=1e-4)
                model.network.eval()  # dropout draws in the order of the memory
                logits = inputs.module(network_input(model, batch.pixels))
                assert torch.allclose(logits, model.logits(pixels.pixels), rtol=1e-3, atol=1e-4)


SETTINGS: dict[str, dict[str, Any]] = {
    "any engine": {},
    "32 bits": {"precision": "32"},
    "PyTorch": {"engine": "torch"},
    "batches of one": {"batch_size": 1},
    "PyTorch, batches of seven": {"engine": "torch", "batch_size": 7},
    "one batch": {"batch_size": 64, "threads": 3},
    "mirrored": {"augment": "flip"},
    "not augmented": {"augment": "none"},
    "strongly augmented": {"augment": "strong", "seed": 5},
    "one view": {"views": 1},
    "nothing held out": {"has_held_out": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_kept_batches_are_streamed_ones_bit_for_bit(make: Maker, model: ClassifierNetwork, name: str) -> None:
    settings, epochs = SETTINGS[name], [0, 1, 1_000_003 + 7]
    for boundary in (1, HEAD) if not settings else (1 + list(SETTINGS).index(name) % HEAD,):
        at_boundary(model, boundary)
        kept = make(model, **settings).phase(boundary, epochs)
        streamed = make(model, **settings, cached=False).phase(boundary, epochs)
        assert type(kept.train) is not type(streamed.train)
        for epoch in epochs:
            expected = bits(all_batches(streamed.train, [epoch]))
            assert bits(all_batches(kept.train, [epoch])) == expected
            for start in {1, len(expected) - 1, len(expected)}:  # as after a resume
                for source in (kept.train, streamed.train):
                    assert bits(list(source.epoch(epoch, start=start))) == expected[start:]
        if kept.held_out is not None:
            assert bits(all_batches(kept.held_out)) == bits(all_batches(streamed.held_out))
    assert make.said == []
    assert not (make.folder.parent / "no one should write here").exists()


def test_every_epoch_shows_another_view_of_each_image(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, HEAD)
    inputs = make(model).phase(HEAD, range(2 * VIEWS))
    seen: dict[int, list[bytes]] = {index: [] for index in range(NUM_TRAIN)}
    for batch in all_batches(inputs.train, range(2 * VIEWS)):
        for index, row in zip(batch.indices.tolist(), batch.pixels.numpy(), strict=True):
            seen[index].append(row.tobytes())
    for rows in seen.values():
        assert rows[:VIEWS] == rows[VIEWS:]
        assert len(set(rows)) == VIEWS


@pytest.mark.parametrize("cached", [True, False])
def test_readers_may_alternate_and_stop(make: Maker, model: ClassifierNetwork, cached: bool) -> None:
    at_boundary(model, HEAD)
    inputs = make(model, cached=cached).phase(HEAD, EPOCHS)
    expected = everything(inputs, [0])
    train = inputs.train.epoch(0)
    first = next(train)
    held_out = bits(all_batches(inputs.held_out, [0]))
    assert bits([first, *train]) + held_out == expected
    next(inputs.train.epoch(1))  # and no further
    assert everything(inputs, [0]) == expected


# What a row depends on. Each changes one thing, as little as it can be changed.


def nudge(tensor: Tensor) -> None:
    """Change one number by the least there is."""
    with torch.no_grad():
        flat = tensor.view(-1)
        more = flat[0] + 1 if not tensor.is_floating_point() else torch.nextafter(flat[0], torch.tensor(torch.inf))
        flat[0] = more


def with_nudged(name: str) -> Callable[[ClassifierNetwork], ClassifierNetwork]:
    def change(model: ClassifierNetwork) -> ClassifierNetwork:
        nudge(model.network.state_dict()[name])
        return model

    return change


def with_spec(**changes: Any) -> Callable[[ClassifierNetwork], ClassifierNetwork]:
    return lambda model: replace(model, spec=replace(model.spec, **changes))


def with_slope(model: ClassifierNetwork) -> ClassifierNetwork:
    """Change what holds no number of its own in the state dict."""
    model.network.layer1[2] = nn.LeakyReLU(0.2)
    return model


OTHER_MODELS = {
    "a weight of the stem": with_nudged("conv1.weight"),
    "a weight right below": with_nudged("layer2.0.bias"),
    "a running mean": with_nudged("bn1.running_mean"),
    "a running variance": with_nudged("layer2.1.running_var"),
    "a module": with_slope,
    "epsilon": lambda model: setattr(model.network.bn1, "eps", 1.1e-5) or model,
    "resize": with_spec(resize=9),
    "resize to a shape": with_spec(resize=(8, 8)),
    "interpolation": with_spec(interpolation="nearest"),
    "mean": with_spec(mean=(0.5, 0.5, 0.5 + 1e-12)),
    "std": with_spec(std=(0.5, 0.25, 0.5)),
    "decoder": with_spec(decoder="pillow-scaled"),
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_rows_of_another_trunk_are_not_taken(make: Maker, model: ClassifierNetwork, name: str) -> None:
    assert make.rows_computed(model, **TORCH) == ALL_ROWS
    before = table_rows(make.folder)
    other = OTHER_MODELS[name](copy.deepcopy(model))
    assert make.rows_computed(other, **TORCH) == ALL_ROWS
    assert table_rows(make.folder) == 2 * before
    assert make.rows_computed(other, **TORCH) == make.rows_computed(model, **TORCH) == 0


def test_rows_of_another_version_of_the_network_are_not_taken(
    make: Maker, model: ClassifierNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make.rows_computed(model, **TORCH) == ALL_ROWS
    library = LIBRARIES[model.library]
    monkeypatch.setitem(LIBRARIES, model.library, replace(library, version=lambda: "another"))
    assert make.rows_computed(model, **TORCH) == ALL_ROWS


OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "augment": {"augment": "strong"},
    "engine": {"engine": "torch"},
    "precision": {"precision": "32"},
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_rows_made_in_another_way_are_not_taken(make: Maker, model: ClassifierNetwork, name: str) -> None:
    if name == "precision" and not has_bf16():
        pytest.skip("this processor has no bf16, so there is one precision")
    assert make.rows_computed(model) == ALL_ROWS
    assert make.rows_computed(model, **OTHER_SETTINGS[name]) == ALL_ROWS
    assert make.rows_computed(model, **OTHER_SETTINGS[name]) == make.rows_computed(model) == 0


@pytest.mark.parametrize("position", [0, NUM_TRAIN], ids=["train", "held out"])
def test_one_other_byte_in_a_file_of_the_same_size_and_time_is_another_image(
    make: Maker, model: ClassifierNetwork, position: int
) -> None:
    assert make.rows_computed(model) == ALL_ROWS
    path, untouched = make.images[position], everything(make(model).phase(HEAD, EPOCHS))
    status, content = path.stat(), bytearray(path.read_bytes())
    content[54 + 4 * 36 + 4 * 3] ^= 0x80  # a pixel inside the central crop
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)

    assert make.rows_computed(model) == (VIEWS if position == 0 else 1)
    found = everything(make(model).phase(HEAD, EPOCHS))
    assert found != untouched
    assert found == everything(make(model, cached=False).phase(HEAD, EPOCHS))
    assert len(found) == len(untouched)


def test_an_image_under_another_name_or_twice_is_the_same_image(
    make: Maker, model: ClassifierNetwork, no_engine: Callable[[], None]
) -> None:
    make.rows_computed(model)
    for path in make.images:
        path.rename(path.with_stem(f"renamed {path.stem}"))
    make.images = [path.with_stem(f"renamed {path.stem}") for path in make.images]
    make.images[1].write_bytes(make.images[0].read_bytes())
    no_engine()
    assert make.rows_computed(model) == 0


def test_copies_within_the_images_are_right_from_the_start(make: Maker, model: ClassifierNetwork) -> None:
    make.images[3].write_bytes(make.images[0].read_bytes())
    make.images[NUM_TRAIN].write_bytes(make.images[0].read_bytes())
    at_boundary(model, HEAD)
    kept, streamed = (make(model, cached=cached, **TORCH).phase(HEAD, EPOCHS) for cached in (True, False))
    assert everything(kept) == everything(streamed)


SAME_MODELS: dict[str, Callable[[ClassifierNetwork], ClassifierNetwork]] = {
    "head": with_nudged("fc.weight"),
    "another head": lambda model: setattr(model.network, "fc", nn.Linear(8, 7)) or model,
    "labels": lambda model: replace(model, labels=("x", "y", "z")),
    "gradients": lambda model: model.network.fc.weight.sum().backward() or model,
    "memory format": lambda model: model.network.to(memory_format=torch.channels_last) and model,
}
SAME_SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "seed": {"seed": 3},
    "batch size": {"batch_size": 3},
    "threads": {"threads": 4},
    "fewer views": {"views": VIEWS - 1},
}


@pytest.mark.parametrize("name", [*SAME_MODELS, *SAME_SETTINGS])
def test_what_a_row_does_not_depend_on_finds_all_rows_and_opens_no_engine(
    make: Maker, model: ClassifierNetwork, no_engine: Callable[[], None], name: str
) -> None:
    assert make.rows_computed(model, **TORCH) == ALL_ROWS
    before = table_rows(make.folder)
    no_engine()
    other = SAME_MODELS[name](copy.deepcopy(model)) if name in SAME_MODELS else model
    assert make.rows_computed(other, **TORCH, **SAME_SETTINGS.get(name, {})) == 0
    assert table_rows(make.folder) == before


def test_weights_above_a_lower_boundary_do_not_count_either(
    make: Maker, model: ClassifierNetwork, no_engine: Callable[[], None]
) -> None:
    assert make.rows_computed(model, boundary=1) == ALL_ROWS
    for name in ("layer1.0.weight", "layer1.1.running_mean", "layer2.0.weight", "fc.bias"):
        nudge(model.network.state_dict()[name])
    no_engine()
    assert make.rows_computed(model, boundary=1) == 0


def test_seeds_share_rows_and_have_orders_and_views_of_their_own(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, HEAD)
    found = {}
    for seed in range(3):
        found[seed] = make(model, seed=seed).phase(HEAD, EPOCHS)
        assert everything(found[seed]) == everything(make(model, seed=seed, cached=False).phase(HEAD, EPOCHS))
    assert make.computed == ALL_ROWS
    orders = [[i for batch in all_batches(each.train, [0]) for i in batch.indices.tolist()] for each in found.values()]
    assert len(set(map(tuple, orders))) == 3


def test_only_the_views_that_an_epoch_shows_are_computed(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, HEAD)
    make(model, **TORCH).phase(HEAD, [0])
    assert make.computed == NUM_TRAIN + NUM_HELD_OUT
    make(model, **TORCH).phase(HEAD, [0, 1])
    assert make.computed == 2 * NUM_TRAIN + NUM_HELD_OUT
    make(model, **TORCH, views=VIEWS + 2).phase(HEAD, range(VIEWS + 2))
    assert make.computed == NUM_TRAIN * (VIEWS + 2) + NUM_HELD_OUT


def test_the_boundary_moves_down_and_back(make: Maker, model: ClassifierNetwork, no_engine: Callable[[], None]) -> None:
    assert make.rows_computed(model, boundary=HEAD) == ALL_ROWS
    assert make.rows_computed(model, boundary=HEAD - 1) == ALL_ROWS
    before = table_rows(make.folder)
    no_engine()
    for boundary in (HEAD, HEAD - 1):
        assert make.rows_computed(model, boundary=boundary) == 0
    assert table_rows(make.folder) == before
    # Within one supply too, as in a run that unfreezes stage after stage.
    feed = make(model)
    found = []
    for boundary in (HEAD, HEAD - 1, HEAD):
        at_boundary(model, boundary)
        found.append(everything(feed.phase(boundary, EPOCHS)))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("cached", [True, False])
def test_all_views_are_at_hand_for_a_solver(make: Maker, model: ClassifierNetwork, cached: bool) -> None:
    at_boundary(model, HEAD)
    inputs = make(model, cached=cached).phase(HEAD, [], all_views=True)
    features = inputs.features
    assert features is not None
    assert (features.num_images, features.num_views, features.width) == (NUM_TRAIN, VIEWS, 8)
    assert features.targets.tolist() == [i % 3 for i in range(NUM_TRAIN)]
    assert features.groups == [str(i) for i in range(NUM_TRAIN)]
    assert features.keys == [str(path) for path in make.images[:NUM_TRAIN]]
    assert make.computed == ALL_ROWS
    assert make.said == []
    feed = make(model, cached=False)
    streamed = feed.phase(HEAD, EPOCHS)
    for epoch in EPOCHS:
        numbers = feed.numbered.view_numbers(epoch)
        for batch in streamed.train.epoch(epoch):
            for index, row in zip(batch.indices.tolist(), batch.pixels.float().numpy(), strict=True):
                view = features.view(int(numbers[index]), np.array([index]))
                assert view.dtype == np.float32
                assert view.tobytes() == row.tobytes()
    assert np.array_equal(features.view(1, np.array([4, 2])), features.view(1, np.arange(NUM_TRAIN))[[4, 2]])
    assert make(model, cached=cached).phase(HEAD, EPOCHS).features is None


def test_what_is_not_flat_is_nothing_for_a_solver(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, 1)
    assert make(model).phase(1, [], all_views=True).features is None


FULL: dict[str, tuple[dict[str, int], str]] = {
    "no room at all": ({"limit_bytes": 0, "memory_bytes": 0}, " MB do not fit"),
    # Their names do not fit beside the rows, which shows only when they are written.
    "room for the rows alone": ({"limit_bytes": ALL_ROWS * 8 * 4, "memory_bytes": 0}, "would pass the limit"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_cache_means_streaming_and_is_said(make: Maker, model: ClassifierNetwork, name: str) -> None:
    at_boundary(model, HEAD)
    limits, reason = FULL[name]
    cache = FeatureCache(make.folder / "features", **limits)
    inputs = make(model, cache=cache, precision="32").phase(HEAD, EPOCHS)
    assert len(make.said) == 1
    assert make.said[0].startswith("features are computed in every epoch instead of kept: ")
    assert reason in make.said[0]
    assert everything(inputs) == everything(make(model, cached=False, precision="32").phase(HEAD, EPOCHS))
    assert table_rows(make.folder) == 0
    solving = make(model, cache=cache, precision="32").phase(HEAD, [], all_views=True)
    assert solving.features is None


@pytest.mark.parametrize("kind", ["streamed", "solved"])
def test_a_slow_disk_means_streaming_but_not_for_a_solver(
    make: Maker, model: ClassifierNetwork, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A solver has no use for a stream, and whether it can run must not depend on how busy the machine is."""
    monkeypatch.setattr(supply, "_WRITE_SPEED", 1.0)  # bytes per second
    at_boundary(model, HEAD)
    if kind == "solved":
        assert make(model).phase(HEAD, [], all_views=True).features is not None
        assert make.said == []
        return
    inputs = make(model).phase(HEAD, EPOCHS)
    assert len(make.said) == 1
    assert "that would take about" in make.said[0]
    assert make.computed == table_rows(make.folder) == 0
    assert everything(inputs) == everything(make(model, cached=False).phase(HEAD, EPOCHS))
    # What is there already is used.
    monkeypatch.setattr(supply, "_WRITE_SPEED", 1e9)
    make(model).phase(HEAD, EPOCHS)
    monkeypatch.setattr(supply, "_WRITE_SPEED", 1.0)
    assert make.rows_computed(model) == 0
    assert len(make.said) == 1


@pytest.mark.parametrize("obstacle", ["a limit", "a file in the way"])
def test_what_cannot_be_written_is_held_in_memory_and_said(
    make: Maker, model: ClassifierNetwork, obstacle: str
) -> None:
    at_boundary(model, HEAD)
    if obstacle == "a file in the way":
        make.folder.write_text("no folder")
    limit_bytes = 0 if obstacle == "a limit" else 1 << 30
    cache = FeatureCache(make.folder / "features", limit_bytes=limit_bytes, memory_bytes=1 << 20)
    inputs = make(model, cache=cache).phase(HEAD, EPOCHS)
    assert len(make.said) == 1
    assert make.said[0].startswith("features are kept in memory only: ")
    assert everything(inputs) == everything(make(model, cached=False).phase(HEAD, EPOCHS))
    assert make.computed == ALL_ROWS


def test_damaged_shards_are_computed_again(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, HEAD)
    expected = everything(make(model, **TORCH).phase(HEAD, EPOCHS))
    (shard,) = make.folder.glob("features/*/*/*.rows")
    content = shard.read_bytes()
    damages = [content[:-7], content[: len(content) // 2], b"", content[:300] + b"\xff" + content[301:], content[1:]]
    for count, damaged in enumerate(damages, 2):
        assert damaged != content
        shard.write_bytes(damaged)
        assert everything(make(model, **TORCH).phase(HEAD, EPOCHS)) == expected
        assert make.computed == count * ALL_ROWS
    assert shard.read_bytes() == content


def altered(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


RECIPES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "noise": lambda text: "\x00\x7f{]",
    "a list": lambda text: "[1, 2]",
    "a number": lambda text: "7",
    "a key more": altered(more=1),
    "no keys": lambda text: "{}",
    "another shape": altered(shape=[9]),
    "no shape": altered(shape=[]),
    "a shape of words": altered(shape=["x"]),
    "a shape that is a number": altered(shape=8),
    "a shape below 0": altered(shape=[-8]),
    "a type that is none": altered(dtype="float06"),
    "another type": altered(dtype="float64"),
    "time as a word": altered(view_s="soon"),
    "another engine": altered(engine="onnx"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_damaged_recipe_is_ignored(make: Maker, model: ClassifierNetwork, name: str) -> None:
    at_boundary(model, HEAD)
    expected = everything(make(model, **TORCH).phase(HEAD, EPOCHS))
    (recipe,) = make.folder.glob("engines/*.json")
    whole = recipe.read_text()
    recipe.write_text(RECIPES[name](whole))
    assert everything(make(model, **TORCH).phase(HEAD, EPOCHS)) == expected
    assert make.computed == ALL_ROWS  # found again
    times = {"view_s": 0.0}
    assert json.loads(recipe.read_text()) | times == json.loads(whole) | times
    assert make.said == []


def test_a_recipe_that_cannot_be_read_or_written_is_done_without(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, HEAD)
    expected = everything(make(model, **TORCH).phase(HEAD, EPOCHS))
    (recipe,) = make.folder.glob("engines/*.json")
    recipe.unlink()
    recipe.mkdir()
    assert everything(make(model, **TORCH).phase(HEAD, EPOCHS)) == expected
    assert make.computed == ALL_ROWS


# How rows are kept


def with_range(model: ClassifierNetwork, factor: float) -> ClassifierNetwork:
    """A network that makes nearly nothing of grey, and of a picture with contrast large numbers."""
    state = model.network.state_dict()
    for name, tensor in state.items():
        if "running_mean" in name or (name.endswith("bias") and "fc" not in name):
            tensor.zero_()
    state["layer2.0.weight"] *= factor
    return model


def dtype_of(make: Maker, model: ClassifierNetwork, **settings: Any) -> torch.dtype:
    at_boundary(model, HEAD)
    kept, streamed = (make(model, cached=cached, **settings).phase(HEAD, EPOCHS) for cached in (True, False))
    found = everything(kept)
    assert found == everything(streamed)
    types = {batch[0] for batch in found}
    assert len(types) == 1
    return types.pop()


def test_rows_of_32_bits_are_kept_in_32_bits(make: Maker, model: ClassifierNetwork) -> None:
    assert dtype_of(make, model, precision="32") == torch.float32
    assert dtype_of(make, model, engine="torch") == torch.float32


@needs_bf16
def test_rows_of_bf16_are_kept_in_16_bits_where_they_fit(make: Maker, model: ClassifierNetwork) -> None:
    assert dtype_of(make, model) == torch.float16
    assert dtype_of(make, with_range(model, 1e7)) == torch.float32


@needs_bf16
def test_other_images_may_need_other_bits(make: Maker, model: ClassifierNetwork) -> None:
    """What the first images of one data set allow need not fit another one's; each finds its own rows again."""
    with_range(model, 1e7)
    bright = make.images
    grey = [write_image(make.folder.parent / f"grey {i}.bmp", 128, 129 + i % 2, i) for i in range(len(bright))]
    for _ in range(2):
        for paths, dtype in ((grey, torch.float16), (bright, torch.float32), (grey, torch.float16)):
            make.images = paths
            assert dtype_of(make, model) == dtype
        assert make.computed == 2 * ALL_ROWS


# The rest


class Uncuttable(nn.Module):
    """Draws random numbers in its forward code, so it has no pure part."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.layer1(self.bn1(self.conv1(inputs)))
        return self.fc(self.layer2(nn.functional.dropout(hidden, 0.1, self.training)).mean((2, 3)))


def test_a_network_that_cannot_be_cut_is_fed_with_pixels_and_that_is_said(
    make: Maker, model: ClassifierNetwork
) -> None:
    model = replace(model, network=Uncuttable(model.network))
    at_boundary(model, HEAD)
    inputs = make(model).phase(HEAD, EPOCHS)
    assert inputs.module is model.network
    assert next(iter(inputs.train.epoch(0))).pixels.dtype == torch.uint8
    assert len(make.said) == 1
    assert make.said[0].startswith("Uncuttable cannot be cut")


def test_a_refused_engine_is_said_once_a_phase(
    make: Maker, model: ClassifierNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCE, "bf16", 0.0)
    at_boundary(model, HEAD)
    inputs = make(model).phase(HEAD, EPOCHS)
    assert [line.partition(" is not used")[0] for line in make.details] == ["engine openvino bf16"] * has_bf16()
    assert next(iter(inputs.train.epoch(0))).pixels.dtype == torch.float32


def test_computing_features_leaves_the_network_and_the_generators_alone(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, 2)
    network = model.network

    def state() -> list[Any]:
        return [
            {name: tensor.clone().numpy().tobytes() for name, tensor in network.state_dict().items()},
            {name: (id(p), p.requires_grad, p.grad) for name, p in network.named_parameters()},
            {name: (id(module), module.training) for name, module in network.named_modules()},
            (torch.get_rng_state().tolist(), str(np.random.get_state())),
        ]

    before = state()
    for cached in (True, False):
        everything(make(model, cached=cached).phase(2, EPOCHS))
    assert state() == before


def test_what_trains_above_the_boundary_is_the_network_itself(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, 2)
    inputs = make(model).phase(2, EPOCHS)
    batch = next(iter(inputs.train.epoch(0)))
    inputs.module(network_input(model, batch.pixels)).sum().backward()
    trained = {name for name, p in model.network.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert all(name.startswith(("layer2", "fc")) for name in trained)


def test_network_input_normalises_pixels_and_widens_features(model: ClassifierNetwork) -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(network_input(model, pixels), model.normalize(pixels))
    features = torch.randn(2, 8).half()
    found = network_input(model, features)
    assert found.dtype == torch.float32
    assert torch.equal(found, features.float())


def test_a_pixel_supply_gives_every_phase_the_same(make: Maker, model: ClassifierNetwork) -> None:
    train = make.batches(model, make.images, batch_size=4, augment="crop", shuffle=True)
    feed = PixelSupply(model.network, train)
    for boundary in (0, HEAD):
        inputs = feed.phase(boundary, EPOCHS)
        assert (inputs.module, inputs.train, inputs.held_out, inputs.features) == (model.network, train, None, None)


def test_an_image_that_is_gone_is_named(make: Maker, model: ClassifierNetwork) -> None:
    at_boundary(model, HEAD)
    feed = make(model)
    make.images[4].unlink()
    with pytest.raises(Exception, match=r"4\.bmp"):
        feed.phase(HEAD, EPOCHS)


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def test_what_sixteen_bits_cannot_hold_becomes_the_largest_number_they_can():
    rows = np.array([[1.5, 1e6, -1e6, 65504.0]], dtype=np.float32)
    assert as_stored(rows, np.dtype(np.float16)).tolist() == [[1.5, 65504.0, -65504.0, 65504.0]]
    assert as_stored(rows, np.dtype(np.float32)).tolist() == rows.tolist()


# Which engine it is


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO refuses every network."""

    def refuse(*_: Any) -> Any:
        raise RuntimeError("it does not like it")

    monkeypatch.setattr(conversion, "convert", refuse)


@pytest.mark.usefixtures("no_openvino")
@pytest.mark.parametrize("asked", [{}, {"engine": "openvino"}, {"precision": "32"}], ids=str)
def test_a_refused_engine_is_a_note_only_where_it_was_asked_for(
    make: Maker, model: ClassifierNetwork, asked: dict[str, str]
) -> None:
    at_boundary(model, HEAD)
    feed = make(model, **asked)
    feed.phase(HEAD, EPOCHS)
    assert feed.engines == {HEAD: "torch 32"}
    assert feed.refused
    assert all(line.startswith("engine openvino") for line in feed.refused)
    assert make.said == (feed.refused if asked else [])
    assert make.details == ([] if asked else feed.refused)


def test_a_pinned_engine_is_no_answer_to_those_who_pin_none(make: Maker, model: ClassifierNetwork) -> None:
    found = {}
    for pinned in (None, "torch 32"):
        at_boundary(model, HEAD)
        other = Maker(make.images, make.folder / str(pinned))
        feed = other(model, pinned={HEAD: pinned} if pinned else None)
        feed.phase(HEAD, EPOCHS)
        found[pinned] = feed.engines[HEAD]
        feed = other(model)
        feed.phase(HEAD, EPOCHS)
        assert feed.engines[HEAD] == found[None]
    assert found["torch 32"] == "torch 32"
    assert found[None].startswith("openvino")


def test_engines_that_were_asked_for_and_that_were_found_share_their_rows(
    make: Maker, model: ClassifierNetwork, no_engine: Callable[[], None]
) -> None:
    assert make.rows_computed(model, precision="32") == ALL_ROWS
    assert make.rows_computed(model, engine="openvino", precision="32") == 0
    no_engine()
    assert make.rows_computed(model, precision="32") == 0
