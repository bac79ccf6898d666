"""How steps run is chosen by their time, with a clear winner only, and nothing is left behind by the trial."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from headstart.config import dump_config, make_config
from headstart.features.cut import cut
from headstart.models.classifier import ClassifierNetwork
from headstart.training import tuning
from headstart.training.plan import Phase, Rule, apply_modes, resolve
from headstart.training.tuning import StepChoice, candidates, choose_step

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NCHW, NHWC = StepChoice(False), StepChoice(True)
BF16 = StepChoice(True, "bf16")
AUTO = candidates(CPU, "auto", channels_last=True)
LONG = 10**5  # images: worth timing


class Clock:
    """Stands still but while something sleeps; with a `tick`, each look at it takes that long."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


class Sleepy(nn.Module):
    """Takes as long as it is told for the way in which it runs; notes how it was run."""

    runs: list[StepChoice]  # of all copies

    def __init__(self, seconds: Callable[[StepChoice], float]) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.seconds = seconds
        self.runs = []

    def __deepcopy__(self, memo: Any) -> "Sleepy":
        other = Sleepy(self.seconds)
        other.load_state_dict(self.state_dict())
        other.runs = self.runs
        return other

    def forward(self, inputs: Tensor) -> Tensor:
        is_nhwc = self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        precision = "bf16" if torch.is_autocast_enabled("cpu") else "32"
        choice = StepChoice(is_nhwc, precision)
        self.runs.append(choice)
        CLOCK.sleep(self.seconds(choice))
        hidden = self.conv(inputs)
        assert hidden.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        return self.fc(torch.relu(self.norm(hidden)).mean((2, 3)))


@pytest.fixture(autouse=True)
def _is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "time", CLOCK)
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", float("inf"))


def batch(num_images: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(num_images, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(num_images) % 3


def test_candidates_start_with_what_runs_where_nothing_is_timed() -> None:
    assert candidates(CPU, "auto", channels_last=True) == (NHWC, NCHW, BF16, StepChoice(False, "bf16"))
    assert candidates(CPU, "32", channels_last=True) == (NHWC, NCHW)
    assert candidates(CPU, "bf16", channels_last=True) == (BF16, StepChoice(False, "bf16"))
    assert candidates(CPU, "auto", channels_last=False) == (NCHW, StepChoice(False, "bf16"))
    assert candidates(CPU, "32", channels_last=False) == (NCHW,)
    assert candidates(CUDA, "auto", channels_last=True) == (BF16, StepChoice(False, "bf16"), NHWC, NCHW)
    assert candidates(CUDA, "32", channels_last=True) == (NHWC, NCHW)
    assert StepChoice() == AUTO[0]
    assert not any(choice.compiled for choice in (*AUTO, *candidates(CUDA, "auto", channels_last=True)))


@pytest.mark.parametrize("choice", [*AUTO, StepChoice(True, "bf16", compiled=True)], ids=str)
def test_a_choice_goes_through_config_yaml_and_back(choice: StepChoice) -> None:
    assert StepChoice(**choice.to_dict()) == choice
    config = make_config({"choices": {"steps": [choice.to_dict()]}})
    values = yaml.safe_load(dump_config(config))
    assert [StepChoice(**each) for each in values["choices"]["steps"]] == [choice]


def test_a_choice_says_what_it_is() -> None:
    assert [str(choice) for choice in AUTO] == [
        "32, channels-last",
        "32, contiguous",
        "bf16, channels-last",
        "bf16, contiguous",
    ]
    assert str(StepChoice(compiled=True)) == "32, channels-last, compiled"


@pytest.mark.parametrize("choice", AUTO, ids=str)
def test_prepare_sets_the_memory_format_in_place_and_autocast_the_precision(choice: StepChoice) -> None:
    module = nn.Conv2d(3, 4, 3)
    weight, before = module.weight, module.weight.detach().clone()
    assert choice.prepare(module) is module
    assert module.weight is weight
    assert torch.equal(weight, before)
    assert weight.is_contiguous(memory_format=torch.channels_last) == choice.channels_last
    assert weight.is_contiguous() != choice.channels_last
    with choice.autocast(CPU):
        assert module(batch()[0]).dtype == (torch.bfloat16 if choice.precision == "bf16" else torch.float32)
    assert module(batch()[0]).dtype == torch.float32


def test_short_work_is_not_timed() -> None:
    """The first way is run twice, to know how long the work is, and no other at all."""
    module = Sleepy(lambda choice: 0.01 if choice == AUTO[0] else 0.0)
    assert choose_step(module, *batch(), AUTO, num_images=100) == AUTO[0]
    assert module.runs == [AUTO[0]] * 2


def test_where_there_is_one_way_it_is_taken() -> None:
    module = Sleepy(lambda choice: 0.001)
    assert choose_step(module, *batch(), (BF16,), num_images=10**9) == BF16
    assert set(module.runs) == {BF16}


@pytest.mark.parametrize("fastest", AUTO, ids=str)
def test_the_fastest_way_is_chosen(fastest: StepChoice) -> None:
    module = Sleepy(lambda choice: 0.003 if choice == fastest else 0.02)
    assert choose_step(module, *batch(), AUTO, num_images=LONG) == fastest
    assert set(module.runs) == set(AUTO)


@pytest.mark.parametrize(("seconds", "is_chosen"), [(0.148, False), (0.12, True)])
def test_another_way_must_be_clearly_faster_than_the_first(seconds: float, is_chosen: bool) -> None:
    module = Sleepy(lambda choice: seconds if choice == BF16 else 0.15)
    assert choose_step(module, *batch(), (NHWC, BF16), num_images=LONG) == (BF16 if is_chosen else NHWC)


def test_a_busy_moment_does_not_decide() -> None:
    """The first way is the fastest, but for once; each way is timed in two turns, of which the better one counts."""
    num_runs = 0

    def seconds(choice: StepChoice) -> float:
        nonlocal num_runs
        num_runs += choice == AUTO[0]
        is_timed_first = choice == AUTO[0] and num_runs == 4  # after finding out how long the work is, and a warm-up
        return 0.1 if is_timed_first else 0.02 if choice == AUTO[0] else 0.04

    module = Sleepy(seconds)
    assert choose_step(module, *batch(), AUTO, num_images=LONG) == AUTO[0]
    assert module.runs == [AUTO[0]] * 2 + [choice for choice in AUTO for _ in range(2)] + [*AUTO]


def state(module: nn.Module) -> list[Any]:
    """Everything that a trial may not change."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return [
        {name: (id(t), t.stride(), t.dtype, t.detach().clone().numpy().tobytes()) for name, t in tensors},
        {
            name: (p.requires_grad, None if p.grad is None else (id(p.grad), p.grad.tolist()))
            for name, p in module.named_parameters()
        },
        {name: (id(each), each.training) for name, each in module.named_modules()},
        (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
    ]


@pytest.mark.parametrize("part", ["network", "tail"])
def test_the_module_and_the_generators_are_left_as_they_were(
    model: ClassifierNetwork, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_WORTH_TUNING_S", 0.0)
    phase = Phase("top", (Rule("conv1", None), Rule("bn1", None), Rule("*", 1.0)), 1e-3, 1, batch_norm="batch")
    network = model.network
    apply_modes(network, resolve(phase, network, model.stages))
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    module, inputs = network, torch.randn(12, 3, 8, 8)
    if part == "tail":
        parts = cut(network, model.stages, 1)
        assert parts.trunk is not None
        module, inputs = parts.tail, parts.trunk(inputs).detach()
    kept = inputs.clone()
    before = state(module), state(network)
    chosen = choose_step(module, inputs, torch.arange(12) % 3, AUTO, num_images=100)
    assert chosen in AUTO
    assert (state(module), state(network)) == before
    assert torch.equal(inputs, kept)
    assert inputs.grad is None


def test_only_the_first_few_images_are_used() -> None:
    sizes = []
    module = Sleepy(lambda choice: 0.0)
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    hooks, original = module._forward_pre_hooks, Sleepy.__deepcopy__

    class Watched(Sleepy):
        def __deepcopy__(self, memo: Any) -> Sleepy:
            other = original(self, memo)
            other._forward_pre_hooks = hooks
            return other

    module.__class__ = Watched
    choose_step(module, *batch(64), AUTO, num_images=64)
    choose_step(module, *batch(3), AUTO, num_images=3)
    assert sizes == [8, 8, 3, 3]


def test_the_length_of_the_work_counts_by_images_not_by_batches() -> None:
    """Eight images in 80 ms are 10 ms an image."""
    enough = tuning._WORTH_TUNING_S / 0.01
    for share, is_long in ((0.3, False), (2, True)):
        module = Sleepy(lambda choice: 0.08)
        choose_step(module, *batch(8), (NHWC, NCHW), num_images=round(share * enough))
        assert (set(module.runs) == {NHWC, NCHW}) == is_long


def test_few_images_are_not_compiled_for_however_long_a_busy_machine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", 0.0)
    monkeypatch.setattr(torch, "compile", lambda module, **how: pytest.fail("compiled"))
    assert choose_step(Sleepy(lambda choice: 0.1), *batch(), (NHWC, NCHW), num_images=1225) == NHWC


@pytest.mark.parametrize(("trial_s", "is_compiled"), [(0.0, True), (0.5, False)])
def test_a_compiled_way_has_to_repay_its_trial(
    trial_s: float, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps that each save 0.1 s."""
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", 0.0)
    monkeypatch.setattr(tuning, "_WORTH_TUNING_S", 0.0)
    monkeypatch.setattr(tuning, "_LEAST_TO_COMPILE", 80)
    monkeypatch.setattr(torch, "compile", lambda module, **how: CLOCK.sleep(trial_s) or Sleepy(lambda choice: 0.02))
    chosen = choose_step(Sleepy(lambda choice: 0.12), *batch(), (NHWC, NCHW), num_images=80)
    assert chosen.compiled == is_compiled


def test_the_device_is_waited_for_before_and_after_each_step() -> None:
    events: list[str] = []
    module = Sleepy(lambda choice: events.append("step") or 0.0)
    choose_step(module, *batch(), (NHWC,), num_images=1, sync=lambda: events.append("sync"))
    assert events == ["sync", "step", "sync"] * 2


class Failing(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise ValueError("no such layer")


def test_a_module_that_cannot_be_trained_says_so() -> None:
    with pytest.raises(ValueError, match="no such layer"):
        choose_step(Failing(), *batch(), AUTO, num_images=LONG)


def test_very_long_work_may_be_compiled_and_need_not_be_where_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Inductor runs a C++ compiler; where it finds none that way of running is left out."""
    monkeypatch.setattr(tuning, "time", Clock(tick=0.01))
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", 0.0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    tried: list[bool] = []
    compile_module = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **how: tried.append(True) or compile_module(module, **how))
    from torch._inductor import config

    with config.patch({"cpp.cxx": (None, "/no/compiler"), "force_disable_caches": True}):
        chosen = choose_step(Slow(), *batch(), (NHWC, NCHW), num_images=LONG)
    assert tried == [True]
    assert chosen in (NHWC, NCHW)
    torch.compiler.reset()


class Slow(nn.Module):
    """Work enough to be worth timing, in nothing but PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 3)
        self.hidden = nn.Linear(192, 192)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs.flatten(1).repeat(400, 1)
        return self.fc(torch.relu(self.hidden(hidden)).unflatten(0, (400, -1)).mean(0))
