"""Headstart's own networks: a small one to train from random weights, and Gluon's, whose weights are files."""

import hashlib
from pathlib import Path

from torch import nn

from headstart.models import gluon, simple_cnn
from headstart.models.libraries.families import blocks
from headstart.models.libraries.library import Library, Origin, Size

_SPECS = {"simple-cnn": simple_cnn.SPEC, **dict.fromkeys(gluon.NETWORKS, gluon.SPEC)}


def _find_origin(name: str) -> Origin | None:
    if name not in _SPECS:
        return None
    return Origin(name, OWN, name, name, _SPECS[name])


def _make_network(architecture: str, size: Size) -> nn.Module:
    if architecture == "simple-cnn":
        return simple_cnn.SimpleCNN(2, size)
    return gluon.NETWORKS[architecture](1000)


def _hash_of_code() -> str:
    """Return what changes whenever a network of this library may compute something else."""
    code = b""
    for module in (simple_cnn, gluon):
        code += Path(str(module.__file__)).read_bytes()
    return hashlib.sha256(code).hexdigest()


OWN = Library(
    name="headstart",
    accepts=", ".join(_SPECS),
    example="simple-cnn",
    code_licence="Apache-2.0",
    names=lambda: tuple(_SPECS),
    find=_find_origin,
    make=_make_network,
    version=_hash_of_code,
    families={
        simple_cnn.SimpleCNN: blocks(r"conv\d+|hidden"),
        gluon.ResNetV2: blocks(r"features\.[5-8]", "features"),
    },
)
