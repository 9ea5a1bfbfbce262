"""The stack of `retllm up`: its processes, and the access to its sockets and secrets."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import redis
import sqlalchemy as sa
from redis.backoff import NoBackoff
from redis.retry import Retry

from retllm.stack import LocalStack

LOOPBACK = ("127.0.0.1", "::1")


def _listening(stack: LocalStack) -> dict[str, set[str]]:
    """Return the addresses that each process of the stack and its children listen on."""
    found: dict[str, set[str]] = {}
    for name, pid in stack.processes.items():
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            for socket_ in one.net_connections("inet"):
                if socket_.status == psutil.CONN_LISTEN or (socket_.type == socket.SOCK_DGRAM and not socket_.raddr):
                    found.setdefault(name, set()).add(str(socket_.laddr.ip))
    return found


def test_the_stack_listens_only_on_the_loopback_address(stack: LocalStack) -> None:
    listening = _listening(stack)
    assert set(listening) == {"web", "redis"}, "the database has a Unix socket, the other processes have none"
    for name, addresses in listening.items():
        assert addresses <= set(LOOPBACK), name


def test_redis_requires_its_password(stack: LocalStack) -> None:
    where = urlsplit(stack.redis_url)
    assert where.password
    assert len(where.password) >= 32
    for password in (None, "", "wrong", "default"):
        # the client would take the error for a lost connection and retry for a long time
        once = Retry(NoBackoff(), 0)
        with redis.Redis(host="127.0.0.1", port=where.port or 0, password=password, retry=once) as client:
            for command in (client.ping, client.info, lambda client=client: client.lrange("score", 0, -1)):
                with pytest.raises((redis.AuthenticationError, redis.ResponseError), match=r"[Aa]uth|password"):
                    command()


def test_another_account_cannot_access_the_database_or_the_secrets(stack: LocalStack) -> None:
    """The account `nobody` on this machine; a database client would begin by opening the socket too."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only the superuser can switch to another account")
    # only the sockets of this stack: other stacks may end meanwhile
    folder = Path(str(sa.make_url(stack.database_url).query["host"]))
    sockets = [path for path in folder.glob(".s.PGSQL.*") if path.is_socket()]
    assert sockets
    program = (
        "import socket, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        if '.s.PGSQL' in path: socket.socket(socket.AF_UNIX).connect(path)\n"
        "        else: open(path).read()\n"
        "        print('reached', path)\n"
        "    except OSError as error: print('refused', type(error).__name__, path)\n"
    )
    names = ("client.json", "secret_key", "run/stack.json", "redis/valkey.conf", "logs/web.log")
    secrets = [path for name in names if (path := stack.home / name).exists()]
    assert len(secrets) >= 4
    paths = [str(path) for path in (*sockets, *secrets)]
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/env"]
    result = subprocess.run(
        [*nobody, "python3", "-c", program, *paths],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        timeout=120,
    )
    assert result.stdout.splitlines() == [line for line in result.stdout.splitlines() if line.startswith("refused")]
    assert result.stdout.count("PermissionError") == len(paths), result.stdout


def test_the_stack_runs_all_processes_and_its_api_requires_a_token(stack: LocalStack, api: httpx.Client) -> None:
    assert list(stack.processes) == ["postgres", "redis", "web", "dispatch", "media", "embed", "score"]
    assert api.get("/collections").status_code == 200
    assert httpx.get(stack.url + "/api/v1/collections").status_code == 401
