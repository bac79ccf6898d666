import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from headstart.display import Display
from headstart.errors import RunError, TrainingError
from headstart.training.checkpoint import Checkpoints
from headstart.training.plan import Phase, Rule, resolve
from headstart.types import StepChoice
from tests.helpers.displays import Killed, Killer
from tests.helpers.fits import HEAD, Rows, SolvableSupply, assert_equal, run, state
from tests.helpers.tiny import STAGES, TensorBatches, make_model

LAST = Phase("+ layer2", (Rule("fc", 1.0), Rule("layer2", 1.0), Rule("*", None)), 0.02, 2, "batch")
ALL = Phase("all", (Rule("fc", 10.0), Rule("*", 1.0)), 0.005, 2, "batch")


# Ten steps: up from 1/25 over three of them by half a cosine, and down to 0; each rate is that of the step's middle.
ONE_CYCLE = (0.104308, 0.52, 0.935692, 0.987464, 0.890916, 0.716942, 0.5, 0.283058, 0.109084, 0.012536)


@pytest.mark.parametrize("choice", [StepChoice(), StepChoice(channels_last=False)], ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("phase", [HEAD, ALL], ids=["head", "full"])
def test_it_trains_as_raw_pytorch_does(batches, tmp_path, phase, optimizer, choice):
    """The loop below takes nothing from Headstart: rates, modes and what is frozen are written down once more."""
    model, raw = make_model(), make_model().network
    if choice.channels_last:  # sums are made in the order of memory
        raw.to(memory_format=torch.channels_last)
    if phase is HEAD:  # BatchNorm and dropout below the head stay in evaluation mode
        raw.eval().requires_grad_(False)
        raw.fc.train().requires_grad_(True)
    else:  # without dropout, whose masks would have to be drawn from the same seeds
        raw.train()
        raw.layer1[3].p = model.network.layer1[3].p = 0.0
    run(model, [phase], batches, tmp_path, optimizer=optimizer, weight_decay=0.1, step=choice)
    head = [p for n, p in raw.named_parameters() if n.startswith("fc")]
    body = [p for n, p in raw.named_parameters() if p.requires_grad and not n.startswith("fc")]
    scale = 10 if phase is ALL else 1
    groups = [
        {"params": [p for p in part if (p.ndim > 1) == decays], "lr": lr, "base": lr, "weight_decay": 0.1 * decays}
        for part, lr in ((body, phase.lr), (head, phase.lr * scale))
        for decays in (True, False)
    ]
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    raw_optimizer = kind([g for g in groups if g["params"]], **({"momentum": 0.9} if optimizer == "sgd" else {}))
    rates = iter(ONE_CYCLE)
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            rate = next(rates)
            for group in raw_optimizer.param_groups:
                group["lr"] = group["base"] * rate
            loss = functional.cross_entropy(raw((batch.pixels / 255 - 0.5) / 0.5), batch.targets)
            raw_optimizer.zero_grad()
            loss.backward()
            raw_optimizer.step()
    assert list(rates) == []
    for name, tensor in raw.state_dict().items():
        if name in ("layer1.0.bias", "layer2.0.bias") and optimizer == "adamw" and phase is ALL:
            continue  # a bias before BatchNorm has no gradient but rounding, which Adam scales up to full steps
        if name.endswith("running_mean"):
            continue  # follows that bias
        assert torch.allclose(tensor, model.network.state_dict()[name], atol=2e-5), name


@pytest.mark.parametrize("phase", [HEAD, LAST, ALL], ids=lambda phase: phase.name)
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "decay_all": True},
        {"optimizer": "adamw", "ema": 0.5, "weight_decay": 0.1, "clip_norm": 1.0, "mixup": 0.5, "cutmix": 0.5},
    ],
    ids=["sgd", "adamw-ema"],
)
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_frozen_is_bit_identical_and_the_rest_changes(batches, tmp_path, phase, settings, precision):
    model = make_model()
    before = state(model)
    frozen = resolve(phase, model.network, STAGES).frozen
    result, _ = run(model, [phase], batches, tmp_path, step=StepChoice(precision=precision), **settings)
    after = state(model)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == frozen
    assert result.unchanged == ()


def test_a_frozen_tensor_that_changes_is_found(batches, tmp_path):
    model = make_model()

    class Vandal(Display):
        def step(self):
            model.network.bn1.running_mean.add_(1e-7)

    with pytest.raises(TrainingError, match="frozen tensor changed in phase 'head'"):
        run(model, [HEAD], batches, tmp_path, display=Vandal())


def test_a_rate_too_small_to_matter_is_noted(batches, tmp_path):
    result, _ = run(make_model(), [replace(HEAD, lr=1e-30)], batches, tmp_path, optimizer="sgd")
    assert result.unchanged == ("head: fc.weight", "head: fc.bias")


FEATURES = [
    {"optimizer": "adamw", "ema": 0.9, "checkpoint_every_s": 0.0},
    {"optimizer": "sgd", "accumulate": 2, "mixup": 0.4, "label_smoothing": 0.1, "checkpoint_every_s": 0.0},
    {"optimizer": "adam", "selects": True},
]


@pytest.mark.parametrize("settings", FEATURES, ids=["ema", "sgd-accumulate", "selects"])
def test_killed_after_any_step_and_resumed_is_as_if_it_had_not_been(batches, held_out, tmp_path, settings):
    phases = [HEAD, LAST, ALL]
    whole = make_model()
    result, rows = run(whole, phases, batches, tmp_path / "whole", held_out, **settings)
    num_steps = 6 * (3 if settings.get("accumulate") else 5)
    for after in range(1, num_steps + 1, 2):
        folder, log = tmp_path / f"{after}", Rows()
        with pytest.raises(Killed):
            run(make_model(), phases, batches, folder, held_out, rows=log, display=Killer(steps=after), **settings)
        resumed = make_model()
        if saved := Checkpoints(folder).load("last"):
            with torch.no_grad():  # what it has of its own must not matter where the checkpoint holds something
                for name, tensor in resumed.network.state_dict().items():
                    if f"network/{name}" in saved[0]:
                        tensor.fill_(9)
        again, rows_again = run(resumed, phases, batches, folder, held_out, rows=log, **settings)
        assert_equal(state(whole), state(resumed))
        assert again == result
        assert [{**row, "time_s": 0} for row in rows_again] == [{**row, "time_s": 0} for row in rows]


def test_equal_settings_give_equal_bits_and_another_seed_does_not(batches, tmp_path):
    models = [make_model() for _ in range(3)]
    for i, model in enumerate(models):
        run(model, [ALL], batches, tmp_path / str(i), seed=i // 2)
    assert_equal(state(models[0]), state(models[1]))
    assert not torch.equal(models[0].network.fc.weight, models[2].network.fc.weight)


def test_accumulation_equals_one_large_batch(data, tmp_path):
    models = [make_model(), make_model()]
    small, large = TensorBatches(*data, batch_size=6), TensorBatches(*data, batch_size=12)
    run(models[0], [HEAD], small, tmp_path / "a", accumulate=2)
    run(models[1], [HEAD], large, tmp_path / "b")
    assert torch.allclose(models[0].network.fc.weight, models[1].network.fc.weight, atol=1e-5)


def test_a_summed_loss_is_the_mean_times_the_batch(data, tmp_path):
    models = [make_model(), make_model()]
    batches = TensorBatches(*data, batch_size=12)
    options = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    run(models[0], [HEAD], batches, tmp_path / "a", loss_reduction="mean", **options)
    run(models[1], [replace(HEAD, lr=HEAD.lr / 12)], batches, tmp_path / "b", loss_reduction="sum", **options)
    assert torch.allclose(models[0].network.fc.weight, models[1].network.fc.weight, atol=1e-5)


def test_it_learns_and_logs(batches, held_out, tmp_path):
    _, rows = run(make_model(), [replace(ALL, epochs=8)], batches, tmp_path, held_out)
    assert rows[-1]["val_accuracy"] > 0.9
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[0]["head_lr"] == pytest.approx(10 * rows[0]["lr"])


def test_the_best_epoch_is_kept_ties_to_the_earlier(batches, held_out, tmp_path):
    phase = replace(ALL, epochs=6, lr=0.3)  # so high that the loss goes up and down
    model = make_model()
    result, rows = run(model, [phase], batches, tmp_path, held_out, selects=True, optimizer="sgd", schedule="constant")
    losses = [row["val_loss"] for row in rows]
    assert result.best_epochs == (losses.index(min(losses)) + 1,)
    chosen = make_model()
    run(
        chosen,
        [replace(phase, stop_after=result.best_epochs[0])],
        batches,
        tmp_path / "b",
        optimizer="sgd",
        schedule="constant",
    )
    assert_equal(state(model), state(chosen))  # stopping there within the same schedule gives the same weights


@pytest.mark.parametrize("select_by", ["loss", "accuracy"])
def test_what_is_best_is_the_lowest_loss_or_the_highest_accuracy(batches, held_out, tmp_path, select_by):
    phase = replace(ALL, epochs=8)  # the loss still falls when the accuracy no longer rises
    result, rows = run(make_model(), [phase], batches, tmp_path, held_out, selects=True, select_by=select_by)
    losses = [row["val_loss"] for row in rows]
    accuracies = [row["val_accuracy"] for row in rows]
    best = {"loss": losses.index(min(losses)) + 1, "accuracy": accuracies.index(max(accuracies)) + 1}
    assert best["loss"] != best["accuracy"]  # else the two could be mixed up
    assert result.best_epochs == (best[select_by],)


def test_the_step_schedule_counts_epochs(batches, tmp_path):
    _, rows = run(
        make_model(), [replace(ALL, epochs=5)], batches, tmp_path, optimizer="sgd", schedule="step", step_epochs=2
    )
    assert [row["lr"] / ALL.lr for row in rows] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_a_tie_goes_to_the_earlier_epoch(batches, held_out, tmp_path):
    result, _ = run(
        make_model(), [replace(HEAD, lr=1e-30, epochs=3)], batches, tmp_path, held_out, selects=True, optimizer="sgd"
    )
    assert result.best_epochs == (1,)


def test_patience_stops_early(batches, held_out, tmp_path):
    phase = replace(HEAD, lr=1e-30, epochs=9)
    result, rows = run(make_model(), [phase], batches, tmp_path, held_out, selects=True, patience=2, optimizer="sgd")
    assert (result.epochs_run, result.best_epochs, len(rows)) == ((3,), (1,), 3)


def test_a_phase_starts_from_the_best_or_the_last(batches, held_out, tmp_path):
    first = replace(ALL, epochs=4, lr=0.3)
    ends = {}
    for start in ("best", "last"):
        model = make_model()
        second = replace(HEAD, epochs=1, lr=1e-30, start=start)
        run(
            model,
            [first, second],
            batches,
            tmp_path / start,
            held_out,
            selects=True,
            optimizer="sgd",
            schedule="constant",
        )
        ends[start] = model.network.conv1.weight.detach().clone()
    assert not torch.equal(ends["best"], ends["last"])


def test_a_loss_that_is_not_finite_stops_with_advice(batches, tmp_path):
    with pytest.raises(TrainingError, match=r"phase 'all'.*lower --lr"):
        run(make_model(), [replace(ALL, lr=1e30, epochs=3)], batches, tmp_path, optimizer="sgd", schedule="constant")


def test_no_epochs_change_nothing(batches, tmp_path):
    model = make_model()
    before = copy.deepcopy(state(model))
    result, rows = run(model, [replace(HEAD, epochs=0)], batches, tmp_path)
    assert_equal(before, state(model))
    assert (result.epochs_run, rows) == ((0,), [])


def test_a_kill_between_two_files_of_the_next_phase_loses_nothing(batches, held_out, tmp_path):
    """The best weights of a phase are still there when the next one has saved its own but not yet its position."""
    phases = [replace(ALL, epochs=3, lr=0.3), replace(HEAD, epochs=2)]
    options = {"selects": True, "optimizer": "sgd", "schedule": "constant"}
    whole = make_model()
    run(whole, phases, batches, tmp_path / "whole", held_out, **options)

    class Disk(Checkpoints):
        def save(self, name, tensors, state):
            super().save(name, tensors, state)
            if name == "best-2":
                raise Killed

    killed, rows = make_model(), Rows()
    with pytest.raises(Killed):
        run(killed, phases, batches, tmp_path / "a", held_out, rows=rows, checkpoints=Disk, **options)
    resumed = make_model(seed=5)  # all of it trains, so a checkpoint holds all of it
    run(resumed, phases, batches, tmp_path / "a", held_out, rows=rows, **options)
    assert_equal(state(whole), state(resumed))


def test_a_resume_on_other_untrained_weights_is_refused_at_once(batches, tmp_path):
    with pytest.raises(Killed):
        run(make_model(), [HEAD], batches, tmp_path, display=Killer(steps=7))
    with pytest.raises(TrainingError, match="not those that the run began with"):
        run(make_model(seed=9), [HEAD], batches, tmp_path, display=Killer(steps=1))


def test_a_checkpoint_holds_what_some_phase_so_far_trains(batches, tmp_path):
    run(make_model(), [HEAD, replace(LAST, epochs=1)], batches, tmp_path / "a")
    saved, _ = Checkpoints(tmp_path / "a").load("last")
    names = {name.removeprefix("network/") for name in saved if name.startswith("network/")}
    assert names == {name for name in make_model().network.state_dict() if name.startswith(("fc", "layer2"))}


SOLVED = replace(HEAD, solver="lbfgs")


def test_a_head_is_solved_where_features_are_at_hand_and_else_trained(batches, held_out, tmp_path):
    solved, trained = make_model(), make_model()
    before = state(solved)
    result, rows = run(solved, [SOLVED], batches, tmp_path / "a", held_out, supply=SolvableSupply)
    assert (result.epochs_run, result.best_epochs, result.unchanged) == ((0,), (0,), ())
    (row,) = rows
    assert (row["epoch"], row["step"], row.get("lr")) == (0, 0, None)
    assert row["val_loss"] == pytest.approx(row["train_loss"], abs=1e-4)  # the same images
    assert {name for name in before if not torch.equal(before[name], state(solved)[name])} == {"fc.weight", "fc.bias"}
    result, rows = run(trained, [SOLVED], batches, tmp_path / "b", held_out)
    assert (result.epochs_run, len(rows)) == ((2,), 2)


def test_killed_after_a_head_was_solved_and_resumed_is_as_if_it_had_not_been(batches, held_out, tmp_path):
    phases, options = [SOLVED, ALL], {"checkpoint_every_s": 0.0, "supply": SolvableSupply}
    whole = make_model()
    result, rows = run(whole, phases, batches, tmp_path / "whole", held_out, **options)
    for after in (1, 3, 7):
        folder, log = tmp_path / f"{after}", Rows()
        with pytest.raises(Killed):
            run(make_model(), phases, batches, folder, held_out, rows=log, display=Killer(steps=after), **options)
        resumed = make_model()
        again, rows_again = run(resumed, phases, batches, folder, held_out, rows=log, **options)
        assert_equal(state(whole), state(resumed))
        assert again == result
        assert [{**row, "time_s": 0} for row in rows_again] == [{**row, "time_s": 0} for row in rows]


def test_a_last_batch_of_one_image_joins_the_one_before(data, tmp_path):
    pixels, targets = data[0][:33], data[1][:33]
    batches, joined = TensorBatches(pixels, targets, 8), []

    class Watch(Display):
        def step(self):
            joined.append(1)

    _, rows = run(make_model(), [ALL], batches, tmp_path, display=Watch())
    assert len(joined) == 2 * 4
    assert [row["step"] for row in rows] == [4, 4]


def test_killed_while_it_evaluates_after_a_joined_batch_and_resumed_is_as_if_it_had_not_been(data, held_out, tmp_path):
    batches = TensorBatches(data[0][:33], data[1][:33], 8)
    whole = make_model()
    _, rows = run(whole, [ALL], batches, tmp_path / "whole", held_out, checkpoint_every_s=0.0)

    class Dying(TensorBatches):
        def epoch(self, epoch, *, start=0):
            raise Killed

    log = Rows()
    with pytest.raises(Killed):
        run(make_model(), [ALL], batches, tmp_path / "a", Dying(*data, 8), rows=log, checkpoint_every_s=0.0)
    resumed = make_model()
    _, again = run(resumed, [ALL], batches, tmp_path / "a", held_out, rows=log, checkpoint_every_s=0.0)
    assert_equal(state(whole), state(resumed))
    assert [{**row, "time_s": 0} for row in again] == [{**row, "time_s": 0} for row in rows]


def test_a_head_that_was_solved_to_select_and_now_cannot_be_is_trained(batches, tmp_path):
    model = make_model()
    before = state(model)
    result, _ = run(model, [replace(SOLVED, stop_after=0)], batches, tmp_path)  # no features in this supply
    assert result.epochs_run == (2,)
    assert not torch.equal(before["fc.weight"], state(model)["fc.weight"])


def test_a_length_that_was_chosen_holds_where_the_head_cannot_be_solved(batches, tmp_path):
    result, _ = run(make_model(), [replace(SOLVED, epochs=5, stop_after=3)], batches, tmp_path)
    assert result.epochs_run == (3,)


def test_what_was_begun_as_training_is_not_solved_after_a_resume(batches, held_out, tmp_path):
    whole, log = make_model(), Rows()
    result, rows = run(whole, [SOLVED], batches, tmp_path / "whole", held_out, checkpoint_every_s=0.0)
    with pytest.raises(Killed):
        run(make_model(), [SOLVED], batches, tmp_path / "a", held_out, rows=log, display=Killer(steps=7))
    resumed = make_model()
    again, _ = run(resumed, [SOLVED], batches, tmp_path / "a", held_out, rows=log, supply=SolvableSupply)
    assert_equal(state(whole), state(resumed))
    assert again == result
    assert [row["epoch"] for row in log.rows] == [row["epoch"] for row in rows]


def test_checkpoints_of_another_version_say_so(batches, tmp_path):
    with pytest.raises(Killed):
        run(make_model(), [HEAD], batches, tmp_path, display=Killer(steps=7))
    tensors, progress = Checkpoints(tmp_path).load("last")
    Checkpoints(tmp_path).save("last", tensors, {**progress, "colour": "red"})
    with pytest.raises(RunError, match="another version's; start a new run"):
        run(make_model(), [HEAD], batches, tmp_path)


def test_a_held_out_loss_that_is_not_finite_stops(data, batches, tmp_path):
    class Vandal(Display):
        def step(self):
            with torch.no_grad():
                model.network.fc.bias.fill_(float("nan"))

    model, single = make_model(), TensorBatches(*data, batch_size=36)
    with pytest.raises(TrainingError, match="the held-out loss became nan in phase 'head', epoch 1, step 1 "):
        run(model, [replace(HEAD, epochs=1)], single, tmp_path, batches, display=Vandal())
    assert not (tmp_path / "last.safetensors").exists()
