"""The frozen part of a network with the engine that runs it, and the key that names what it computes."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headstart import decoding, engines, grey, preprocessing, types
from headstart.data import loading, pictures
from headstart.data.loading import ImageBatches
from headstart.engines.choose import Choice, open_engine
from headstart.engines.engine import NUM_SAMPLES, Engine
from headstart.engines.parity import disagreement
from headstart.errors import RunError
from headstart.features import cut as cutting
from headstart.features.cache import FeatureCache
from headstart.features.cut import Cut
from headstart.files import dump_json, write_atomic
from headstart.machine import package_version, processor_features
from headstart.models import adapters
from headstart.models.classifier import ClassifierNetwork
from headstart.models.delta import digest
from headstart.models.libraries import library_named

_PACKAGES = ("torch", "openvino", "numpy", "pillow")
# Code that decides what a row holds: when it changes, rows are computed anew.
_PREPARING = (types, grey, decoding, preprocessing, pictures, loading, cutting, adapters)
_CODE = [
    Path(__file__),
    *(Path(str(module.__file__)) for module in _PREPARING),
    *sorted(Path(str(engines.__file__)).parent.glob("*.py")),
]
_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class RowRecipe:
    """How the rows of a table are computed; kept on disk, so that complete tables need no engine.

    Attributes:
        engine: A key of `engines.choose.ENGINES`.
        precision: `bf16` or `32`.
        shape: Shape of one row.
        dtype: Type in which rows are stored: `float16` or `float32`.
        view_s: Seconds to decode and compute one.
        refused: Which engines were refused before this one, and why.
    """

    engine: str
    precision: str
    shape: tuple[int, ...]
    dtype: str
    view_s: float
    refused: tuple[str, ...] = ()

    @property
    def engine_name(self) -> str:
        """The engine and its precision, such as `openvino 32`."""
        return f"{self.engine} {self.precision}"


@final
class Trunk:
    """The part of a network below a boundary, with the engine that runs it.

    Attributes:
        key: Names everything that a row depends on, but for the image, the number of its view and the engine.
        recipe: How its rows are computed; another one after `open`, where another engine was found than before.
    """

    def __init__(
        self,
        parts: Cut,
        model: ClassifierNetwork,
        images: ImageBatches,
        candidates: tuple[Choice, ...],
        device: torch.device,
        cache: FeatureCache | None,
        say: Callable[[str], None],
        *,
        pinned: str | None = None,
    ) -> None:
        """Find out how rows are computed: as they were before, or else by opening an engine.

        Args:
            parts: A network that is cut above stage 0.
            model: The network, with its preprocessing.
            images: The first of them are what engines are compared on.
            candidates: What `engines.choose.choices` returns.
            device: Where the network is.
            cache: Beside it, what was found is kept for other runs; None: nothing is kept.
            say: Told which engine was refused, and why.
            pinned: The engine to begin with, such as `openvino 32`, where this machine has it.
        """
        assert parts.trunk is not None
        self._module = parts.trunk
        self._spec = model.spec
        self._images = images
        self._device = device
        self._say = say
        self._candidates = candidates
        for position, candidate in enumerate(candidates):
            if str(candidate) == pinned:
                self._candidates = candidates[position:]
        self._engine: Engine | None = None
        self.key = _rows_key(parts.trunk, model, images, device)
        self._file: Path | None = None
        if cache is not None:
            self._file = cache.folder.parent / "engines" / f"{self._recipe_key}.json"
        self._told: list[str] = []
        self.recipe = self._read_recipe() or self._choose_engine()
        self._tell_refused(self.recipe.refused)

    @property
    def _recipe_key(self) -> str:
        """What names the choice among these candidates: another choice, also one that is pinned, is kept apart."""
        candidates = ", ".join(str(candidate) for candidate in self._candidates)
        return hashlib.sha256(f"{self.key} {candidates}".encode()).hexdigest()

    @property
    def table_key(self) -> str:
        """What names the rows of this trunk as its engine computes them."""
        recipe = self.recipe
        how = (recipe.engine, recipe.precision, recipe.dtype, recipe.shape)
        return hashlib.sha256(f"{self.key} {how}".encode()).hexdigest()

    def open(self) -> Engine:
        """Return the engine, compared with PyTorch before its first use; `recipe` then says what it is."""
        if self._engine is None:
            self.recipe = self._choose_engine()
            self._tell_refused(self.recipe.refused)
        assert self._engine is not None
        return self._engine

    def _tell_refused(self, reasons: Sequence[str]) -> None:
        """Tell why engines were refused, each once."""
        for reason in reasons:
            if reason not in self._told:
                self._told.append(reason)
                self._say(reason)

    def _read_recipe(self) -> RowRecipe | None:
        """Return what was found before, None where nothing was, or where it cannot be read."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            if self._file is not None:
                values = json.loads(self._file.read_text())
                values["shape"] = tuple(map(int, values["shape"]))
                values["refused"] = tuple(map(str, values["refused"]))
                recipe = RowRecipe(**values)
                if recipe.dtype in ("float16", "float32") and recipe.shape and min(recipe.shape) > 0:
                    return replace(recipe, view_s=float(recipe.view_s))
        return None

    def _choose_engine(self) -> RowRecipe:
        """Open the first engine that agrees with PyTorch, and write down how rows are computed."""
        tasks = [(i, (0,)) for i in range(min(NUM_SAMPLES, self._images.num_images))]
        started = time.monotonic()
        samples = next(iter(self._images.views(tasks, NUM_SAMPLES)))
        decode_s = time.monotonic() - started
        refused: list[str] = []
        self._engine, expected, found = open_engine(
            self._module, self._spec, samples, self._candidates, device=self._device, has_head=False, say=refused.append
        )
        started = time.monotonic()
        for _ in self._engine.run([samples]):
            pass
        view_s = (decode_s + time.monotonic() - started) / len(samples)
        half = as_stored(found, np.dtype(np.float16))
        # Sixteen bits where they are as near to the truth as the engine has to be.
        reason = disagreement(half.astype(np.float32), expected, self._engine.precision, has_head=False)
        # Other images may give larger activations; far beyond, they would be cut off.
        is_half_enough = not reason and np.abs(found).max() <= _LARGEST_HALF / 16
        dtype = "float16" if is_half_enough else "float32"
        recipe = RowRecipe(self._engine.name, self._engine.precision, found.shape[1:], dtype, view_s, tuple(refused))
        if self._file is not None:
            with suppress(OSError, RunError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self._file, dump_json(asdict(recipe)))
        return recipe


def as_stored(rows: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Round rows to what is stored; what a 16-bit number cannot hold becomes the largest one."""
    if dtype == np.float16:
        rows = rows.clip(-_LARGEST_HALF, _LARGEST_HALF)
    return rows.astype(dtype)


def _rows_key(
    trunk: nn.Module,
    model: ClassifierNetwork,
    images: ImageBatches,
    device: torch.device,
) -> str:
    """Name everything that a row depends on, but for the image, the number of its view and the engine."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        processor = processor_features()
    modules = [(name, repr(module)) for name, module in trunk.named_children()]
    sources = [hashlib.sha256(file.read_bytes()).hexdigest() for file in _CODE]
    facts: dict[str, Any] = {
        "code": getattr(trunk, "code", ""),
        "modules": modules,
        "network": [model.library, model.architecture, library_named(model.library).version()],
        "spec": model.spec.to_dict(),
        "augment": images.augment,
        "device": [device.type, processor],
        "packages": {package: package_version(package) for package in _PACKAGES},
        "sources": sources,
    }
    tensors = digest((*trunk.named_parameters(), *trunk.named_buffers()))
    return hashlib.sha256(f"{json.dumps(facts, sort_keys=True)} {tensors}".encode()).hexdigest()
