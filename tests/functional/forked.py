"""Runs commands in forks of one process that has imported them, so that they start quickly.

A server forks for each request, which contains the command and the three standard streams; the fork responds with its
exit status. ``install`` creates a `retllm` script that uses the server, for scripts that search their PATH for it.
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
_MAX_MESSAGE_BYTES = 1 << 20
# -S and -E: it needs only the standard library, and starts faster
_CLIENT = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({path!r})
    request = {{"command": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 70))
"""


class Forks:
    """The fork server and its client; a context manager."""

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
        # this closes its input, at which it exits
        self._process.communicate()

    def command(
        self, arguments: Sequence[str], environment: Mapping[str, str], stdin: str = ""
    ) -> CompletedProcess[str]:
        """Run `retllm ARGUMENTS` in exactly this environment, with ``stdin`` as its input."""
        return self._request({"command": list(arguments)}, environment, stdin)

    def module(self, name: str, environment: Mapping[str, str]) -> CompletedProcess[str]:
        """Import a module with an ``app`` in exactly this environment, and request the readiness of the app."""
        return self._request({"module": name}, environment, "")

    def install(self, folder: Path) -> Path:
        """Create ``folder`` with a `retllm` script and return it."""
        folder.mkdir()
        script = folder / "retllm"
        script.write_text(_CLIENT.format(python=sys.executable, path=self._path), "utf-8")
        script.chmod(0o755)
        return folder

    def _request(self, content: dict[str, Any], environment: Mapping[str, str], stdin: str) -> CompletedProcess[str]:
        request = content | {"environment": dict(environment), "folder": str(Path.cwd())}
        with (
            TemporaryFile() as read,
            TemporaryFile() as out,
            TemporaryFile() as errors,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
        ):
            read.write(stdin.encode())
            read.seek(0)
            server.settimeout(SECONDS)
            server.connect(self._path)
            socket.send_fds(server, [json.dumps(request).encode()], [read.fileno(), out.fileno(), errors.fileno()])
            status = server.recv(16)
            assert status, f"{content} was killed"
            for file in (out, errors):
                file.seek(0)
            return CompletedProcess(
                content, int(status), out.read().decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")
            )


def _serve(path: str) -> None:
    """Fork for each request until the input ends."""
    for target, _ in COMMANDS.values():
        importlib.import_module(target.partition(":")[0])
    for name in ("retllm_web.app", "torch"):
        importlib.import_module(name)
    # forks are not waited for: the kernel removes them, so that none remains as a zombie
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
    message, streams, _, _ = socket.recv_fds(connection, _MAX_MESSAGE_BYTES, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    request = json.loads(message)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    status = 1
    try:
        status = _execute(request)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(status).encode())
        # without waiting for threads
        os._exit(status)


def _execute(request: dict[str, Any]) -> int:
    try:
        if "module" in request:
            importlib.import_module(request["module"]).app.test_client().get("/readyz")
        else:
            sys.argv = ["retllm", *request["command"]]
            main()
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
            return 1
        return int(error.code or 0)
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
