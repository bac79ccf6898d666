"""What a run decided: what followed from the settings, the data, the device and timing. Loads no torch.

`Config` is what was asked for, and never changes. A run writes both into its folder, `config.yaml` and `resolved.json`;
a resume or a repeat replays the second.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from headstart.errors import RunError
from headstart.types import GreyRange, StepChoice


class Resolved(BaseModel):
    """Holds what a run decided, and is frozen. Values per phase are in the order of the plan.

    Attributes:
        strategy: Name of the strategy, or of the user's table.
        table: The user's table, or None.
        lr: Learning rate of the lowest part that trains.
        head_lr: Learning rate of a head beside pretrained parts.
        batch_size: Images per step.
        head_init: Whether the head starts from `random` numbers or from rows of the `source`.
        match: Class -> row of the source's head, `rest` or `none`.
        epochs: What the schedule of each phase spans; empty in runs of version 0.1 where no time limit set it.
        is_timed: Whether a time limit set these lengths.
        stop_after: How many epochs of each phase were chosen on images that select; None: all run.
        steps: How the steps of each phase run, as far as that is decided; None of a phase without steps.
        grey_range: Which values of grey images with more than 8 bits become black and white; None: there were none.
        engines: Number of frozen stages -> what computes the features above them, such as `openvino 32`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    strategy: str
    table: dict[str, Any] | None = None
    lr: float
    head_lr: float
    batch_size: int = 0
    head_init: Literal["random", "source"] = "random"
    match: dict[str, int | str] = {}
    epochs: tuple[int, ...] = ()
    is_timed: bool = False
    stop_after: tuple[int, ...] | None = None
    steps: tuple[StepChoice | None, ...] = ()
    grey_range: GreyRange | None = None
    engines: dict[int, str] = {}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values."""
        return self.model_copy(update=changes)

    def step_of(self, phase: int) -> StepChoice | None:
        """Return how the steps of a phase, numbered from 0, run; None where that is not decided."""
        if phase >= len(self.steps):
            return None
        return self.steps[phase]

    def with_step(self, phase: int, step: StepChoice) -> Self:
        """Return a copy in which the steps of a phase, numbered from 0, run in this way."""
        steps = list(self.steps)
        while len(steps) <= phase:
            steps.append(None)
        steps[phase] = step
        return self.replace(steps=tuple(steps))

    def to_json(self) -> str:
        """Return the content of `resolved.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, data: bytes, where: Path) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RunError: The file is damaged, or another version's.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = "it holds no JSON object of decisions"
            if place:
                reason = f"{place}: {first['msg'].lower()}"
            raise RunError(f"{where} is damaged or another version's ({reason}); train again") from error


_STEP_OF_PHASE = "step_of_phase_"  # and its number from 1; the name of a choice in version 0.1


def decisions_of_version_0_1(settings: Mapping[str, Any], where: Path) -> Resolved:
    """Read the decisions of a run of version 0.1, which wrote them among its settings.

    Args:
        settings: Content of its `config.yaml`.
        where: That file.

    Raises:
        RunError: A value is missing or damaged.
    """
    try:
        choices = settings["choices"]
        lr = float(settings["lr"])
        resolved = Resolved(
            strategy=settings["strategy"],
            table=settings.get("table"),
            lr=lr,
            head_lr=settings.get("head_lr") or lr * settings.get("head_lr_mult", 10.0),
            batch_size=settings["batch_size"],
            head_init=settings["head_init"],
            match=choices.get("match", {}),
            epochs=choices.get("epochs", ()),
            is_timed="epochs" in choices,
            stop_after=choices.get("stop_after"),
        )
        for key, step in choices.items():
            if key.startswith(_STEP_OF_PHASE):
                number = int(key.removeprefix(_STEP_OF_PHASE))
                resolved = resolved.with_step(number - 1, StepChoice(**step))
        return resolved
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise RunError(f"{where} is damaged, or is no longer read: {reason}; train again with --overwrite") from error
