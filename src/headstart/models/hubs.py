"""Published weight files: found in the hubs' caches on this machine, or fetched."""

import importlib
import os
import re
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from headstart.errors import ModelError

_CONNECT_TIMEOUT_S = 5.0


def torch_hub_file(url: str, backbone: str) -> Path:
    """Return a published weight file from torch's hub folder, fetching it where it is not there yet.

    Raises:
        ModelError: It is not there and cannot be fetched.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / os.path.basename(urlsplit(url).path)
    if file.is_file():
        return file
    try:
        _require_connection(url)
        folder.mkdir(parents=True, exist_ok=True)
        # A published file's name ends in the first digits of its SHA-256.
        found = re.search(r"-([a-f0-9]{8,})\.", file.name)
        digest = found[1] if found else None
        torch.hub.download_url_to_file(url, str(file), digest, progress=sys.stderr.isatty())
    except Exception as error:  # a hub fails in many ways; each ends in the same advice
        raise _not_fetched(backbone, error, file.name, url, folder, "put it there") from error
    return file


def hugging_face_file(repository: str, names: tuple[str, ...], backbone: str) -> Path:
    """Return a published weight file from the Hugging Face cache, fetching it where it is not there yet.

    Args:
        repository: Name such as `timm/resnet18.a1_in1k`, or with `@revision`.
        names: File names, the preferred one first.
        backbone: Name of the backbone, for messages.

    Raises:
        ModelError: It is not there and cannot be fetched.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    repository, _, tag = repository.partition("@")
    revision = tag or None
    for name in names:
        cached = hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    folder = Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    url = f"{hub.constants.ENDPOINT}/{repository}"
    try:
        if hub.constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        _require_connection(url)  # the hub's own client would retry for most of a minute
        for name in names[:-1]:
            if hub.file_exists(repository, name, revision=revision):
                return Path(hub.hf_hub_download(repository, name, revision=revision))
        return Path(hub.hf_hub_download(repository, names[-1], revision=revision))
    except Exception as error:  # a hub fails in many ways; each ends in the same advice
        raise _not_fetched(backbone, error, names[0], url, folder, "copy that folder from such a machine") from error


def _not_fetched(backbone: str, error: Exception, file: str, url: str, folder: Path, advice: str) -> ModelError:
    """Return the error that says which file is missing, where it belongs, and what to do."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ModelError(
        f"the weights of {backbone} are not on this machine and cannot be fetched ({reason[:200]}). The file "
        f"{file} is not in {folder}. Download it from {url} on a machine with network, and give --weights PATH or "
        f"{advice}. lite0 needs no download, and --weights none starts from random weights"
    )


def _require_connection(url: str) -> None:
    """Fail within seconds where there is no network; behind a proxy only the client itself can tell.

    Raises:
        OSError: The host cannot be reached.
    """
    if urllib.request.getproxies():
        return
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
