"""What the library may do to the process that it runs in: nothing that stays."""

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

import headstart
from headstart import machine
from headstart.machine import spin_briefly

COUNT_FAULTS = """
import resource
from headstart.machine import freed_memory_kept, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        b"x" * 50_000_000  # written to; zeros would only be promised
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
with freed_memory_kept():
    faults()
    kept = faults()
    with freed_memory_kept():
        pass
    still_kept = faults()
after = faults()
print(usual, kept, still_kept, after)
keep_freed_memory()
with freed_memory_kept():
    faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept_within_the_block_only():
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    usual, kept, still_kept, after = map(int, first.split())
    if usual < 1000:
        pytest.skip("this C library keeps freed memory anyway")
    assert kept < usual / 10
    assert still_kept < usual / 10
    assert after > usual / 2
    assert int(second) < usual / 10  # what a command has set stays


def test_a_block_that_begins_while_another_ends_keeps_memory(monkeypatch):
    others_end = threading.Event()
    other_has_ended = threading.Event()
    set_values = []

    def set_malloc(*, mmap_max, trim_threshold):
        set_values.append(mmap_max)
        if len(set_values) == 2:  # the second block begins
            others_end.set()
            other_has_ended.wait(timeout=0.3)  # it ends now if nothing makes it wait for this block to begin
        return True

    def other_block(has_begun):
        with machine.freed_memory_kept():
            has_begun.set()
            others_end.wait(timeout=10)
        other_has_ended.set()

    monkeypatch.setattr(machine, "_set_malloc", set_malloc)
    monkeypatch.setattr(machine, "_num_keepers", 0)
    has_begun = threading.Event()
    other = threading.Thread(target=other_block, args=(has_begun,))
    other.start()
    assert has_begun.wait(timeout=10)
    with machine.freed_memory_kept():
        other.join(timeout=10)
        assert set_values == [0, 0]  # while this block runs, nobody has set the defaults
    assert len(set_values) == 3


def test_a_command_lets_threads_sleep_soon_unless_the_user_has_decided(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards, also where it was not set
        monkeypatch.delenv(name)
    spin_briefly()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


def process_state():
    """Everything of the process that a library could change for the program that uses it."""
    gc.collect()  # an engine's threads end with it, a moment later
    for thread in threading.enumerate():
        if thread.name.startswith("headstart"):
            thread.join(timeout=10)
    umask = os.umask(0o022)
    os.umask(umask)
    loggers = {name: logging.getLogger(name).level for name in (None, "lightning_fabric", "lightning.fabric", "PIL")}
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "umask": umask,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "logging": loggers,
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "flags": (
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.get_num_threads(),
            torch.get_default_dtype(),
        ),
        "streams": (sys.stdout, sys.stderr),
        "threads": sorted(each.name for each in threading.enumerate() if not each.daemon),
    }


def test_training_and_predicting_leave_the_process_as_it_was(image_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)  # which pytest changes
    settings = {"backbone": "simple-cnn", "image_size": 32, "epochs": 1, "threads": 2}
    # Libraries that are loaded on the way may settle themselves; the second time nothing is new.
    headstart.load(headstart.fit(image_folder, out=str(tmp_path / "first"), strategy="head", **settings).path)
    torch.manual_seed(5)
    random.seed(5)
    before = process_state()
    run = headstart.fit(image_folder, out=str(tmp_path / "run"), strategy="scratch", **settings)
    assert process_state() == before
    headstart.load(run.path).predict(next((image_folder / "val" / "sky").iterdir()))
    assert process_state() == before


def test_importing_the_library_changes_nothing():
    code = (
        "import logging, os, signal, sys, warnings\n"
        "def state():\n"
        "    umask = os.umask(0o022); os.umask(umask)\n"
        "    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]\n"
        "    return umask, dict(os.environ), logging.root.level, handlers, sys.stdout\n"
        "import numpy, PIL.Image, pydantic, rich.console, yaml\n"  # which have filters of their own
        "before, filters = state(), list(warnings.filters)\n"
        "import headstart, headstart.config, headstart.preprocessing, headstart.data.dataset\n"
        "assert state() == before, (state(), before)\n"
        "assert warnings.filters[:len(filters)] == filters\n"  # two of Pillow's are ignored after all others
    )
    subprocess.run([sys.executable, "-c", code], check=True)
