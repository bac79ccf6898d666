"""How steps run is chosen by their time, with a clear winner only, and nothing is left behind by the trial.

The clock is the tests' own: a step takes as long as a test says, and no test waits.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from headstart.data.loading import Batch
from headstart.features.cut import cut
from headstart.models.classifier import ClassifierNetwork
from headstart.resolved import Resolved
from headstart.training import tuning
from headstart.training.plan import Phase, Rule, apply_modes, resolve
from headstart.training.settings import FitSettings
from headstart.training.step import autocast, prepare_module
from headstart.training.tuning import StepTrial, candidates, choose_step
from headstart.types import StepChoice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NCHW, NHWC = StepChoice(False), StepChoice(True)
BF16 = StepChoice(True, "bf16")
AUTO = candidates(CPU, "auto", channels_last=True)
LONG = 10**5  # images: worth timing


class Bench:
    """Steps that take as long as they are told for the way in which they run; notes what was made and run."""

    def __init__(self, seconds: Callable[[StepChoice], float], *, to_make_s: float = 0.0) -> None:
        self.now, self.made, self.runs = 0.0, [], []
        self._seconds, self._to_make_s = seconds, to_make_s

    def step(self, choice: StepChoice) -> Callable[[], None]:
        self.made.append(choice)
        self.now += self._to_make_s * choice.compiled

        def take() -> None:
            self.runs.append(choice)
            self.now += self._seconds(choice)

        return take

    def choose(self, options: tuple[StepChoice, ...], num_images: int, images_per_step: int = 8) -> StepChoice:
        return choose_step(
            self.step, options, images_per_step=images_per_step, num_images=num_images, clock=lambda: self.now
        )


@pytest.fixture(autouse=True)
def _is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", float("inf"))


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
def test_a_choice_goes_through_resolved_json_and_back(choice: StepChoice, tmp_path: Any) -> None:
    resolved = Resolved(strategy="full", lr=0.1, head_lr=1.0, steps=(None, None)).with_step(1, choice)
    assert Resolved.from_json(resolved.to_json().encode(), tmp_path).steps == (None, choice)


def test_a_choice_says_what_it_is() -> None:
    assert [str(choice) for choice in AUTO] == [
        "32, channels-last",
        "32, contiguous",
        "bf16, channels-last",
        "bf16, contiguous",
    ]
    assert str(StepChoice(compiled=True)) == "32, channels-last, compiled"


@pytest.mark.parametrize("choice", AUTO, ids=str)
def test_a_module_is_prepared_in_place_and_runs_in_the_precision(choice: StepChoice) -> None:
    module = nn.Conv2d(3, 4, 3)
    weight, before = module.weight, module.weight.detach().clone()
    assert prepare_module(module, choice) is module
    assert module.weight is weight
    assert torch.equal(weight, before)
    assert weight.is_contiguous(memory_format=torch.channels_last) == choice.channels_last
    assert weight.is_contiguous() != choice.channels_last
    pictures = torch.randn(8, 3, 8, 8)
    with autocast(choice, CPU):
        assert module(pictures).dtype == (torch.bfloat16 if choice.precision == "bf16" else torch.float32)
    assert module(pictures).dtype == torch.float32


def test_short_work_is_not_timed() -> None:
    """The first way is run twice, to know how long the work is, and no other at all."""
    bench = Bench(lambda choice: 0.01 if choice == AUTO[0] else 0.0)
    assert bench.choose(AUTO, 100) == AUTO[0]
    assert bench.runs == [AUTO[0]] * 2


@pytest.mark.parametrize(("options", "num_images"), [((BF16,), 10**9), (AUTO, 0)])
def test_where_there_is_one_way_or_nothing_to_train_on_nothing_is_run(
    options: tuple[StepChoice, ...], num_images: int
) -> None:
    bench = Bench(lambda choice: 1.0)
    assert bench.choose(options, num_images) == options[0]
    assert bench.made == []


@pytest.mark.parametrize("fastest", AUTO, ids=str)
def test_the_fastest_way_is_chosen(fastest: StepChoice) -> None:
    bench = Bench(lambda choice: 0.003 if choice == fastest else 0.02)
    assert bench.choose(AUTO, LONG) == fastest
    assert set(bench.runs) == set(AUTO)


@pytest.mark.parametrize(("seconds", "is_chosen"), [(0.1426, False), (0.1424, True)])
def test_another_way_must_be_clearly_faster_than_the_first(seconds: float, is_chosen: bool) -> None:
    bench = Bench(lambda choice: seconds if choice == BF16 else 0.15)
    assert bench.choose((NHWC, BF16), LONG) == (BF16 if is_chosen else NHWC)


def test_a_busy_moment_does_not_decide() -> None:
    """The first way is the fastest, but for once; each way is timed in two turns, of which the better one counts."""

    def seconds(choice: StepChoice) -> float:
        is_timed_first = bench.runs == [AUTO[0]] * 4  # after finding out how long the work is, and a warm-up
        if is_timed_first:
            return 0.1
        return 0.02 if choice == AUTO[0] else 0.04

    bench = Bench(seconds)
    assert bench.choose(AUTO, LONG) == AUTO[0]
    assert bench.runs == [AUTO[0]] * 2 + [choice for choice in AUTO for _ in range(2)] + [*AUTO]


@pytest.mark.parametrize(("share", "is_long"), [(0.99, False), (1.01, True)])
def test_the_length_of_the_work_counts_by_images_not_by_batches(share: float, is_long: bool) -> None:
    """Eight images in 80 ms are 10 ms an image."""
    bench = Bench(lambda choice: 0.08)
    bench.choose((NHWC, NCHW), round(share * tuning._WORTH_TUNING_S / 0.01))
    assert (set(bench.runs) == {NHWC, NCHW}) == is_long


def test_few_images_are_not_compiled_for_however_long_a_busy_machine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", 0.0)
    bench = Bench(lambda choice: 1000.0)
    assert bench.choose((NHWC, NCHW), tuning._LEAST_TO_COMPILE - 1) == NHWC
    assert not any(choice.compiled for choice in bench.made)


@pytest.mark.parametrize(("to_make_s", "is_compiled"), [(299.0, True), (301.0, False)])
def test_a_compiled_way_has_to_repay_its_trial_three_times(
    to_make_s: float, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand steps that each save 0.1 s, less what the trial's own three steps of 0.02 s take."""
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", 0.0)
    bench = Bench(lambda choice: 0.02 if choice.compiled else 0.12, to_make_s=to_make_s + 34)
    chosen = bench.choose((NHWC, NCHW), 10_000, images_per_step=1)
    assert chosen == (replace(NHWC, compiled=True) if is_compiled else NHWC)


def test_what_cannot_be_compiled_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tuning._WORTH_COMPILING_S, "cpu", 0.0)

    def seconds(choice: StepChoice) -> float:
        if choice.compiled:
            raise RuntimeError("there is no compiler")
        return 1.0

    assert Bench(seconds).choose((NHWC, NCHW), LONG) == NHWC


class Trial:
    """A step of the real kind, on a module of a tiny classifier."""

    def __init__(self, model: ClassifierNetwork, module: nn.Module, inputs: Tensor) -> None:
        targets = torch.arange(len(inputs)) % len(model.labels)
        self.batch = Batch(inputs, targets, torch.arange(len(inputs)))
        fabric = Fabric(accelerator="cpu", devices=1)
        self.trial = StepTrial(model, module, self.batch, FitSettings(weight_decay=0.1), fabric)


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


@pytest.mark.parametrize("choice", AUTO, ids=str)
@pytest.mark.parametrize("part", ["network", "tail"])
def test_the_module_and_the_generators_are_left_as_they_were(
    model: ClassifierNetwork, part: str, choice: StepChoice
) -> None:
    phase = Phase("top", (Rule("conv1", None), Rule("bn1", None), Rule("*", 1.0)), 1e-3, 1, batch_norm="batch")
    network = model.network
    apply_modes(network, resolve(phase, network, model.stages))
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    module, inputs = network, torch.randint(0, 255, (12, 3, 8, 8), dtype=torch.uint8)
    if part == "tail":
        parts = cut(network, model.stages, 1)
        assert parts.trunk is not None
        module, inputs = parts.tail, parts.trunk(model.normalize(inputs)).detach()
    kept = inputs.clone()
    before = state(module), state(network)
    take = Trial(model, module, inputs).trial.step(choice)
    take()
    take()
    assert (state(module), state(network)) == before
    assert torch.equal(inputs, kept)


def test_only_the_first_few_images_are_used(model: ClassifierNetwork) -> None:
    for num_images, expected in ((64, 8), (3, 3)):
        pixels = torch.zeros(num_images, 3, 8, 8, dtype=torch.uint8)
        assert len(Trial(model, model.network, pixels).trial.batch.targets) == expected


def test_the_copy_runs_in_the_modes_of_the_module(model: ClassifierNetwork) -> None:
    seen = []
    model.network.eval()
    model.network.layer2.train()
    model.network.bn1.register_forward_hook(lambda module, *_: seen.append(module.training))
    model.network.layer2.register_forward_hook(lambda module, *_: seen.append(module.training))
    Trial(model, model.network, torch.zeros(4, 3, 8, 8, dtype=torch.uint8)).trial.step(NHWC)()
    assert seen == [False, True]


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        raise ValueError("no such layer")


def test_a_module_that_cannot_be_trained_says_so(model: ClassifierNetwork) -> None:
    trial = Trial(model, Failing(), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)).trial
    with pytest.raises(ValueError, match="no such layer"):
        choose_step(trial.step, AUTO, images_per_step=4, num_images=LONG)


def test_a_step_is_compiled_and_where_there_is_no_compiler_it_fails(
    model: ClassifierNetwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Inductor runs a C++ compiler; where it finds none, `choose_step` leaves that way of running out."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._inductor import config

    small = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    trial = Trial(model, small, torch.zeros(4, 3, 8, 8, dtype=torch.uint8)).trial
    with config.patch({"cpp.cxx": (None, "/no/compiler"), "force_disable_caches": True}):
        take = trial.step(StepChoice(compiled=True))
        with pytest.raises(Exception, match="compiler"):
            take()
    torch.compiler.reset()
