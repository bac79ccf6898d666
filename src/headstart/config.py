"""The settings of one run, their defaults and their checks. Every field is also a flag of `headstart train`.

Config stops at the door: `headstart.experiment` unpacks it and hands flat arguments to the parts.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from headstart.errors import ConfigError, did_you_mean, either


def _pairs(value: object) -> object:
    """Read `a=b,c=d`, a JSON object, or a YAML file holding a mapping, into a dict."""
    if not isinstance(value, str):
        return value
    if value.endswith((".yaml", ".yml")):
        return read_yaml(Path(value))
    if value.startswith("{"):  # as `command_words` writes names that hold commas and the like
        return json.loads(value)
    parts = [part.partition("=") for part in value.split(",") if part.strip()]
    if bad := ["".join(part) for part in parts if not part[1] or not part[0].strip() or not part[2].strip()]:
        raise ValueError(f"expected name=value pairs separated by commas, or a YAML file; got {bad[0]!r}")
    return {key.strip(): item.strip() for key, _, item in parts}


def _counts(value: object) -> object:
    """Read `N`, or `train=N,test=M`."""
    if value is None:
        return None
    with suppress(TypeError, ValueError):
        found: Any = int(value) if isinstance(value, str) and value.isdigit() else _pairs(value)
        counts = found.values() if isinstance(found, dict) else [found]
        if counts and all(int(count) >= 1 for count in counts):
            return found
    raise ValueError("expected N, or train=N,test=M, each at least 1")


def _list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _duration(value: object) -> object:
    """Read `90`, `90s`, `10m` or `1.5h` into seconds."""
    if not isinstance(value, str):
        return value
    factor = {"s": 1, "m": 60, "h": 3600}.get(value[-1:])
    try:
        return float(value) if factor is None else float(value[:-1]) * factor
    except ValueError:
        raise ValueError("expected seconds, or 10m, 1h") from None


Pairs = Annotated[dict[str, str], BeforeValidator(_pairs)]
Matches = Annotated[dict[str, int | str], BeforeValidator(_pairs)]
Counts = Annotated[int | dict[str, int] | None, BeforeValidator(_counts)]
Ints = Annotated[list[Annotated[int, Field(ge=0)]] | None, BeforeValidator(_list)]
Floats = Annotated[list[Annotated[float, Field(gt=0)]] | None, BeforeValidator(_list)]
Seconds = Annotated[float | None, BeforeValidator(_duration)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


# Settings that change nothing about what was decided by timing or selection.
_HARMLESS = {"out", "threads", "monitor", "log", "cache"}


class Config(BaseModel):
    """The settings of one run; frozen, and unknown keys are refused.

    A field left at None is filled in by `headstart.experiment` from the backbone and the strategy; `config.yaml` in the
    run folder holds the filled-in values, so that the run can be repeated from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    # Data
    data: str = Field("", description="folder of class folders, CSV or parquet manifest, or catalogue name")
    map: Pairs = Field({}, description="merge classes: bird=animal,cat=animal or a YAML file")
    max_per_class: Counts = Field(None, description="a balanced, seeded subset: N, or train=N,test=M")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share reported on where the data has no splits")
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of train that selects, where none is given")
    split_seed: int = Field(0, ge=0, lt=2**32, description="seed of splits and subsets; runs of all seeds share them")
    leaks: Literal["drop", "error", "keep"] = Field("drop", description="images that copy one that judges them")
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
        "pillow", description="pillow-scaled: large JPEGs faster, other pixels"
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
    time_limit: Seconds = Field(None, gt=0, description="seconds of training, or 10m, 1h: fewer epochs, still annealed")
    monitor: bool = Field(True, description="loss and accuracy on the held-out split after every epoch")
    log: Literal["none", "tensorboard"] = Field("none", description="tensorboard: event files in RUN/tensorboard too")
    precision: Literal["auto", "32", "bf16"] = Field(
        "auto", description="of steps and engine; auto: timed and compared"
    )
    engine: Literal["auto", "openvino", "torch"] = Field("auto", description="what runs the frozen part")
    cache: bool = Field(True, description="keep what the frozen part computes, also for later runs")
    tune: Literal["auto", "off"] = Field("auto", description="time the first batches to choose how steps run")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    channels_last: bool = Field(True, description="memory format of convolutions")
    threads: int | None = Field(None, ge=1, description="decoding threads; default: one per core, 8 at most")
    seed: int = Field(0, ge=0, lt=2**32, description="weights, order, augmentation and dropout")
    out: str | None = Field(
        None,
        description="folder; default: runs/<data>-<backbone>-<strategy>-seed<seed>; of compare: runs/compare-<data>",
    )

    # Filled in by a run, never by hand: what was decided by timing, replayed by a resume or a repeat.
    choices: dict[str, Any] = Field({}, description="what timing decided (written by a run)")

    _given: frozenset[str] = frozenset()

    @property
    def given(self) -> frozenset[str]:
        """What `load_config` put on top of a file: it was asked for, and did not follow from other settings."""
        return self._given

    @model_validator(mode="before")
    @classmethod
    def _match_means_source(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("match") and "head_init" not in values:
            return {**values, "head_init": "source"}
        return values

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.head_lr is not None and "head_lr_mult" in self.model_fields_set:
            raise ValueError("head_lr and head_lr_mult both set the head's rate; give one of them")
        if self.resize is not None and len(self.resize) not in (1, 2):
            raise ValueError(f"resize takes one number (shorter side) or two (height, width); got {self.resize}")
        if self.strategy == "scratch" and self.weights not in (None, "none"):
            raise ValueError("strategy 'scratch' starts from random weights; leave out weights, or use 'full'")
        if self.match and self.head_init == "random":
            raise ValueError("match names rows of the weights' own head, and head_init=random uses none; leave one out")
        if self.head_init == "source" and (self.strategy == "scratch" or self.weights == "none"):
            raise ValueError("head_init=source needs pretrained weights, and random ones were asked for")
        if self.head_init == "source" and self.head_hidden is not None:
            raise ValueError("head_init=source fills a head of one linear layer; leave out head_hidden")
        return self


def make_config(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from plain values.

    Raises:
        ConfigError: In one line, with the key, the value, what was expected and a suggestion.
    """
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(_describe(error)) from error


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file of settings and put `overrides` on top, as `with_overrides` does.

    Raises:
        ConfigError: The file cannot be read, or a setting is not valid.
    """
    values, overrides = read_yaml(path) if path is not None else {}, overrides or {}
    config = make_config(with_overrides(values, overrides))
    config._given = frozenset(overrides if path is not None else ())
    return config


def with_overrides(
    values: Mapping[str, Any], overrides: Mapping[str, Any], *, kept: Collection[str] = ()
) -> dict[str, Any]:
    """Put `overrides` on top of settings, and leave out what followed from those that they change.

    What a run decided and wrote into its `config.yaml` holds for its own settings only: with another strategy or
    optimizer its learning rate is left out, with another start of the head its rates, and with any other setting its
    choices by timing and selection.

    Args:
        values: Settings. Those with `choices` are a run's, and name every setting whether it was asked for or not.
        overrides: Other values of some of them.
        kept: Settings that were asked for, and stay.
    """
    changed = {key for key, value in overrides.items() if str(value) != str(values.get(key))}
    found = dict(values)
    if "strategy" in changed and "table" in found:
        found["table"] = None
    if "choices" in found:
        if changed - _HARMLESS:
            found["choices"] = {}
        for key in _followed(values, changed) - set(kept):
            found.pop(key, None)
    return {**found, **overrides}


def _followed(values: Mapping[str, Any], changed: Collection[str]) -> set[str]:
    """Return which of a run's settings may have followed from those that change."""
    found = set()
    if {"strategy", "optimizer"} & set(changed):
        found.add("lr")
    # A strategy without such a rate leaves it at its default, which is not that of a head from the source's rows.
    if "strategy" in changed and values.get("head_lr_mult") == Config.model_fields["head_lr_mult"].default:
        found.add("head_lr_mult")
    if {"head_init", "match"} & set(changed):  # the rates follow from where the head starts
        found |= {"head_init", "lr", "head_lr_mult"}
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: It is missing, is not YAML or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected a mapping of settings such as 'epochs: 5'")
    return {str(key): value for key, value in values.items()}


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
    """Write a config as YAML that `load_config` reads back to an equal one."""
    values = config.model_dump(mode="json")
    # Contradiction checks look at what was set by hand, so the one that follows from the other is left out.
    if values["head_lr"] is not None:
        values.pop("head_lr_mult")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def command_words(values: Mapping[str, Any], *left_out: str) -> list[str]:
    """Write the settings that differ from the defaults as words of `headstart train`, but for the folder.

    Args:
        values: Those that were decided; what is not among them is left open.
        left_out: Names of others to leave out.
    """
    words = ["headstart", "train", str(values["data"])]
    # With a run's weights its head's rows are kept, and a head that starts from rows has one rate with the rest, unless
    # this says otherwise.
    has_rows = values.get("head_init") == "source" and values.get("strategy", "head") != "head"
    meant = {
        "head_init": values.get("weights") is not None,
        "head_lr_mult": has_rows and values.get("head_lr") is None,
    }
    for name, field in Config.model_fields.items():
        if name not in values or name in ("data", "out", "table", "choices", *left_out):
            continue
        value, flag = values[name], "--" + name.replace("_", "-")
        if value == field.default and not meant.get(name):
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, _word(value)]
    return words


def _word(value: object) -> str:
    """Write a value as a flag takes it."""
    if isinstance(value, Mapping):
        is_plain = all(re.fullmatch(r"[\w-]+( [\w-]+)*", str(part)) for pair in value.items() for part in pair)
        if not is_plain:
            return json.dumps(value, ensure_ascii=False)
        value = [f"{key}={item}" for key, item in value.items()]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def ineffective_settings(config: Config) -> list[str]:
    """Return one sentence for each setting that was given and changes nothing."""
    given = config.model_fields_set
    strategy, selects = config.strategy, config.best_epoch or config.patience is not None
    is_own_table = config.table is not None or strategy.endswith((".yaml", ".yml"))  # the file may not be read yet
    has_two_rates = strategy not in ("head", "scratch") and not is_own_table
    rules: dict[str, tuple[bool, str]] = {
        "stages": (
            strategy in ("partial", "lora", "adapter", "norm") or is_own_table,
            "strategy partial, lora, adapter or norm",
        ),
        "lora_rank": (strategy == "lora" or is_own_table, "strategy lora"),
        "lora_alpha": (strategy == "lora" or is_own_table, "strategy lora"),
        "adapter_width": (strategy == "adapter" or is_own_table, "strategy adapter"),
        "l2sp_alpha": (strategy == "l2-sp", "strategy l2-sp; a table has its own penalties"),
        "l2sp_beta": (strategy == "l2-sp", "strategy l2-sp; a table has its own penalties"),
        "weight_decay": (strategy != "l2-sp", "another strategy; the penalty of l2-sp takes its place"),
        "phases": (strategy == "gradual", "strategy gradual"),
        "layer_decay": (strategy == "layerwise", "strategy layerwise"),
        "head_lr": (has_two_rates, "a strategy that trains a new head beside pretrained parts"),
        "head_lr_mult": (has_two_rates, "a strategy that trains a new head beside pretrained parts"),
        "phase_epochs": (not is_own_table, "a named strategy; a table has its own lengths"),
        "phase_lrs": (not is_own_table, "a named strategy; a table has its own rates"),
        "momentum": (config.optimizer == "sgd", "optimizer sgd"),
        "solver": (strategy in ("head", "gradual", "lp-ft") or is_own_table, "a strategy with a phase for the head"),
        "warmup": (config.schedule == "cosine", "schedule cosine"),
        "step_epochs": (config.schedule == "step", "schedule step"),
        "refit": (selects, "best_epoch or patience"),
        "select_on": (selects, "best_epoch or patience"),
        "select_by": (selects, "best_epoch or patience"),
        "validation_fraction": (selects or config.selection_score, "best_epoch, patience or selection_score"),
        "decay_all": (config.weight_decay > 0, "weight_decay above 0"),
    }
    # A config read back from a run names every field; only values that differ from the default were meant.
    defaults = Config.model_fields
    return [
        f"{key} has no effect here; it belongs to {owner}"
        for key, (applies, owner) in rules.items()
        if key in given and not applies and getattr(config, key) != defaults[key].default
    ]


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    # What follows the field is pydantic's own: a position in a list, a member of a union.
    key = field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"unknown setting {key!r}.{did_you_mean(key, Config.model_fields)} See: headstart train --help"
    if not key:
        return str(first["msg"]).removeprefix("Value error, ")
    got = first.get("input")
    choices = _choices(field)
    if choices and isinstance(got, str):
        return f"{key}={got!r} is not one of {', '.join(choices)}.{did_you_mean(got, choices)}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{key}={got!r} is not valid: {message[:1].lower()}{message[1:]}"


def description(field: str) -> str:
    """Return what a setting means, with the words that it takes where these are not all named."""
    text, words = Config.model_fields[field].description or "", _choices(field)
    return text if all(word in text for word in words) else f"{text} ({either(words)})"


def _choices(field: str) -> tuple[str, ...]:
    """Return the words that a field accepts, where it accepts only certain words."""
    annotation = Config.model_fields[field].annotation if field in Config.model_fields else None
    options = (annotation, *get_args(annotation))
    return next((get_args(option) for option in options if get_origin(option) is Literal), ())
