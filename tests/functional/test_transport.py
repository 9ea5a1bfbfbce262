"""Attacks on what goes between the processes of a running platform: its sockets, its queues, its raw HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.chaos.client import Client
from tests.chaos.plant import Plant
from tests.functional.hands import Worker, worker

from retllm.queue.notifications import TASK_OF, celery_app
from retllm.stack import LocalStack

LOOPBACK = ("127.0.0.1", "::1")


# the sockets of the whole stack


def _listening(stack: LocalStack) -> dict[str, set[str]]:
    """The addresses that each process of the stack, or a child of it, listens on."""
    found: dict[str, set[str]] = {}
    for name, pid in stack.processes.items():
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            for socket_ in one.net_connections("inet"):
                if socket_.status == psutil.CONN_LISTEN or (socket_.type == socket.SOCK_DGRAM and not socket_.raddr):
                    found.setdefault(name, set()).add(str(socket_.laddr.ip))
    return found


def test_the_stack_listens_on_the_loopback_address_alone(stack: LocalStack) -> None:
    listening = _listening(stack)
    assert set(listening) == {"web", "redis"}, "the database has a socket that is a file, the others have none"
    for name, addresses in listening.items():
        assert addresses <= set(LOOPBACK), name


def test_redis_asks_for_its_password(stack: LocalStack) -> None:
    where = urlsplit(stack.redis_url)
    assert where.password
    assert len(where.password) >= 32
    for password in (None, "", "wrong", "default"):
        # the client would take a refusal for a lost connection, and try for long
        once = Retry(NoBackoff(), 0)
        with redis.Redis(host="127.0.0.1", port=where.port or 0, password=password, retry=once) as nobody:
            for deed in (nobody.ping, nobody.info, lambda nobody=nobody: nobody.lrange("score", 0, -1)):
                with pytest.raises((redis.AuthenticationError, redis.ResponseError), match=r"[Aa]uth|password"):
                    deed()


def test_another_account_reaches_neither_the_database_nor_the_secrets(stack: LocalStack) -> None:
    """Of the account `nobody`, on this machine; its own client would do no more than open the socket."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only the superuser can be another account")
    sockets = [path for path in (stack.home / "postgres").glob(".s.PGSQL.*") if path.is_socket()]
    sockets += [path for path in Path(tempfile.gettempdir()).glob("retllm-*/.s.PGSQL.*") if path.is_socket()]
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
    done = subprocess.run(
        [*nobody, "python3", "-c", program, *paths],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        timeout=30,
    )
    assert done.stdout.splitlines() == [line for line in done.stdout.splitlines() if line.startswith("refused")]
    assert done.stdout.count("PermissionError") == len(paths), done.stdout


# the queues


class Trap:
    """Pickled, it makes a file when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.canary),)


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with tempfile.TemporaryDirectory(prefix="retllm-hostile-") as folder, Plant(Path(folder) / "home", workers=0) as it:
        yield it


@pytest.fixture(scope="module")
def victim(plant: Plant) -> Iterator[Worker]:
    """The one worker of the plant: what it does not survive, no other of these tests gets over."""
    with worker(plant, "embed", "victim") as started:
        yield started


@pytest.fixture(scope="module")
def queue(plant: Plant) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(plant.redis.url) as connected:
        yield connected


def _does_a_unit(plant: Plant) -> bool:
    client = Client(plant.url, plant.token)
    collection = client.collection()
    client.upload_texts(collection, 2)
    return bool(client.wait(client.index(collection), 20)["state"] == "succeeded")


def _message(task: str, body: bytes, kind: str, **changes: Any) -> dict[str, Any]:
    """A message as Celery writes it into Redis, by hand."""
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary",
        "content-type": kind,
        "headers": {"lang": "py", "task": task, "id": str(uuid.uuid4()), "argsrepr": "()", "kwargsrepr": "{}"},
        "properties": {
            "body_encoding": "base64",
            "correlation_id": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "embed"},
            "delivery_mode": 2,
            "delivery_tag": str(uuid.uuid4()),
            "priority": 0,
        },
    } | changes


def _hostile(canary: Path) -> dict[str, bytes]:
    """Messages that somebody who has the password of Redis could leave in a queue."""
    task = TASK_OF["embed"]
    pickled = pickle.dumps(((Trap(canary),), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}))
    yaml = f"!!python/object/apply:os.mknod ['{canary}']".encode()
    nested = pickle.dumps(Trap(canary))
    unit = json.dumps([[str(uuid.uuid4())], {}, {}]).encode()
    good = _message(task, unit, "application/json")
    headers, tagged = good["headers"], good["properties"]
    messages = {
        "pickle": _message(task, pickled, "application/x-python-serialize"),
        "yaml": _message(task, yaml, "application/x-yaml"),
        "pickle said to be json": _message(task, pickled, "application/json"),
        "unknown content": _message(task, nested, "application/data"),
        "unknown task": _message("os.system", json.dumps([[f"touch {canary}"], {}, {}]).encode(), "application/json"),
        "pickle as a remote task": _message("celery.backend_cleanup", pickled, "application/x-python-serialize"),
        "a module as a task": _message("posix.mknod", json.dumps([[str(canary)], {}, {}]).encode(), "application/json"),
        "not a unit": _message(task, json.dumps([["no unit"], {}, {}]).encode(), "application/json"),
        "wrong arguments": _message(task, json.dumps([[1, 2, {}], {"x": 1}, {}]).encode(), "application/json"),
        "no such unit": _message(task, unit, "application/json"),
        "no headers": _message(task, unit, "application/json", headers={}),
        "headers that are none": _message(task, unit, "application/json", headers=None),
        "no key": _message(task, unit, "application/json", headers={"task": task}),
        "no key of an unknown task": _message(task, unit, "application/json", headers={"task": "os.system"}),
        "a list as a task": _message(task, unit, "application/json", headers={"task": [task]}),
        "a limit of no time": _message(task, unit, "application/json", headers=headers | {"timelimit": 7}),
        "compressed by nobody": _message(task, unit, "application/json", headers={"compression": "nonsense"}),
        "a number": _message(task, b"5", "application/json"),
        "no properties": _message(task, unit, "application/json", properties={}),
        "no tag": _message(task, unit, "application/json", properties=tagged | {"delivery_tag": None}),
        "a list as a tag": _message(task, unit, "application/json", properties=tagged | {"delivery_tag": [1]}),
        "a body that is none": _message(task, unit, "application/json") | {"body": 7},
        "a value that is none": {"__type__": "uuid", "__value__": {}},
    }
    return {name: json.dumps(message).encode() for name, message in messages.items()} | {
        "no message": b"not even json",
        "no text": b"\xff\xfe\x80",
        "nothing": b"",
        "a list": b"[1, 2, 3]",
        "too deep": b"[" * 100_000,
    }


def _wait(true: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_the_queues_take_json_alone() -> None:
    configured = celery_app("redis://127.0.0.1:1/0").conf
    assert list(configured.accept_content) == ["json"]
    assert configured.task_serializer == configured.result_serializer == configured.event_serializer == "json"


@pytest.mark.timeout(300)
def test_a_hostile_message_is_refused_and_the_worker_goes_on(
    plant: Plant, victim: Worker, queue: redis.Redis, tmp_path: Path
) -> None:
    """The same worker does the next unit, connected as before, and no message comes back to it or another one."""
    canary = tmp_path / "it ran"
    log = plant.logs / "victim.log"
    for name, message in _hostile(canary).items():
        said = log.stat().st_size
        queue.lpush("embed", message)
        assert _does_a_unit(plant), name
        assert _wait(lambda: queue.llen("embed") == 0 and queue.hlen("unacked") == 0, 10), name
        assert victim.poll() is None, name
        assert not canary.exists(), name
        # a unit that is not there is a hint too late, and no attack
        if name != "no such unit":
            assert re.search(r"\[(warning|error|critical) *\]", log.read_text()[said:]), f"nothing said of {name}"
    said_at_all = log.read_text()
    assert "application/x-python-serialize" in said_at_all
    assert "application/x-yaml" in said_at_all
    assert "Connection to broker lost" not in said_at_all
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.exists(), "the trap is a trap"


def test_nobody_listens_for_remote_commands(plant: Plant, victim: Worker, queue: redis.Redis, tmp_path: Path) -> None:
    """Celery's commands to workers would go the same way, as messages to subscribers: there are none."""
    canary = tmp_path / "it ran"
    # by then it has subscribed to all that it ever does
    assert _does_a_unit(plant)
    assert queue.pubsub_channels() == []
    assert queue.pubsub_numpat() == 0
    body = pickle.dumps({"method": "ping", "arguments": {"x": Trap(canary)}, "destination": None})
    message = json.dumps(_message("", body, "application/x-python-serialize"))
    assert queue.publish("/0.celery.pidbox", message) == 0
    assert _does_a_unit(plant)
    assert victim.poll() is None
    assert not canary.exists()


# raw HTTP


BROKEN = {
    "no request line": b"nonsense\r\n\r\n",
    "a method that is none": b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "markup in the request line": b"GET <script>alert(1)</script> HTTP/9.9\r\nHost: x\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: <b>x</b>\r\n\r\n",
    "two lengths": b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "length and chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "an endless header": b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n",
    "an endless address": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n folded\r\n\r\n",
}


def _raw(stack: LocalStack, request: bytes) -> http.client.HTTPResponse:
    where = urlsplit(stack.url)
    connection = socket.create_connection((where.hostname or "", where.port or 0), timeout=30)
    with connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.body = answer.read()  # type: ignore[attr-defined]  # kept beyond the connection
        return answer


@pytest.mark.parametrize("kind", BROKEN)
def test_a_request_that_can_not_be_read_gets_the_headers_too(stack: LocalStack, kind: str) -> None:
    answer = _raw(stack, BROKEN[kind])
    assert 400 <= answer.status < 600
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("X-Frame-Options") == "DENY"
    assert "default-src" in str(answer.getheader("Content-Security-Policy"))
    assert "no-store" in str(answer.getheader("Cache-Control"))
    assert answer.getheader("Server") == "retllm"
    assert b"<script>" not in answer.body
    assert b"<b>x" not in answer.body


def test_the_server_tells_its_name_and_no_version(stack: LocalStack) -> None:
    for request in (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", BROKEN["no request line"]):
        answer = _raw(stack, request)
        assert [value for name, value in answer.getheaders() if name.lower() == "server"] == ["retllm"]
        assert not any(name.lower() in ("via", "x-powered-by") for name, _ in answer.getheaders())
