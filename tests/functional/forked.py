"""Commands in forks of one process that has imported them: real processes that begin in a moment.

A server forks for each request, which names what to do and brings the three standard streams; the fork answers with
its exit status. ``install`` puts a `retllm` into a folder that asks the server, for scripts that find it in their PATH.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

from retllm.cli.main import COMMANDS, main

SECONDS = 240.0
_LONGEST = 1 << 20
# -S and -E: it needs nothing but the standard library, and begins sooner
_CLIENT = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({path!r})
    asked = {{"command": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 70))
"""


class Forks:
    """The server, and requests to it; a context."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "forks")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Forks:
        command = [sys.executable, "-m", "tests.functional.forked", self._path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the server of forks did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        # closes its input, which ends it
        self._process.communicate()

    def command(
        self, arguments: Sequence[str], environment: Mapping[str, str], given: str = ""
    ) -> CompletedProcess[str]:
        """Run `retllm ARGUMENTS` in exactly this environment, with ``given`` as its input."""
        return self._ask({"command": list(arguments)}, environment, given)

    def module(self, name: str, environment: Mapping[str, str]) -> CompletedProcess[str]:
        """Import a module with an ``app`` in exactly this environment, and ask whether the app is ready."""
        return self._ask({"module": name}, environment, "")

    def install(self, folder: Path) -> Path:
        """Put a `retllm` into ``folder``, which is made, and return the folder."""
        folder.mkdir()
        script = folder / "retllm"
        script.write_text(_CLIENT.format(python=sys.executable, path=self._path), "utf-8")
        script.chmod(0o755)
        return folder

    def _ask(self, what: dict[str, Any], environment: Mapping[str, str], given: str) -> CompletedProcess[str]:
        asked = what | {"environment": dict(environment), "folder": str(Path.cwd())}
        with (
            TemporaryFile() as read,
            TemporaryFile() as out,
            TemporaryFile() as errors,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
        ):
            read.write(given.encode())
            read.seek(0)
            server.settimeout(SECONDS)
            server.connect(self._path)
            socket.send_fds(server, [json.dumps(asked).encode()], [read.fileno(), out.fileno(), errors.fileno()])
            status = server.recv(16)
            assert status, f"{what} was killed"
            for file in (out, errors):
                file.seek(0)
            return CompletedProcess(
                what, int(status), out.read().decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")
            )


def _serve(path: str) -> None:
    """Fork for each request until the input ends."""
    for place, _ in COMMANDS.values():
        importlib.import_module(place.partition(":")[0])
    for name in ("retllm_web.app", "torch"):
        importlib.import_module(name)
    # nobody asks how a fork ended, so none of them stays as a zombie
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        sys.stdin.read()
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                _child(connection)
            connection.close()


def _child(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, _LONGEST, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    asked = json.loads(message)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    status = 1
    try:
        status = _do(asked)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(status).encode())
        # as with any process that ends, threads do not hold it up
        os._exit(status)


def _do(asked: dict[str, Any]) -> int:
    try:
        if "module" in asked:
            importlib.import_module(asked["module"]).app.test_client().get("/readyz")
        else:
            sys.argv = ["retllm", *asked["command"]]
            main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
            return 1
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
