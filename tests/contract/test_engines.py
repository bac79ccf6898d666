"""An engine is used only where it computes what PyTorch does, and a row has the same bits in whatever company it is."""

import copy
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.engines import conversion, torch_engine
from headstart.engines.choose import Choice, choices, open_engine
from headstart.engines.conversion import convert
from headstart.engines.engine import NUM_SAMPLES, Engine
from headstart.engines.openvino_engine import OpenVINOEngine
from headstart.engines.parity import disagreement
from headstart.engines.torch_engine import TorchEngine, fold_batch_norms
from headstart.errors import EngineError
from headstart.features.cut import cut
from headstart.machine import has_bf16
from headstart.models.classifier import ClassifierNetwork
from headstart.preprocessing import Pixels
from headstart.types import InputSpec
from tests.helpers.networks import FAMILIES, NETWORKS, SIDE, build
from tests.helpers.processes import Forked
from tests.helpers.tiny import TinyNet, make_model

CPU = torch.device("cpu")
OPENVINO, TORCH = Choice("openvino", "32"), Choice("torch", "32")
HALF = Choice("openvino", "bf16")
SPEC = InputSpec((8, 8), 8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # each channel has its own
Rows = npt.NDArray[np.floating]

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def make_pixels(num_images: int, side: int = 8, seed: int = 0) -> Pixels:
    """Noise on a ramp, brighter in red than in blue, as no channel of a picture is like another."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(60, 120, side)[:, None, None] + np.array([60, 20, -40])
    noise = rng.normal(0, 40, (num_images, side, side, 3)) + rng.normal(0, 20, (num_images, 1, 1, 3))
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


def eager(module: nn.Module, spec: InputSpec, pixels: Pixels) -> Rows:
    """What PyTorch computes, written down once more."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.no_grad():
        return module((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()


def run(engine: Engine, pixels: Pixels, sizes: Sequence[int]) -> Rows:
    """Run pixels in batches of these sizes."""
    stops = np.cumsum(sizes).tolist()
    assert stops[-1] == len(pixels)
    batches = [pixels[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]
    results = list(engine.run(batches))
    assert [len(rows) for rows in results] == list(sizes)
    return np.concatenate(results)


def assert_equal_bits(engine: Engine, pixels: Pixels) -> None:
    """An image's row does not depend on the others, their order, their number, or what the batch is filled up with."""
    num_images = len(pixels)
    expected = run(engine, pixels, [num_images])
    assert expected.dtype == np.float32
    order = np.random.default_rng(1).permutation(num_images)
    assert np.array_equal(run(engine, pixels[order], [1, 7, 8, 3, num_images - 19]), expected[order])
    backward = pixels[::-1]  # no copy: an array whose strides are negative
    assert np.array_equal(run(engine, backward, [num_images - 9, 9]), expected[::-1])
    some = [0, num_images // 2, num_images - 1]
    assert np.array_equal(run(engine, pixels[some], [1, 1, 1]), expected[some])
    repeated = np.concatenate([pixels[:1].repeat(5, axis=0), 255 - pixels[:2]])
    assert np.array_equal(run(engine, repeated, [7])[:5], expected[:1].repeat(5, axis=0))


def make(choice: Choice, module: nn.Module, spec: InputSpec = SPEC, device: torch.device = CPU) -> Engine:
    """Make the engine that `open_engine` would, however near it comes."""
    if choice.name == "openvino":
        return OpenVINOEngine(convert(module, spec), choice.precision)
    return TorchEngine(module, spec, choice.precision, device, batch=NUM_SAMPLES)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest) -> ClassifierNetwork:
    model = build(request.param)
    model.network.eval()
    return model


@pytest.fixture(scope="module")
def parts(model: ClassifierNetwork) -> dict[str, nn.Module]:
    """The whole network, and a trunk of it, not a long one: compiling is what takes the time here."""
    result = cut(model.network, model.stages, max(1, len(model.stages) // 3))
    assert result.trunk is not None
    return {"network": model.network, "trunk": result.trunk}


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return make_pixels(37, SIDE)


Compiled = dict[tuple[str, Choice], tuple[Engine, Rows, list[str]]]


@pytest.fixture(scope="module")
def compiled(model: ClassifierNetwork, parts: dict[str, nn.Module], pixels: Pixels) -> Compiled:
    """Every part in every engine of 32 bits, with its results on the samples and what was said."""
    found: Compiled = {}
    for part, module in parts.items():
        for choice in (OPENVINO, TORCH):
            said: list[str] = []
            samples, has_head = pixels[:NUM_SAMPLES], part == "network"
            engine, expected, rows = open_engine(
                module, model.spec, samples, (choice,), device=CPU, has_head=has_head, say=said.append
            )
            truth = eager(module, model.spec, samples)
            assert disagreement(expected, truth, "32", has_head=has_head) == ""
            assert disagreement(rows, truth, "32", has_head=has_head) == ""
            found[part, choice] = engine, rows, said
    return found


def test_engines_of_32_bits_agree_with_eager_pytorch(compiled: Compiled) -> None:
    for (_, choice), (engine, _, said) in compiled.items():
        assert said == []
        assert (engine.name, engine.precision) == (choice.name, choice.precision)


def test_a_row_has_equal_bits_whatever_its_batch(compiled: Compiled, pixels: Pixels) -> None:
    for engine, rows, _ in compiled.values():
        assert_equal_bits(engine, pixels)
        assert np.array_equal(run(engine, pixels, [37])[:NUM_SAMPLES], rows)


@pytest.mark.parametrize("choice", [OPENVINO, TORCH], ids=str)
def test_a_batch_of_nothing_has_no_rows(compiled: Compiled, pixels: Pixels, choice: Choice) -> None:
    engine, rows, _ = compiled["network", choice]
    nothing = pixels[:0]
    for batches in (
        [nothing, pixels[:2]],
        [pixels[:NUM_SAMPLES], nothing],
        [pixels[:3], nothing, pixels[3:5], nothing],
    ):
        found = list(engine.run(batches))
        assert [len(each) for each in found] == [len(batch) for batch in batches]
        assert all(each.shape[1:] == rows.shape[1:] for each in found)
        joined = np.concatenate(found)
        assert np.array_equal(joined, rows[: len(joined)])


@needs_bf16
def test_in_bf16_too_a_row_has_equal_bits_whatever_its_batch(
    model: ClassifierNetwork, parts: dict[str, nn.Module], pixels: Pixels
) -> None:
    # Whether it is near enough to be used is another matter: these weights are random.
    engine = make(HALF, parts["trunk"], model.spec)
    assert_equal_bits(engine, pixels)
    truth = eager(parts["trunk"], model.spec, pixels)
    assert 0 < np.linalg.norm(run(engine, pixels, [37]) - truth) < 0.1 * np.linalg.norm(truth)


def test_folding_batch_norms_changes_nothing_but_the_speed(
    model: ClassifierNetwork, parts: dict[str, nn.Module], pixels: Pixels
) -> None:
    before = state_of(model.network)
    for module in parts.values():
        folded = fold_batch_norms(module)
        truth = eager(module, model.spec, pixels)
        assert np.linalg.norm(eager(folded, model.spec, pixels) - truth) <= 1e-5 * np.linalg.norm(truth)
        assert {id(p) for p in folded.parameters()}.isdisjoint(id(p) for p in module.parameters())
        before_folding, after_folding = (
            sum(isinstance(m, _BatchNorm) for m in each.modules()) for each in (module, folded)
        )
        assert after_folding < before_folding or before_folding == 0
    assert state_of(model.network) == before


def state_of(network: nn.Module) -> dict[str, Any]:
    """Everything that compiling a network may not change."""
    tensors = (*network.named_parameters(), *network.named_buffers())
    return {
        "bits": {name: (id(t), t.data_ptr(), t.stride(), t.detach().clone().numpy().tobytes()) for name, t in tensors},
        "requires_grad": {name: parameter.requires_grad for name, parameter in network.named_parameters()},
        "gradients": {name: p.grad if p.grad is None else p.grad.tolist() for name, p in network.named_parameters()},
        "training": {name: module.training for name, module in network.named_modules()},
        "modules": {name: id(module) for name, module in network.named_modules()},
        "hooks": {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in network.named_modules()},
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "random": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        "gradients are on": torch.is_grad_enabled(),
    }


class Inconvertible(nn.Module):
    """A network with a step that OpenVINO does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(torch.linalg.eigvalsh(inputs[:, :, :3, :3]).sum(1))


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("name", ["torchvision/vit_b_16", "inconvertible"])
def test_compiling_leaves_no_trace(name: str, fast_path: bool) -> None:
    network = Inconvertible() if name == "inconvertible" else build(name).network
    spec = replace(SPEC, size=(SIDE, SIDE))
    network.eval()
    first, *_, last = network.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    list(network.modules())[-1].training = True  # a linear layer: its mode changes nothing
    before_fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        before = state_of(network)
        said: list[str] = []
        for choice in choices(CPU):
            open_engine(network, spec, make_pixels(4, SIDE), (choice,), device=CPU, has_head=True, say=said.append)
        assert state_of(network) == before
        assert any("openvino 32" in line for line in said) == (name == "inconvertible")
    finally:
        torch.backends.mha.set_fastpath_enabled(before_fast_path)


def test_networks_are_converted_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention's short cut is switched off for the whole process: a second conversion put back what the first set."""
    is_inside = threading.Lock()
    from_trace = conversion._from_trace
    num_overlapping = 0

    def slowly_from_trace(module: nn.Module, example: Tensor) -> Any:
        nonlocal num_overlapping
        if not is_inside.acquire(blocking=False):
            num_overlapping += 1
            return from_trace(module, example)
        try:
            time.sleep(0.1)
            return from_trace(module, example)
        finally:
            is_inside.release()

    monkeypatch.setattr(conversion, "_from_trace", slowly_from_trace)
    before = torch.backends.mha.get_fastpath_enabled()
    networks = [make_model(seed).network.eval() for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda network: convert(network, SPEC), networks))
    assert num_overlapping == 0
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize(
    "name",
    [each if each == "torchvision/vit_b_16" else pytest.param(each, marks=pytest.mark.soak) for each in NETWORKS],
)
def test_without_traces_networks_are_converted_to_equal_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    network, pixels = model.network.eval(), make_pixels(3, SIDE)
    traced = make(OPENVINO, network, model.spec)
    monkeypatch.delattr(torch.jit, "trace")
    before = state_of(network)
    exported = make(OPENVINO, network, model.spec)
    assert state_of(network) == before
    assert np.array_equal(run(exported, pixels, [3]), run(traced, pixels, [3]))


# What follows needs no particular network.


@pytest.fixture
def network() -> TinyNet:
    """With variances as small as they are in pretrained networks, where the epsilon shows."""
    network = make_model().network
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(1e-3, 3e-3)
    return network.eval()


def opened(
    module: nn.Module, candidates: Sequence[Choice], *, has_head: bool = True, spec: InputSpec = SPEC
) -> tuple[Engine, list[str]]:
    said: list[str] = []
    samples = make_pixels(NUM_SAMPLES)
    engine, expected, found = open_engine(
        module, spec, samples, tuple(candidates), device=CPU, has_head=has_head, say=said.append
    )
    assert disagreement(expected, eager(module, spec, samples), "32", has_head=False) == ""
    assert disagreement(found, expected, engine.precision, has_head=has_head) == ""
    assert np.array_equal(run(engine, samples, [len(samples)]), found)
    return engine, said


class Changed(nn.Module):
    """A network whose images or results are changed."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda images: images,
        after: Callable[[Tensor], Tensor] = lambda results: results,
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.network(self.before(images)))


def with_epsilon(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    return network


# What a compiled copy may get wrong, as functions of the module and the spec that it is made from.
FAULTS: dict[str, Callable[[nn.Module, InputSpec], tuple[nn.Module, InputSpec]]] = {
    "BGR": lambda module, spec: (Changed(module, before=lambda images: images.flip(1)).eval(), spec),
    "channels of the mean": lambda module, spec: (module, replace(spec, mean=spec.mean[::-1])),
    "channels of the std": lambda module, spec: (module, replace(spec, std=(0.2, 0.25, 0.3))),
    "epsilon": lambda module, spec: (with_epsilon(module), spec),
    "a shape": lambda module, spec: (Changed(module, after=lambda rows: rows[:, :2]).eval(), spec),
    "not a number": lambda module, spec: (Changed(module, after=lambda rows: torch.log(-rows.abs())).eval(), spec),
    "one number": lambda module, spec: (
        Changed(module, after=lambda rows: torch.where(rows == rows.max(), torch.nan, rows)).eval(),
        spec,
    ),
}


@pytest.fixture(params=FAULTS)
def faulty_openvino(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO compiles, for real, a copy with a fault."""

    monkeypatch.setattr(conversion, "convert", lambda module, spec: convert(*FAULTS[request.param](module, spec)))


@pytest.mark.usefixtures("faulty_openvino")
def test_a_wrong_copy_is_refused_and_the_next_engine_is_taken(network: nn.Module) -> None:
    candidates = choices(CPU)
    engine, said = opened(network, candidates)
    assert isinstance(engine, TorchEngine)
    assert engine._module is not network  # the folded one
    refused = [choice for choice in candidates if choice.name == "openvino"]
    assert len(said) == len(refused) >= 1
    for choice, line in zip(refused, said, strict=True):
        assert line.startswith(f"engine {choice} is not used for this network: ")
        assert "relative error" in line or "shape (16, 2) instead of (16, 3)" in line


@pytest.mark.usefixtures("faulty_openvino")
def test_where_all_are_wrong_plain_pytorch_is_left(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = torch_engine.fold_batch_norms
    monkeypatch.setattr(torch_engine, "fold_batch_norms", lambda module: with_epsilon(fold(with_epsilon(module))))
    engine, said = opened(network, choices(CPU))
    assert isinstance(engine, TorchEngine)
    assert engine._module is network
    assert [line.partition(" is not used")[0] for line in said] == [f"engine {choice}" for choice in choices(CPU)]


def test_a_copy_that_is_right_is_taken_without_a_word(network: nn.Module) -> None:
    engine, said = opened(network, (OPENVINO, TORCH))
    assert (engine.name, engine.precision, said) == ("openvino", "32", [])


def test_norms_that_are_registered_after_a_convolution_but_run_before_it_are_not_folded() -> None:
    class NormFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
            self.norm.running_mean.uniform_(-1, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.conv(self.norm(inputs)).mean((2, 3))

    torch.manual_seed(0)
    module = NormFirst().eval()
    engine, said = opened(module, (TORCH,))
    assert isinstance(engine, TorchEngine)
    assert engine._module is module
    assert "relative error" in said[0]


def test_an_engine_that_cannot_run_a_network_is_passed_over() -> None:
    torch.manual_seed(0)
    engine, said = opened(Inconvertible().eval(), choices(CPU))
    assert engine.name == "torch"
    assert len(said) == len(choices(CPU)) - 1
    assert all("OpenVINO cannot run it" in line for line in said)


def test_what_folding_or_running_raises_is_no_more_than_a_refusal() -> None:
    """A norm without statistics cannot be folded, and a network may fail on the images themselves."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    samples = make_pixels(4)
    said: list[str] = []
    engine, _, found = open_engine(module.eval(), SPEC, samples, (TORCH,), device=CPU, has_head=False, say=said.append)
    assert isinstance(engine, TorchEngine)
    assert engine._module is module
    assert found.shape == (4, 4 * 36)
    assert len(said) == 1
    assert said[0].startswith("engine torch 32 is not used for this network: ")


class _Raising:
    name, precision = "openvino", "32"

    def run(self, batches: Any) -> Any:
        raise RuntimeError("out of memory\nin a kernel")


def test_an_engine_that_raises_while_it_runs_is_passed_over(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "OpenVINOEngine", lambda *_, **__: _Raising())
    engine, said = opened(network, (OPENVINO, TORCH))
    assert engine.name == "torch"
    assert said == ["engine openvino 32 is not used for this network: out of memory in a kernel"]


def test_openvino_is_refused_where_another_allocator_would_make_it_end_the_process(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    said: list[str] = []
    candidates = choices(CPU, engine="openvino", precision="32")
    engine, *_ = open_engine(network, SPEC, make_pixels(4), candidates, device=CPU, has_head=False, say=said.append)
    assert engine.name == "torch"
    assert said == [
        "engine openvino 32 is not used for this network: another allocator is loaded with LD_PRELOAD, with which "
        "OpenVINO ends the whole process"
    ]


def test_another_most_probable_class_is_refused_where_there_is_a_head(
    network: TinyNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits with a large sum hide their differences from the relative error, but not from the class."""
    with torch.no_grad():
        network.fc.bias += 3e6

    def convert_flipped(module: nn.Module, spec: InputSpec) -> Any:
        return convert(Changed(module, after=lambda rows: rows.flip(1)).eval(), spec)

    monkeypatch.setattr(conversion, "convert", convert_flipped)
    engine, said = opened(network, (OPENVINO, TORCH), has_head=True)
    assert engine.name == "torch"
    assert "of the images the same class" in said[0]
    engine, said = opened(network, (OPENVINO, TORCH), has_head=False)
    assert (engine.name, said) == ("openvino", [])


def test_results_come_in_order_from_many_batches_of_different_sizes(network: nn.Module) -> None:
    rng = np.random.default_rng(0)
    sizes = [1, 8, 9, 40, *rng.integers(1, 45, 40).tolist(), 1]
    pixels = make_pixels(sum(sizes))
    truth = eager(network, SPEC, pixels)
    for choice in (*choices(CPU), OPENVINO):
        rows = run(make(choice, network), pixels, sizes)
        limit = {"32": 1e-4, "bf16": 5e-2}[choice.precision]
        assert np.abs(rows - truth).max() < limit * np.abs(truth).max()
        assert disagreement(rows, truth, choice.precision, has_head=False) == ""


@pytest.mark.parametrize("choice", [OPENVINO, TORCH], ids=str)
def test_no_more_is_read_than_is_needed_and_a_reader_may_stop(network: nn.Module, choice: Choice) -> None:
    pixels = make_pixels(40)
    taken = 0

    def endless() -> Iterator[Pixels]:
        nonlocal taken
        for start in cycle(range(0, 40, 10)):
            taken += 1
            yield pixels[start : start + 10]

    engine = make(choice, network)
    expected = run(engine, pixels, [40])
    stream = engine.run(endless())
    rows = np.concatenate(list(islice(stream, 4)))
    assert np.array_equal(rows, expected)
    assert taken <= 4 + 20
    other = run(engine, pixels[:5], [5])  # while the first is under way
    assert np.array_equal(other, expected[:5])
    assert np.array_equal(next(iter(stream)), expected[:10])
    del stream
    assert np.array_equal(run(engine, pixels, [40]), expected)


def test_what_the_source_raises_comes_through(network: nn.Module) -> None:
    def failing() -> Iterator[Pixels]:
        yield make_pixels(9)
        raise OSError("the picture is gone")

    for choice in (OPENVINO, TORCH):
        engine = make(choice, network)
        with pytest.raises(OSError, match="the picture is gone"):
            list(engine.run(failing()))
        assert len(run(engine, make_pixels(3), [3])) == 3


@needs_gpu
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_on_a_gpu_a_row_has_equal_bits_whatever_its_batch(network: nn.Module, precision: str) -> None:
    device = torch.device("cuda")
    truth = eager(network, SPEC, make_pixels(37))
    engine = make(Choice("torch", precision), network.to(device), SPEC, device)
    assert_equal_bits(engine, make_pixels(37))
    assert disagreement(run(engine, make_pixels(37), [37]), truth, precision, has_head=False) == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_in_a_fork_of_its_process_an_engine_refuses_to_run(network: nn.Module) -> None:
    """Its threads are not there, so it would wait for ever."""
    engine = make(OPENVINO, network)
    expected = run(engine, make_pixels(3), [3])
    reader, writer = os.pipe()
    if not os.fork():
        try:
            list(engine.run([make_pixels(3)]))
        except EngineError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "before this process was forked" in said.read()
    os.wait()
    assert np.array_equal(run(engine, make_pixels(3), [3]), expected)


def interrupt_after_engines_are_gone(pipe: Connection) -> None:
    """Open two engines one after the other, let go of the older one first, and interrupt the process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    model = convert(TinyNet().eval(), SPEC)
    older = OpenVINOEngine(model, "32")
    newer = OpenVINOEngine(model, "32")
    del older
    gc.collect()
    del newer
    gc.collect()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pipe.send("interrupted")


def test_ctrl_c_still_interrupts_after_engines_are_gone() -> None:
    """OpenVINO left the process a stack for signal handlers that was freed, and Ctrl-C was a segmentation fault."""
    process = Forked(interrupt_after_engines_are_gone)
    assert process.finish() == ""
    assert process.pipe.recv() == "interrupted"
