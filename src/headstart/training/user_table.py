"""A strategy of the user's own: a table of phases, read from YAML. Importing this module loads no torch."""

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from headstart.errors import PlanError, did_you_mean
from headstart.training.penalties import L2SP
from headstart.training.plan import BatchNormPolicy, Phase, Plan, Rule, Solver
from headstart.types import Parts

_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass


def _none_if_frozen(value: object) -> object:
    """Read the word `frozen` of a table as None."""
    return None if value == "frozen" else value


_Multiplier = Annotated[float | None, Field(gt=0), BeforeValidator(_none_if_frozen)]


class _Spec(BaseModel):
    """A part of a user's table, in which an unknown key is an error."""

    # Numbers to text: YAML reads the name of a module such as `0` as a number.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class _PhaseSpec(_Spec):
    """A phase of a user's table; of what it leaves out, `parse_table` has the defaults."""

    rules: dict[str, _Multiplier] = Field(min_length=1)
    name: str = ""
    lr: float = Field(0.0, gt=0)
    epochs: int = Field(0, ge=0)
    batch_norm: BatchNormPolicy = "fixed"
    start: Literal["last", "best"] = "best"
    solver: Solver = "loop"
    penalty: L2SP | None = None


class _TableSpec(_Spec):
    """A user's table."""

    phases: list[_PhaseSpec] = Field(min_length=1)
    name: str = ""
    pretrained: bool = Field(True, strict=True)
    parts: Parts | None = None


def parse_table(
    table: Mapping[str, Any],
    *,
    name: str,
    default_lr: float,
    default_epochs: int,
    default_batch_norm: BatchNormPolicy = "fixed",
) -> Plan:
    """Read a user's own strategy.

    Args:
        table: `{pretrained: true, parts: lora, phases: [{name, epochs, lr, batch_norm, start, solver,
            penalty: {alpha, beta}, rules: {pattern: multiplier}}]}`,
            where a multiplier of null or `frozen` freezes, and only `rules` is required. `parts` are inserted before
            training: `lora` (`*.lora_a`, `*.lora_b`) or `adapter` (`*.adapter.*`).
        name: What the strategy is called.
        default_lr: Rate of a phase that names none.
        default_epochs: Length of a phase that names none.
        default_batch_norm: Policy of a phase that names none.

    Raises:
        PlanError: A key is unknown, missing or has a wrong value.
    """
    try:
        spec = _TableSpec.model_validate(table)
    except ValidationError as error:
        raise PlanError(f"strategy table {name!r}: {_first_table_error(error)}") from error
    phases = []
    for i, each in enumerate(spec.phases):
        if each.solver == "lbfgs" and each.penalty is not None:
            raise PlanError(
                f"strategy table {name!r}: phases[{i}] is solved, which takes no penalty; leave it out, or use "
                "solver: loop"
            )
        values: dict[str, Any] = {
            "name": f"phase {i + 1}",
            "lr": default_lr,
            "epochs": default_epochs,
            "batch_norm": default_batch_norm,
        }
        for key in each.model_fields_set:
            values[key] = getattr(each, key)
        values["rules"] = tuple(Rule(pattern, multiplier) for pattern, multiplier in each.rules.items())
        phases.append(Phase(**values))
    return Plan(spec.name or name, tuple(phases), spec.pretrained)


def _first_table_error(error: ValidationError) -> str:
    """Say where the first error is, and what: `phases[0].epochs: input should be a valid integer; got 'many'`."""
    errors = error.errors()
    # What a misspelt key leaves missing is an error too, and says less.
    unknown_keys = [each for each in errors if each["type"] in _UNKNOWN_KEY]
    first = unknown_keys[0] if unknown_keys else errors[0]

    place = ""
    for part in first["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}"
    place = place.removeprefix(".")

    if unknown_keys:
        # At depth 1 it is a key of the table, at 3 one of phases[0], at 4 one of phases[0].penalty.
        keys_by_level = (_TableSpec.model_fields, _PhaseSpec.model_fields, L2SP.__dataclass_fields__)
        known = list(keys_by_level[len(first["loc"]) // 2])
        return f"unknown key {place}.{did_you_mean(str(first['loc'][-1]), known)}"
    message = "input should be a mapping" if "instance of" in first["msg"] else first["msg"]
    return (
        f"{place}: {message[:1].lower()}{message[1:]}; got {reprlib.repr(first['input'])}. "
        "A table is such as {phases: [{lr: 1e-3, epochs: 5, rules: {classifier: 10, '*': null}}]}; null freezes"
    )
