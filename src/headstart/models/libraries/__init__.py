"""The libraries that backbones come from: a row for each, in the order in which a name is looked up."""

from headstart.errors import ModelError, either
from headstart.models.libraries.library import Library, Loaded, Origin
from headstart.models.libraries.lite import LITE
from headstart.models.libraries.own import OWN
from headstart.models.libraries.timm import TIMM
from headstart.models.libraries.torchvision import TORCHVISION

__all__ = ["LIBRARIES", "Library", "Loaded", "Origin", "library_named"]

LIBRARIES: dict[str, Library] = {"lite": LITE, "headstart": OWN, "torchvision": TORCHVISION, "timm": TIMM}


def library_named(name: object, what: str = "the network") -> Library:
    """Return the library by the name that a saved model keeps.

    Args:
        name: What a file says.
        what: What is of the library, for the message.

    Raises:
        ModelError: This version of Headstart has no such library.
    """
    libraries = {library.name: library for library in LIBRARIES.values()}
    for known_name, library in libraries.items():  # rows of one name differ only in where their weights come from
        if known_name == name:
            return library
    known = sorted(libraries)
    raise ModelError(
        f"{what} is of the library {name!r}; this version of Headstart knows {either(known, last='and')}: "
        "update Headstart, or copy the model again"
    )
