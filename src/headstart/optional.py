"""The one door for packages that are not always installed."""

import importlib
from types import ModuleType

from headstart.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Args:
        module: Dotted name to import.
        extra: The extra of Headstart that brings it, as in `pip install 'headstart[extra]'`.
        purpose: What needs it, for the message.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{purpose} needs the package '{module}', which is not installed; run: pip install 'headstart[{extra}]'"
        ) from error
