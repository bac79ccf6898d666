"""Where the name of a backbone leads, and the licences of what is there."""

from pathlib import Path

from headstart.errors import ModelError, did_you_mean
from headstart.model_folder import read_model_json
from headstart.models.libraries import LIBRARIES, Origin


def backbone_names() -> list[str]:
    """List the names that `create_backbone` takes."""
    names: list[str] = []
    for library in LIBRARIES.values():
        names.extend(library.names())
    return names


def find_origin(name: str) -> Origin:
    """Say where a backbone's name leads.

    Raises:
        ModelError: The name leads nowhere. The message suggests names that are close.
    """
    for library in LIBRARIES.values():
        origin = library.find(name)
        if origin is not None:
            return origin
    names = backbone_names()
    without_prefix = [known.rpartition("/")[2] for known in names]
    suggestion = did_you_mean(name, [*names, *without_prefix])
    *others, last = [library.accepts for library in LIBRARIES.values()]
    raise ModelError(f"unknown backbone {name!r}.{suggestion} It takes {', '.join(others)}, or {last}")


def licence_of(origin: Origin, weights: str | None, saved: Path | None) -> str:
    """Say under which licences code and weights come, as far as their publishers state them.

    Args:
        origin: The backbone.
        weights: What `create_backbone` was asked for.
        saved: The model folder that the weights are from, if they are from one.

    Raises:
        ModelError: That folder is damaged.
    """
    library = origin.library
    code = f"code {library.code_licence} ({library.name})"
    if saved is not None:
        own = read_model_json(saved / "config.json").get("headstart", {})
        return str(own.get("licence", f"{code}; weights unknown"))
    if weights not in (None, "none"):
        return f"{code}; weights from a local file, licence unknown to Headstart"
    if weights == "none" or library.publication is None:
        return f"{code}; no pretrained weights"
    return f"{code}; weights: {library.publication.licence(origin)}"
