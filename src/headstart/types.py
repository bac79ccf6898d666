"""Frozen values that several packages share. Importing this module loads no torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Decoder = Literal["pillow", "pillow-scaled"]
# How the folders of a data set are read; see `headstart.data.layouts`.
Layout = Literal["auto", "class", "split/class", "class/split", "part/class"]
Parts = Literal["lora", "adapter"]
Triple = tuple[float, float, float]
GreyRange = tuple[float, float]  # which values of grey pictures with more than 8 bits are black and white
Progress = Callable[[str, int, int], None]  # told what is done, how far it is, and how much there is (0: not known)


@dataclass(frozen=True)
class Decoding:
    """How a picture is decoded, beyond what its format says.

    Attributes:
        smallest_side: Reduce it to 1/2, 1/4 or 1/8 of its size, as long as both sides stay this long (pixels); None:
            keep its full size.
        grey_range: See `InputSpec.grey_range`.
    """

    smallest_side: int | None = None
    grey_range: GreyRange | None = None


PLAIN = Decoding()


@dataclass(frozen=True)
class InputSpec:
    """How a picture becomes the network's input: the one preprocessing value of a model.

    The evaluation view resizes to `resize` (an int: the shorter side, keeping the aspect ratio; a pair: exactly that
    (height, width)), cuts the central `size`, divides by 255, subtracts `mean` and divides by `std`, per RGB channel.
    Stored with the model as `preprocessor_config.json`.

    Attributes:
        size: (height, width) of the network's input, pixels.
        resize: Shorter side, or (height, width), pixels, before the central crop.
        interpolation: Filter of the resize; always antialiased.
        mean: Mean per channel, on the 0..1 scale.
        std: Standard deviation per channel, on the 0..1 scale.
        decoder: What makes the pixels; part of the spec because other decoders give other pixels. `pillow`: at full
            size; `pillow-scaled`: reduced to 1/2, 1/4 or 1/8 where that is still as large as `resize`, which for JPEGs
            that train their decoder does.
        grey_range: Which values of grey pictures with more than 8 bits become black and white, as in the images that
            the model was trained on; None: these had no more than 8, and others are scaled by what their type holds.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 256
    interpolation: Interpolation = "bicubic"
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    decoder: Decoder = "pillow"
    grey_range: GreyRange | None = None

    @property
    def decoding(self) -> Decoding:
        """How a picture is decoded."""
        if self.decoder == "pillow":
            return Decoding(None, self.grey_range)
        smallest_side = self.resize if isinstance(self.resize, int) else max(self.resize)
        return Decoding(smallest_side, self.grey_range)

    def with_size(self, side: int) -> Self:
        """Return the spec for a square input of `side` pixels, keeping the ratio of resize to crop."""
        ratio = side / min(self.size)
        if isinstance(self.resize, int):
            resize: int | tuple[int, int] = round(self.resize * ratio)
        else:
            resize = (round(self.resize[0] * ratio), round(self.resize[1] * ratio))
        return replace(self, size=(side, side), resize=resize)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild a spec from `to_dict` or from a file written by another version (unknown keys are ignored)."""
        known: dict[str, Any] = {}
        for key in cls.__dataclass_fields__:
            if key in values:
                value = values[key]
                known[key] = tuple(value) if isinstance(value, list) else value
        return cls(**known)


@dataclass(frozen=True)
class Stage:
    """One step of a backbone, in forward order: stem, blocks..., head.

    Attributes:
        name: Name in plans and tables, such as `stem`, `layer4` or `head`.
        prefixes: Parameter or module names, or their leading parts, that belong to the stage: `("conv1", "bn1")`.
    """

    name: str
    prefixes: tuple[str, ...]

    def owns(self, name: str) -> bool:
        """Tell whether the parameter, buffer or module called `name` belongs to this stage."""
        return any(name == prefix or name.startswith(prefix + ".") for prefix in self.prefixes)


@dataclass(frozen=True)
class StepChoice:
    """How the training steps of a phase run.

    Attributes:
        channels_last: Memory format of convolutions.
        precision: `32`, or `bf16`: matrix products and convolutions in bfloat16, weights and sums in 32 bits.
        compiled: Whether the network is compiled.
        piece_size: How many images of a batch run at once, to take less memory; 0: all of them.
        recomputes: Whether blocks are computed again in the backward pass, to take less memory.
    """

    channels_last: bool = True
    precision: str = "32"
    compiled: bool = False
    piece_size: int = 0
    recomputes: bool = False

    def __str__(self) -> str:
        words = [self.precision, "channels-last" if self.channels_last else "contiguous"]
        if self.compiled:
            words.append("compiled")
        if self.piece_size:
            words.append(f"{self.piece_size} images at once")
        if self.recomputes:
            words.append("blocks computed again")
        return ", ".join(words)


@dataclass(frozen=True)
class Interval:
    """A figure with its doubt.

    Attributes:
        value: The point estimate.
        low: Lower end.
        high: Upper end.
        level: Coverage, such as 0.95.
        method: Name of the method, such as `wilson`.
    """

    value: float
    low: float
    high: float
    level: float
    method: str

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.level:.0%} interval {self.low:.3f} to {self.high:.3f})"
