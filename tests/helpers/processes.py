"""Processes that may be killed and start at once: a server that has loaded torch forks one for each.

Loading torch and what goes with it takes seconds, which a process of its own would spend each time. The server does
nothing but load, so that a fork of it is as fresh as a new interpreter.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

_server = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
_server.set_forkserver_preload(["pytest", "timm", "openvino", "headstart.cli", "headstart.experiment.begin"])


class Forked:
    """A running process: a function of a test module, with this process's environment and folder.

    Attributes:
        pipe: This end of a pipe; the function gets the other one as its first argument.
    """

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._output = tempfile.NamedTemporaryFile(prefix="forked-")  # noqa: SIM115, deleted with this value
        self.pipe, theirs = _server.Pipe()
        around = (self._output.name, os.getcwd(), dict(os.environ))
        self._process = _server.Process(target=_run, args=(around, function, theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait for the end; return the exit code, which is the negative number of the signal where one was the end."""
        self._process.join(timeout=300)
        assert self._process.exitcode is not None, f"still running after five minutes: {self.output}"
        return self._process.exitcode

    def finish(self) -> str:
        """Wait for an end without an error; return what was printed."""
        assert self.wait() == 0, self.output
        return self.output

    @property
    def output(self) -> str:
        """What went to standard output and standard error so far."""
        return Path(self._output.name).read_text(encoding="utf-8")


def headstart(pipe: Connection, *words: str) -> None:
    """Be the command line."""
    from headstart import cli

    pipe.close()
    sys.argv = ["headstart", *words]
    cli.main()


def _run(
    around: tuple[str, str, Mapping[str, str]],
    function: Callable[..., object],
    pipe: Connection,
    arguments: tuple[object, ...],
) -> None:
    output, folder, environment = around
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    function(pipe, *arguments)
