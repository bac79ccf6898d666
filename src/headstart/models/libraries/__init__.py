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
        name: As read from a file.
        what: What is of the library, for the message.

    Raises:
        ModelError: This version of Headstart has no such library.
    """
    found = None
    for library in LIBRARIES.values():
        if library.name == name:
            found = library  # rows of one name differ in nothing but where their weights come from
    if found is not None:
        return found
    known = sorted({library.name for library in LIBRARIES.values()})
    raise ModelError(
        f"{what} is of the library {name!r}; this version of Headstart knows {either(known, last='and')}: "
        "update Headstart, or copy the model again"
    )
