"""A model folder: what it says of its classifier, read and checked. Importing this module loads no torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import ModelError
from headstart.runs import MODEL_CONFIG, WEIGHTS, locate
from headstart.types import InputSpec

PREPROCESSING = "preprocessor_config.json"
FORMAT = 1
# What of a classifier `config.json` keeps under `headstart` as it is.
OWN_KEYS = ("backbone", "library", "head_hidden", "dropout", "weights", "licence")


@dataclass(frozen=True)
class ModelFolder:
    """A saved classifier, as its folder describes it; it holds no weights.

    Attributes:
        path: The model folder.
        config: What `config.json` says, checked by `check_config`.
        spec: How pictures become the network's input.
    """

    path: Path
    config: dict[str, Any]
    spec: InputSpec

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the network's outputs."""
        return tuple(self.config["label_names"])

    @property
    def own(self) -> dict[str, Any]:
        """What only Headstart reads in `config.json`."""
        own: dict[str, Any] = self.config["headstart"]
        return own

    @property
    def weights(self) -> Path:
        """The weight file."""
        return self.path / WEIGHTS


def read_model_folder(folder: Path) -> ModelFolder:
    """Read what a model folder, or a run folder's model, says of itself, and check that its weights are unchanged.

    Raises:
        ModelError: It is no such folder; or its files are missing, damaged or changed.
    """
    place = saved_model_folder(folder)
    if place is None:
        raise ModelError(
            f"{folder} holds no trained model ({MODEL_CONFIG} is missing); give a finished run or model folder"
        )
    file = place / MODEL_CONFIG
    config = read_model_json(file)
    check_config(config, str(file))
    _refuse_changed_weights(place / WEIGHTS, config["headstart"].get("weights_sha256"))
    return ModelFolder(place, config, read_spec(place))


def saved_model_folder(path: Path) -> Path | None:
    """Return the model folder that `path`, a model folder or a run folder, means; None where it is neither."""
    return locate(path).model


def read_model_json(file: Path) -> dict[str, Any]:
    """Read one of a model folder's JSON files.

    Raises:
        ModelError: The file is missing, damaged or holds no object.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{file} is missing: the model folder is not complete; copy it again") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON ({error}); copy the model folder again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged: got a {type(content).__name__}; expected a JSON object")
    return content


def read_spec(folder: Path) -> InputSpec:
    """Read the preprocessing of a saved model.

    Raises:
        ModelError: `preprocessor_config.json` is missing or damaged.
    """
    file = folder / PREPROCESSING
    try:
        return InputSpec.from_dict(read_model_json(file)["input_spec"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: no usable 'input_spec'; copy the model folder again") from error


def check_config(config: dict[str, Any], file: str) -> None:
    """Check that a `config.json` was written by Headstart and is whole.

    Raises:
        ModelError: Another program wrote it, or it is damaged.
    """
    own = config.get("headstart")
    if not isinstance(own, dict) or not isinstance(config.get("architecture"), str):
        raise ModelError(
            f"{file} was not written by Headstart (no 'headstart' section); give a run or model folder that it wrote"
        )
    if not isinstance(own.get("format"), int) or own["format"] > FORMAT:
        raise ModelError(
            f"{file} has format {own.get('format')!r}; this version reads up to {FORMAT}: update Headstart"
        )
    labels = config.get("label_names")
    are_names = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not labels or not are_names:
        raise ModelError(f"{file} is damaged: 'label_names' is not a list of class names; copy the model folder again")
    missing = [key for key in OWN_KEYS if key not in own]
    if missing:
        raise ModelError(f"{file} is damaged: 'headstart' lacks {', '.join(missing)}; copy the model folder again")


def _refuse_changed_weights(file: Path, expected: object) -> None:
    """Refuse a weight file whose content is not what `config.json` says."""
    digest = file_sha256(file)
    if digest != expected:
        raise ModelError(
            f"{file} is not the file that was saved: its SHA-256 is {digest[:12]}..., config.json says "
            f"{str(expected)[:12]}...; it is damaged or was changed: copy the model folder again"
        )


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a model folder's file.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror}); copy the model folder again") from error
