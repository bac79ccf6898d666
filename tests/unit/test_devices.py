import pytest
import torch

from headstart.devices import pick_device
from headstart.errors import ConfigError


def test_a_device_is_picked_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    devices = {"auto": cuda, "cpu": cpu, "cpu:0": cpu, "cuda": cuda, "cuda:1": torch.device("cuda", 1)}
    assert {name: pick_device(name) for name in devices} == devices
    for name in ("mps", "cpu:1", "cuda:2"):
        with pytest.raises(ConfigError, match=f"device='{name}': no such device is visible to PyTorch here; use auto"):
            pick_device(name)
    for name in ("gpu", "cuda:x", "cuda:-1", "cuda:²", ""):
        with pytest.raises(ConfigError, match="is not one of auto, cpu, cuda, cuda:N, mps"):
            pick_device(name)
