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
from headstart.types import StepChoice


class Resolved(BaseModel):
    """What a run decided; frozen. A value per phase is in the order of the plan.

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
        steps: How the steps of each phase run; None where nothing was timed.
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
    engines: dict[int, str] = {}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values."""
        return self.model_copy(update=changes)

    def with_step(self, phase: int, step: StepChoice) -> Self:
        """Return a copy in which the steps of a phase run in this way."""
        return self.replace(steps=(*self.steps[:phase], step, *self.steps[phase + 1 :]))

    def to_json(self) -> str:
        """Return the content of `resolved.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, data: bytes, where: Path) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RunError: It is damaged, or another version's.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise RunError(
                f"{where} is damaged or another version's ({place}: {first['msg'].lower()}); train again with "
                "--overwrite"
            ) from error


def decisions_of_version_0_1(settings: Mapping[str, Any], where: Path) -> Resolved:
    """Read the decisions of a run of version 0.1, which wrote them among its settings.

    Args:
        settings: Content of its `config.yaml`.
        where: That file.

    Raises:
        RunError: A value is missing or damaged.
    """
    try:
        choices, lr = settings["choices"], float(settings["lr"])
        stop_after = choices.get("stop_after")
        num_steps = sum(key.startswith("step_of_phase_") for key in choices)
        steps = [choices.get(f"step_of_phase_{number}") for number in range(1, num_steps + 1)]
        return Resolved(
            strategy=settings["strategy"],
            table=settings.get("table"),
            lr=lr,
            head_lr=settings.get("head_lr") or lr * settings.get("head_lr_mult", 10.0),
            batch_size=settings["batch_size"],
            head_init=settings["head_init"],
            match=choices.get("match", {}),
            epochs=tuple(choices.get("epochs", ())),
            is_timed="epochs" in choices,
            stop_after=None if stop_after is None else tuple(stop_after),
            steps=tuple(None if step is None else StepChoice(**step) for step in steps),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{where} is damaged, or is no longer read: {error}; train again with --overwrite") from error
