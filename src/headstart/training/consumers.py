"""What consumes the events of training: each takes the stream, does its part, and passes every event on.

A new consumer is one generator here, and one line in `run_fit`.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from headstart.display import Display, Row
from headstart.errors import RunError, TrainingError
from headstart.optional import require
from headstart.training.checkpoint import Checkpoints, with_prefix, without_prefix
from headstart.training.events import (
    EpochDone,
    Event,
    FitResult,
    FitStarted,
    HeadSolved,
    PhaseStarted,
    Position,
    StepDone,
)
from headstart.training.loop import Fit
from headstart.training.phase_fit import PhaseFit
from headstart.types import StepChoice

ChooseStep = Callable[[PhaseFit], StepChoice]
Events = Iterator[Event]

CHECKPOINT_EVERY_S = 120.0  # within a long epoch


class Log(Protocol):
    """A table of epochs."""

    def truncate_to(self, num_rows: int) -> None:
        """Keep the first rows only."""

    def append(self, row: Row) -> None:
        """Add a row."""


def run_fit(
    fit: Fit,
    *,
    checkpoints: Checkpoints | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    log: Log | None = None,
    tensorboard: Path | None = None,
    choose_step: ChooseStep | None = None,
    display: Display | None = None,
    title: str = "training",
) -> FitResult:
    """Train, going on from the checkpoint where there is one.

    Args:
        fit: What is trained and how.
        checkpoints: Files to save to, and to resume from.
        checkpoint_every_s: Seconds after which a long epoch is saved in its middle.
        log: Receives a row per epoch.
        tensorboard: Folder for TensorBoard's event files.
        choose_step: Says how the steps of a phase run.
        display: Shows how far training is.
        title: What the display calls this training.

    Raises:
        TrainingError: The loss is not finite, or a frozen tensor changed.
        RunError: A file cannot be written, or is damaged.
    """
    if checkpoints is not None:
        resume_from(checkpoints, fit)
    events = fit.events()
    if choose_step is not None:
        events = tuned(events, choose_step)
    if log is not None:
        events = logged(events, log)
    if tensorboard is not None:
        events = drawn_in_tensorboard(events, tensorboard)
    if checkpoints is not None:
        events = checkpointed(events, fit, checkpoints, every_s=checkpoint_every_s)
    if display is not None:
        events = shown(events, display, title)
        events = judged(events, display, num_classes=len(fit.model.labels))
    for _ in events:
        pass
    return fit.result()


def tuned(events: Events, choose_step: ChooseStep) -> Events:
    """Choose how the steps of each phase run."""
    for event in events:
        if isinstance(event, PhaseStarted):
            event.phase.choice = choose_step(event.phase)
        yield event


def logged(events: Events, log: Log) -> Events:
    """Write a row per epoch; after a resume, forget the rows that come again."""
    for event in events:
        if isinstance(event, FitStarted):
            log.truncate_to(event.num_rows)
        elif isinstance(event, HeadSolved | EpochDone):
            log.append(event.row)
        yield event


def checkpointed(events: Events, fit: Fit, checkpoints: Checkpoints, *, every_s: float) -> Events:
    """Save after every epoch, and now and then within a long one."""
    saved_at = time.monotonic()
    for event in events:
        if isinstance(event, EpochDone) and event.best:
            checkpoints.save(event.best, with_prefix("network", fit.best), {})
        is_due = isinstance(event, StepDone) and time.monotonic() - saved_at > every_s
        if isinstance(event, EpochDone) or is_due:
            checkpoints.save("last", *fit.state())
            saved_at = time.monotonic()
        yield event


def resume_from(checkpoints: Checkpoints, fit: Fit) -> None:
    """Put a fit where its last checkpoint was made; do nothing where there is none.

    Raises:
        RunError: A file is damaged, or another version's.
        TrainingError: The weights that were chosen are gone.
    """
    saved = checkpoints.load("last")
    if saved is None:
        return
    tensors, values = saved
    try:
        position = Position(**values)
    except TypeError as error:
        raise RunError(f"the checkpoints in {checkpoints.folder} are another version's; start a new run") from error
    best = {}
    if position.best_epoch:
        found = checkpoints.load(position.best_name)
        if found is not None:
            best = without_prefix("network", found[0])
        elif fit.settings.selects:
            raise TrainingError(f"{checkpoints.folder}/{position.best_name}.safetensors is gone; start again")
    fit.restore(tensors, position, best)


def shown(events: Events, display: Display, title: str) -> Events:
    """Tell people how far training is."""
    has_begun = False
    try:
        for event in events:
            match event:
                case FitStarted():
                    display.begin_training(title, event.num_steps, event.num_done)
                    has_begun = True
                case StepDone():
                    display.step()
                case HeadSolved() | EpochDone():
                    display.epoch(event.row)
            yield event
    finally:
        if has_begun:
            display.end_training()


def judged(events: Events, display: Display, *, num_classes: int) -> Events:
    """Note a fit that ends with a higher loss than it began with, and with twice what guessing has.

    Guessing is the same probability for every class. Its cross-entropy is ln C, also of smoothed and mixed targets. A
    loss about that of guessing is one of a network that has learnt nothing, which other notes say; above twice that it
    is sure of what is wrong, and its steps are too large.
    """
    guessing = math.log(num_classes)
    first_loss = None
    last_loss = None
    for event in events:
        match event:
            case FitStarted() if event.num_done:
                first_loss = guessing  # what it began with was seen by the process that was interrupted
            case StepDone() if first_loss is None:
                first_loss = event.result.loss
            case EpochDone():
                last_loss = event.row["train_loss"]
        yield event
    if first_loss is None or last_loss is None:
        return
    if last_loss > max(first_loss, 2 * guessing):
        display.note(
            f"the training loss rose to {last_loss:.3g}; the same probability for every class would give "
            f"{guessing:.3g}. The steps are too large: train again with a smaller --lr; headstart lr-find suggests one"
        )


def drawn_in_tensorboard(events: Events, folder: Path) -> Events:
    """Write losses, accuracies and learning rates as TensorBoard's event files.

    The step of an event is the number of its row. After a resume TensorBoard is told to forget the rows that come
    again, as the table of epochs does.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer = None
    num_rows = 0
    try:
        for event in events:
            if isinstance(event, FitStarted):
                num_rows = event.num_rows
                writer = SummaryWriter(folder, purge_step=num_rows + 1)
            elif isinstance(event, HeadSolved | EpochDone) and writer is not None:
                num_rows += 1
                for name, column in _curves(event.row).items():
                    if event.row.get(column) is not None:
                        writer.add_scalar(name, event.row[column], num_rows)
                writer.flush()
            yield event
    finally:
        if writer is not None:
            writer.close()


def _curves(row: Row) -> dict[str, str]:
    """Return the name of each curve that TensorBoard shows, with the column that it is drawn from."""
    split = str(row.get("val_split")).replace(" ", "_")
    return {
        "loss/train": "train_loss",
        "accuracy/train": "train_accuracy",
        f"loss/{split}": "val_loss",
        f"accuracy/{split}": "val_accuracy",
        "learning_rate/lowest": "lr",
        "learning_rate/head": "head_lr",
        "phase": "phase",
    }


def require_tensorboard() -> None:
    """Refuse `--log tensorboard` where the package is missing, before anything is trained.

    Raises:
        MissingExtraError: It is not installed.
    """
    require("tensorboard", extra="tensorboard", purpose="--log tensorboard")
