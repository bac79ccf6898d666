"""What steps take, and that batches in pieces and blocks that are computed again train as the whole does."""

import gc
import os
import platform
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from headstart.training.memory import MemoryLimit, StepMemory, fit_memory, measure_step, memory_limit
from headstart.training.plan import Phase, Rule
from headstart.training.recompute import blocks, recomputed, uses_batch_statistics
from headstart.types import StepChoice
from tests.helpers.fits import assert_equal, run, state
from tests.helpers.tiny import TinyBlock, TinyNet, make_model

CPU = torch.device("cpu")
MB = 10**6


def model_with_blocks():
    model = make_model()
    torch.manual_seed(1)
    model.network.layer1 = nn.Sequential(TinyBlock(6), nn.Conv2d(6, 8, 1), nn.ModuleList([TinyBlock(8)])[0])
    return model


def phase(batch_norm: str) -> Phase:
    return Phase("all", (Rule("fc", 10.0), Rule("*", 1.0)), 0.01, 2, batch_norm)


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.4, "accumulate": 2}, {"loss_reduction": "sum"}], ids=str)
def test_a_batch_in_pieces_trains_as_the_whole(batches, held_out, tmp_path, settings):
    seen = []
    for piece_size in (0, 3):
        model = make_model()
        model.network.layer1[3].p = 0.0  # each piece draws its own masks
        step = StepChoice(piece_size=piece_size)
        _, rows = run(model, [phase("fixed")], batches, tmp_path / str(piece_size), held_out, step=step, **settings)
        seen.append((state(model), rows))
    (whole, rows), (pieces, piece_rows) = seen
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(pieces[name], tensor) for name, tensor in whole.items())  # they did run in pieces
    for row, other in zip(rows, piece_rows, strict=True):
        assert other["train_accuracy"] == row["train_accuracy"]
        assert other["val_loss"] == pytest.approx(row["val_loss"], rel=1e-4)


@pytest.mark.parametrize("batch_norm", ["batch", "fixed"])
def test_blocks_that_are_computed_again_train_to_the_same_bits(batches, tmp_path, batch_norm):
    seen = []
    for recomputes in (False, True):
        model = model_with_blocks()
        counted = []
        model.network.layer1[0].conv.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        step = StepChoice(recomputes=recomputes)
        run(model, [phase(batch_norm)], batches, tmp_path / str(recomputes), step=step)
        seen.append((state(model), len(counted)))
    (whole, num_passes), (again, num_passes_again) = seen
    assert_equal(whole, again)  # running statistics and counts of batches among them
    assert whole["layer1.0.bn.num_batches_tracked"] == (10 if batch_norm == "batch" else 0)
    assert num_passes_again - 1 == 2 * (num_passes - 1)  # one was what measured the memory


def test_blocks_are_left_as_they_were():
    network = model_with_blocks().network
    before = [dict(vars(part)) for part in network.modules()]
    with pytest.raises(RuntimeError), recomputed(blocks(network)):
        network(torch.zeros(2, 5, 8, 8))
    assert [dict(vars(part)) for part in network.modules()] == before


def test_a_block_is_the_largest_part_with_code_of_its_own():
    network = model_with_blocks().network
    assert blocks(network) == (network.layer1[0], network.layer1[2])
    twice = nn.Sequential(nn.Sequential(network.layer1[0]), network.layer1[0])
    assert blocks(twice) == (network.layer1[0],)
    assert blocks(TinyNet()) == ()  # sequences of layers: computing all of one again at once saves nothing


def test_what_a_step_keeps_is_counted():
    network = nn.Sequential(nn.Linear(1000, 2000), nn.ReLU(), nn.Linear(2000, 10))
    found = measure_step(network, (1000,), StepChoice(), CPU)
    inputs, hidden = 4 * 1000, 4 * 2000  # ReLU and the second layer share one tensor
    assert found.whole == pytest.approx(inputs + hidden + 2 * hidden, rel=0.02)  # and the gradients of the largest
    assert found.needs_whole_batch is False
    network[0].requires_grad_(False)
    assert measure_step(network, (1000,), StepChoice(), CPU).whole == pytest.approx(3 * hidden, rel=0.02)


def test_what_is_measured_is_not_changed(model):
    model.network.train()
    before = state(model), torch.get_rng_state()
    found = measure_step(model.network, (3, 8, 8), StepChoice(), CPU)
    assert found.needs_whole_batch
    assert_equal(before[0], state(model))
    assert torch.equal(before[1], torch.get_rng_state())


def test_nothing_stays_of_what_was_measured(model):
    made = []
    model.network.conv1.register_forward_hook(lambda module, inputs, output: made.append(weakref.ref(output)))
    measure_step(model.network, (3, 8, 8), StepChoice(), CPU)
    gc.collect()
    assert made
    assert [reference() for reference in made] == [None] * len(made)


BLOCKS = StepMemory(100 * MB, 20 * MB, needs_whole_batch=True)
SUM = replace(BLOCKS, needs_whole_batch=False)


@pytest.mark.parametrize(
    ("memory", "batch_size", "expected"),
    [
        (BLOCKS, 33, StepChoice()),  # with what the C library holds beyond
        (BLOCKS, 34, StepChoice(recomputes=True)),
        (BLOCKS, 4000, StepChoice(recomputes=True)),  # the least that can be done
        (SUM, 10, StepChoice()),
        (SUM, 11, StepChoice(piece_size=6)),  # pieces of one size
        (SUM, 128, StepChoice(piece_size=10)),
        (replace(SUM, whole=5000 * MB), 8, StepChoice(piece_size=1)),
    ],
)
def test_a_batch_is_made_to_fit(memory, batch_size, expected):
    limit = MemoryLimit(CPU, whole=4000 * MB, piece=1000 * MB)
    assert fit_memory(StepChoice(), memory, batch_size, limit) == expected
    kept = fit_memory(StepChoice(False, "bf16"), memory, batch_size, limit)
    assert kept == replace(expected, channels_last=False, precision="bf16")


def test_pieces_keep_to_the_limit_also_where_larger_ones_would_be_fast():
    limit = MemoryLimit(CPU, whole=1000 * MB, piece=1000 * MB)
    step = fit_memory(StepChoice(), SUM, 40, limit)
    assert step == StepChoice(piece_size=8)  # with what the C library holds beyond
    assert SUM.bytes_of(step, 40, CPU) <= limit.whole


@pytest.mark.parametrize(
    ("device", "library", "expected"),
    [
        ("cpu", ("glibc", "2.36"), 2000 * MB),
        ("cpu", ("glibc", "2.41"), 960 * MB),
        ("cpu", ("", ""), 2000 * MB),  # not known
        ("cuda", ("glibc", "2.36"), 960 * MB),
    ],
)
def test_blocks_computed_again_scatter_the_memory_of_older_c_libraries(device, library, expected, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    assert BLOCKS.bytes_of(StepChoice(recomputes=True), 40, torch.device(device)) == expected


def test_the_limit_is_what_was_asked_for_without_the_process_and_the_weights(monkeypatch):
    monkeypatch.setattr("headstart.training.memory.total_memory_bytes", lambda: 16 * 10**9)
    network = nn.Linear(10**6, 25)  # 100 MB, four times with gradients and moments
    limit = memory_limit(CPU, network, None)
    assert limit == MemoryLimit(CPU, pytest.approx(6100 * MB, rel=0.01), 3000 * MB)
    assert memory_limit(CPU, network, 2.0).piece == pytest.approx(100 * MB, rel=0.01)
    assert memory_limit(CPU, network, 0.1) == MemoryLimit(CPU, 0, 0)


def test_dropout_and_layer_norm_need_no_whole_batch():
    assert not uses_batch_statistics(nn.Sequential(nn.LayerNorm(3), nn.Dropout(0.5)).train())
    assert not uses_batch_statistics(TinyNet().eval())
    assert uses_batch_statistics(TinyNet().train())


MEASURED = """
import torch
from torch import nn
from headstart.machine import PeakMemory, resident_bytes
from headstart.training.memory import measure_step
from headstart.training.recompute import blocks, recomputed
from headstart.types import StepChoice
from tests.helpers.tiny import TinyBlock
parts = [TinyBlock(16) for _ in range(6)]
network = nn.Sequential(nn.Conv2d(3, 16, 1), *parts, nn.Flatten(), nn.Linear(16 * 64 * 64, 2))
network.to(memory_format=torch.channels_last)
found = measure_step(network, (3, 64, 64), StepChoice(), torch.device("cpu"))
network(torch.zeros(2, 3, 64, 64)).sum().backward()  # loads what PyTorch loads with its first step
for parts, expected in (((), found.whole), (blocks(network), found.recomputed)):
    network.zero_grad(set_to_none=True)
    images = torch.zeros(32, 3, 64, 64).to(memory_format=torch.channels_last)
    peak, held = PeakMemory(), resident_bytes()
    with recomputed(parts):
        loss = network(images).sum()
    loss.backward()
    print(32 * expected / 2**20, (peak.megabytes() or 0) - held / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_what_was_counted_is_what_a_step_takes():
    # Each tensor mapped on its own, so that what the C library holds beyond what is used does not count.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, env=environment)
    lines = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    (whole, whole_peak), (again, again_peak) = lines
    if not whole_peak or not again_peak:
        pytest.skip("this system cannot set its mark of memory back")
    assert whole > 2 * again
    assert whole_peak == pytest.approx(whole, rel=0.1, abs=10)
    assert again_peak == pytest.approx(again, rel=0.1, abs=10)
