"""From a folder of labelled images to a classifier that you can trust and ship.

`fit` trains and returns a `Run`; `load` turns a run or model folder into a `Classifier`; `compare` says which of many
settings is best. Importing this package loads neither torch nor NumPy: each name brings what it needs when it is first
used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headstart._version import __version__

if TYPE_CHECKING:
    from headstart.config import Config
    from headstart.errors import HeadstartError
    from headstart.experiment import fit
    from headstart.inference.predict import Classifier, load
    from headstart.inference.stream import Prediction
    from headstart.runs import Run
    from headstart.studies.compare import compare

__all__ = ["Classifier", "Config", "HeadstartError", "Prediction", "Run", "__version__", "compare", "fit", "load"]

_HOMES = {
    "Classifier": "headstart.inference.predict",
    "Config": "headstart.config",
    "HeadstartError": "headstart.errors",
    "Prediction": "headstart.inference.stream",
    "Run": "headstart.runs",
    "compare": "headstart.studies.compare",
    "fit": "headstart.experiment",
    "load": "headstart.inference.predict",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
