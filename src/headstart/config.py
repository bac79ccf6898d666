"""The settings of one run, their defaults and their checks. Every field is also a flag of `headstart train`.

Config stops at the door: `headstart.experiment` unpacks it and hands flat arguments to the parts.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from headstart.errors import ConfigError, did_you_mean, either
from headstart.values import (
    Counts,
    Floats,
    Fraction,
    Gigabytes,
    Ints,
    Matches,
    Names,
    Pairs,
    Seconds,
    plain_value,
    read_yaml,
)

_PLAIN_NAME = re.compile(r"[\w-]+( [\w-]+)*")  # holds nothing that separates pairs


class Config(BaseModel):
    """Holds what was asked for, the settings of one run. It is frozen, and unknown keys are refused.

    `model_fields_set` names what was asked for. What follows from it is decided by `headstart.experiment`, and is a
    value of its own: `headstart.resolved.Resolved`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    # Data
    data: str = Field("", description="folder of class folders, CSV or parquet manifest, or catalogue name")
    layout: Literal["auto", "class", "split/class", "class/split", "part/class"] = Field(
        "auto", description="how the folders are read, where their names leave it open"
    )
    map: Pairs = Field({}, description="merge classes: bird=animal,cat=animal or a YAML file")
    exclude: Names = Field([], description="classes to leave out: cat,dog (as they are called after map)")
    max_per_class: Counts = Field(None, description="a balanced, seeded subset: N, or train=N,test=M")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share reported on where the data has no splits")
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of train that selects, where none is given")
    split_seed: int = Field(0, ge=0, lt=2**32, description="seed of splits and subsets; runs of all seeds share them")
    leaks: Literal["drop", "error", "keep"] = Field(
        "drop",
        description="of two splits: drop leaves out copies and refuses shared groups, error refuses both, keep marks",
    )
    skip_bad: bool = Field(False, description="leave out unreadable images and list them")

    # Model
    backbone: str = Field("lite0", description="lite0, simple-cnn, a torchvision model or timm/NAME")
    weights: str | None = Field(None, description="weight file, run folder, or 'none'; default: the published ones")
    head_init: Literal["random", "source"] = Field(
        "random",
        description="source: the weights' own rows start the classes that they know; so too with match, and with a run "
        "whose classes are all among the data's",
    )
    match: Matches = Field(
        {}, description="which of the weights' classes: hot_dog=934,ants=ant, or rest (all others), or none (a new row)"
    )
    head_hidden: int | None = Field(None, gt=0, description="units of a hidden layer in the head")
    dropout: Fraction = Field(0.0, description="dropout before the last layer")
    image_size: int | None = Field(None, ge=16, description="side of the network's input, pixels")
    resize: Ints = Field(None, description="shorter side, or H,W exactly, before the central crop, pixels")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = Field(
        None, description="resize filter"
    )

    decoder: Literal["pillow", "pillow-scaled"] = Field(
        "pillow",
        description="pillow-scaled: large pictures are reduced first; faster, most of all in training on JPEGs",
    )

    # Strategy
    strategy: str = Field(
        "head",
        description="scratch, head, partial, full, layerwise, gradual, lp-ft, l2-sp, lora, adapter, norm or YAML file",
    )
    table: dict[str, Any] | None = Field(None, description="the phases of a strategy of one's own (YAML only)")
    stages: int | None = Field(
        None, ge=1, description="how many of the last stages train; default: partial 1; lora, adapter and norm all"
    )
    phases: int = Field(3, ge=1, description="gradual: how many phases")
    layer_decay: float = Field(0.75, gt=0, le=1, description="layerwise: factor from a stage to the one below")
    lora_rank: int = Field(8, ge=1, description="lora: rank of the change of each weight")
    lora_alpha: float = Field(16.0, gt=0, description="lora: each change is scaled by lora_alpha / lora_rank")
    adapter_width: int = Field(16, ge=1, description="adapter: width of the bottlenecks")
    l2sp_alpha: float = Field(0.1, ge=0, description="l2-sp: pull of what was pretrained towards its start")
    l2sp_beta: float = Field(0.01, ge=0, description="l2-sp: pull of the new head towards zero")
    epochs: int = Field(5, ge=0, description="epochs of every phase")
    phase_epochs: Ints = Field(None, description="epochs per phase: 5,5,5")
    phase_lrs: Floats = Field(None, description="learning rate per phase: 1e-3,1e-4,1e-5")
    solver: Literal["auto", "lbfgs", "loop"] = Field(
        "auto", description="how a head alone is found: trained, or solved to its optimum; auto: solved in lp-ft"
    )
    batch_norm: Literal["auto", "batch", "fixed"] = Field(
        "auto", description="statistics of the BatchNorm that trains; auto: fixed for pretrained, batch for scratch"
    )

    # Optimisation
    lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of the lowest part that trains (gradual: last phase; layerwise: top stage)",
    )
    head_lr: float | None = Field(None, gt=0, description="learning rate of a new head beside pretrained parts")
    head_lr_mult: float = Field(10.0, gt=0, description="the same as a multiple of lr")
    batch_size: int = Field(32, ge=0, description="images per step; 0: the fastest on this GPU, 32 on a CPU")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="adamw, adam or sgd")
    momentum: Fraction = Field(0.9, description="sgd: momentum")
    weight_decay: float = Field(0.01, ge=0, description="decay per step, as the optimizer defines it")
    decay_all: bool = Field(False, description="decay norms and biases too")
    loss_reduction: Literal["mean", "sum"] = Field("mean", description="of the loss over a batch")
    schedule: Literal["constant", "cosine", "one-cycle", "step"] = Field(
        "one-cycle", description="learning rate over a phase"
    )
    warmup: Fraction = Field(0.1, description="cosine: share of the phase spent warming up")
    step_epochs: int = Field(7, ge=1, description="step: epochs after which the rate falls to a tenth, each time")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    accumulate: int = Field(1, ge=1, description="batches per optimizer step")
    label_smoothing: Fraction = Field(0.0, description="probability given to the other classes")
    mixup: float = Field(0.0, ge=0, description="alpha of mixup; 0: off")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix; 0: off")
    ema: Fraction = Field(0.0, description="decay of the weights' moving average; 0: off")
    augment: Literal["none", "flip", "crop", "strong"] = Field("crop", description="none, flip, crop or strong")

    views: int = Field(4, ge=1, description="how many views of each image a frozen part sees; the first is unaugmented")

    # Selection
    best_epoch: bool = Field(False, description="keep the epoch that is best (select_by) on the images that select")
    select_by: Literal["loss", "accuracy"] = Field(
        "loss", description="what is best: the lowest loss, or the highest accuracy as some lessons do"
    )
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better one (select_by)")
    select_on: Literal["auto", "reported"] = Field(
        "auto", description="reported: as some lessons do; marked everywhere"
    )
    refit: bool = Field(True, description="after selecting on a part of train, train again on all of it")
    selection_score: bool = Field(False, description="score the settings on images that are not reported, for compare")

    # Run
    time_limit: Seconds = Field(
        None, gt=0, description="seconds for the whole run, or 10m, 1h: fewer epochs, still annealed"
    )
    memory_limit: Gigabytes = Field(
        None, gt=0, description="GB that training may take; default: half of the memory, or 4/5 of a GPU's"
    )
    monitor: bool = Field(True, description="loss and accuracy on the held-out split after every epoch")
    log: Literal["none", "tensorboard"] = Field("none", description="tensorboard: event files in RUN/tensorboard too")
    keep_checkpoints: bool = Field(False, description="keep RUN/checkpoints, which only --resume needs, to the end")
    precision: Literal["auto", "32", "bf16"] = Field(
        "auto", description="of steps and engine; auto: timed and compared, and 32 for the figures"
    )
    engine: Literal["auto", "openvino", "torch-compiled", "torch"] = Field(
        "auto", description="what runs the frozen part"
    )
    cache: bool = Field(True, description="keep what the frozen part computes, also for later runs")
    tune: Literal["auto", "off"] = Field("auto", description="time the first batches to choose how steps run")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    channels_last: bool = Field(True, description="memory format of convolutions")
    threads: int | None = Field(None, ge=1, description="decoding threads; default: one per core, 8 at most")
    seed: int = Field(0, ge=0, lt=2**32, description="weights, order, augmentation and dropout")
    repeat: str | None = Field(
        None,
        description="run folder: decide as it did, if the settings are the same (--config of a run sets this)",
    )
    out: str | None = Field(
        None,
        description="folder; default: runs/<data>-<backbone>-<strategy>-seed<seed>; of compare: runs/compare-<data>",
    )

    @property
    def selects(self) -> bool:
        """Tells whether held-out images choose the epoch."""
        return self.best_epoch or self.patience is not None

    def asked(self) -> dict[str, Any]:
        """Return what was asked for as plain values, in the order of the settings."""
        return self.model_dump(mode="json", exclude_unset=True)

    @model_validator(mode="before")
    @classmethod
    def _read_naturally(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: plain_value(value, _words_of_setting(key)) for key, value in values.items()}

    @field_validator("data", mode="before")
    @classmethod
    def _one_source(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            raise ValueError(
                f"expected one folder, table or catalogue name; got a list of {len(value)}. Put the folders into one, "
                "or write a table with the columns path and label"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _match_means_source(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("match") and "head_init" not in values:
            return {**values, "head_init": "source"}
        return values

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        """Refuse settings that cannot both hold."""
        if self.head_lr is not None and "head_lr_mult" in self.model_fields_set:
            raise ValueError("head_lr and head_lr_mult both set the head's rate; give one of them")
        if self.resize is not None and len(self.resize) not in (1, 2):
            raise ValueError(f"resize takes one number (shorter side) or two (height, width); got {self.resize}")
        if self.match and self.head_init == "random":
            raise ValueError("match names rows of the weights' own head, and head_init=random uses none; leave one out")
        if self.head_init == "source" and self.weights == "none":
            raise ValueError("head_init=source needs pretrained weights; leave out head_init, or weights=none")
        if self.head_init == "source" and self.head_hidden is not None:
            raise ValueError("head_init=source fills a head of one linear layer; leave out head_hidden")
        return self


def make_config(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from plain values.

    Raises:
        ConfigError: A setting is not valid; the message is one line with the key, the value and what was expected.
    """
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(_message(error)) from error


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file of settings and put `overrides` on top.

    Where the file is that of a run, `repeat` names the run, so that it is decided as it was there.

    Raises:
        ConfigError: The file cannot be read, or a setting is not valid.
    """
    values: dict[str, Any] = {}
    overrides = overrides or {}
    if path is not None:
        values = read_yaml(path)
        if is_run_config(path):
            values = {**asked_values(values), "repeat": str(path.parent)}

    # A table belongs to the strategy of the file, not to another one.
    strategy = values.get("strategy")
    if overrides.get("strategy", strategy) != strategy:
        values.pop("table", None)
    return make_config({**values, **overrides})


def is_run_config(path: Path) -> bool:
    """Tell whether a file of settings is that of a run."""
    return path.name == "config.yaml" and (path.parent / "environment.json").is_file()


def asked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked for among the settings in a run's file.

    Runs of version 0.1 wrote every setting, and what they decided among them. There what may have been decided (the
    rate and where the head starts) does not count as asked for, and of the rest what differs from the default does.
    """
    if "choices" not in values:
        return dict(values)
    decided = {"choices", "lr", "head_init"}
    if values.get("head_init") == "source" and values.get("head_lr_mult") == 1.0:
        decided.add("head_lr_mult")
    asked = {}
    for key, value in values.items():
        field = Config.model_fields.get(key)
        is_default = field is not None and value == field.default
        if key not in decided and not is_default:
            asked[key] = value
    return asked


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` words (of `--set`), the value in YAML's terms.

    Raises:
        ConfigError: A word has no `=`.
    """
    values = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value; got {word!r}")
        try:
            values[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {word!r}: the value is not valid YAML; quote it") from error
    return values


def dump_config(config: Config) -> str:
    """Write what was asked for as YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.asked(), sort_keys=False, allow_unicode=True)


def command_words(asked: Mapping[str, Any], *left_out: str) -> list[str]:
    """Write what was asked for as words of `headstart train`, but for the folder.

    Args:
        asked: Settings as plain values, as config.yaml holds them; what is no setting is left out.
        left_out: Names of others to leave out.
    """
    words = ["headstart", "train", str(asked.get("data", ""))]
    for name, value in asked.items():
        is_flag = name in Config.model_fields and name not in ("data", "out", "table", "repeat", *left_out)
        if not is_flag or value is None:
            continue
        flag = name.replace("_", "-")
        if value is True:
            words.append(f"--{flag}")
        elif value is False:
            words.append(f"--no-{flag}")
        else:
            words += [f"--{flag}", _flag_value(value)]
    return words


def _flag_value(value: object) -> str:
    """Write a value as a flag takes it."""
    if isinstance(value, Mapping):
        names = [str(part) for part in (*value.keys(), *value.values())]
        if not all(_PLAIN_NAME.fullmatch(name) for name in names):
            return json.dumps(value, ensure_ascii=False)
        value = [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _message(error: ValidationError) -> str:
    """Say in one line what is wrong with the first setting that pydantic refuses."""
    first = error.errors()[0]
    reason = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    # What follows the field is pydantic's own: a position in a list, a member of a union.
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"unknown setting {key!r}.{did_you_mean(key, Config.model_fields)} See: headstart train --help"
    got = first.get("input")
    words = _words_of_setting(key)
    if words and isinstance(got, str):
        return f"{key}={got!r} is not one of {', '.join(words)}.{did_you_mean(got, words)}"
    return f"{key}={got!r} is not valid: {reason[:1].lower()}{reason[1:]}"


def description(field: str) -> str:
    """Return what a setting means, with the words that it takes where these are not all named."""
    text = Config.model_fields[field].description or ""
    words = _words_of_setting(field)
    if all(word in text for word in words):
        return text
    return f"{text} ({either(words)})"


def _words_of_setting(field: str) -> tuple[str, ...]:
    """Return the words that a setting takes; none where it takes other values, or is no setting."""
    if field not in Config.model_fields:
        return ()
    annotation = Config.model_fields[field].annotation
    for option in (annotation, *get_args(annotation)):
        if get_origin(option) is Literal:
            return get_args(option)
    return ()
