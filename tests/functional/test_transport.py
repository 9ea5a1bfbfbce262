"""Attacks on the transport of a running platform: its queues and raw HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pickle
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from tests.chaos.client import Client
from tests.chaos.platform import Platform
from tests.functional.worker_control import Worker, worker

from retllm.db.enums import Stage
from retllm.queue.notifications import TASK_OF, celery_app

# the queues


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.canary),)


@pytest.fixture(scope="module")
def queue(platform: Platform) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(platform.redis.url) as connected:
        # workers of other tests were killed while they held messages
        connected.flushdb()
        yield connected


@pytest.fixture(scope="module")
def victim(platform: Platform, queue: redis.Redis) -> Iterator[Worker]:
    """The only worker of the platform: if it crashes, all tests that use it fail."""
    with worker(platform, "embed", "victim") as started:
        yield started


def _does_a_unit(platform: Platform) -> bool:
    client = Client(platform.url, platform.token)
    collection = client.collection()
    client.upload_texts(collection, 2)
    return bool(client.wait(client.index(collection))["state"] == "succeeded")


def _message(task: str, body: bytes, kind: str, **changes: Any) -> dict[str, Any]:
    """Build a message as Celery writes it into Redis."""
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
    """Return messages that an attacker who knows the password of Redis could put into a queue."""
    task = TASK_OF[Stage.EMBED]
    pickled = pickle.dumps(((Trap(canary),), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}))
    yaml = f"!!python/object/apply:os.mknod ['{canary}']".encode()
    nested = pickle.dumps(Trap(canary))
    unit = json.dumps([[str(uuid.uuid4())], {}, {}]).encode()
    good = _message(task, unit, "application/json")
    headers, tagged = good["headers"], good["properties"]
    messages = {
        "pickle": _message(task, pickled, "application/x-python-serialize"),
        "yaml": _message(task, yaml, "application/x-yaml"),
        "pickle declared as json": _message(task, pickled, "application/json"),
        "unknown content": _message(task, nested, "application/data"),
        "unknown task": _message("os.system", json.dumps([[f"touch {canary}"], {}, {}]).encode(), "application/json"),
        "pickle as a remote task": _message("celery.backend_cleanup", pickled, "application/x-python-serialize"),
        "a module as a task": _message("posix.mknod", json.dumps([[str(canary)], {}, {}]).encode(), "application/json"),
        "not a unit": _message(task, json.dumps([["no unit"], {}, {}]).encode(), "application/json"),
        "wrong arguments": _message(task, json.dumps([[1, 2, {}], {"x": 1}, {}]).encode(), "application/json"),
        "no such unit": _message(task, unit, "application/json"),
        "no headers": _message(task, unit, "application/json", headers={}),
        "null headers": _message(task, unit, "application/json", headers=None),
        "no key": _message(task, unit, "application/json", headers={"task": task}),
        "no key of an unknown task": _message(task, unit, "application/json", headers={"task": "os.system"}),
        "a list as a task": _message(task, unit, "application/json", headers={"task": [task]}),
        "an invalid time limit": _message(task, unit, "application/json", headers=headers | {"timelimit": 7}),
        "unknown compression": _message(task, unit, "application/json", headers={"compression": "nonsense"}),
        "a number": _message(task, b"5", "application/json"),
        "no properties": _message(task, unit, "application/json", properties={}),
        "no tag": _message(task, unit, "application/json", properties=tagged | {"delivery_tag": None}),
        "a list as a tag": _message(task, unit, "application/json", properties=tagged | {"delivery_tag": [1]}),
        "an invalid body": _message(task, unit, "application/json") | {"body": 7},
        "an invalid value": {"__type__": "uuid", "__value__": {}},
    }
    return {name: json.dumps(message).encode() for name, message in messages.items()} | {
        "no message": b"not even json",
        "no text": b"\xff\xfe\x80",
        "nothing": b"",
        "a list": b"[1, 2, 3]",
        "too deep": b"[" * 100_000,
    }


def _wait(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_the_queues_accept_only_json() -> None:
    configured = celery_app("redis://127.0.0.1:1/0").conf
    assert list(configured.accept_content) == ["json"]
    assert configured.task_serializer == configured.result_serializer == configured.event_serializer == "json"


@pytest.mark.timeout(900)
def test_a_hostile_message_is_rejected_and_the_worker_continues(
    platform: Platform, victim: Worker, queue: redis.Redis, tmp_path: Path
) -> None:
    """The same worker completes the next unit on the same connection, and no message is redelivered."""
    canary = tmp_path / "it ran"
    log = platform.logs / "victim.log"
    for name, message in _hostile(canary).items():
        log_size = log.stat().st_size
        queue.lpush("embed", message)
        assert _does_a_unit(platform), name
        assert _wait(lambda: queue.llen("embed") == 0 and queue.hlen("unacked") == 0), name
        assert victim.poll() is None, name
        assert not canary.exists(), name
        # a missing unit is a late hint and not an attack
        if name != "no such unit":
            assert re.search(r"\[(warning|error|critical) *\]", log.read_text()[log_size:]), f"nothing logged of {name}"
    whole_log = log.read_text()
    assert "application/x-python-serialize" in whole_log
    assert "application/x-yaml" in whole_log
    assert "Connection to broker lost" not in whole_log
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.exists(), "the trap must work"


def test_workers_do_not_accept_remote_control_commands(
    platform: Platform, victim: Worker, queue: redis.Redis, tmp_path: Path
) -> None:
    """Celery sends control commands to workers as messages to subscribers; there are none."""
    canary = tmp_path / "it ran"
    # after a unit it has made all its subscriptions
    assert _does_a_unit(platform)
    assert queue.pubsub_channels() == []
    assert queue.pubsub_numpat() == 0
    body = pickle.dumps({"method": "ping", "arguments": {"x": Trap(canary)}, "destination": None})
    message = json.dumps(_message("", body, "application/x-python-serialize"))
    assert queue.publish("/0.celery.pidbox", message) == 0
    assert _does_a_unit(platform)
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


def _raw(platform: Platform, request: bytes) -> http.client.HTTPResponse:
    where = urlsplit(platform.url)
    connection = socket.create_connection((where.hostname or "", where.port or 0), timeout=120)
    with connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.body = answer.read()  # type: ignore[attr-defined]  # readable after the connection is closed
        return answer


@pytest.mark.parametrize("kind", BROKEN)
def test_the_response_to_a_malformed_request_has_the_security_headers(platform: Platform, kind: str) -> None:
    answer = _raw(platform, BROKEN[kind])
    assert 400 <= answer.status < 600
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("X-Frame-Options") == "DENY"
    assert "default-src" in str(answer.getheader("Content-Security-Policy"))
    assert "no-store" in str(answer.getheader("Cache-Control"))
    assert answer.getheader("Server") == "retllm"
    assert b"<script>" not in answer.body
    assert b"<b>x" not in answer.body


def test_the_server_header_has_a_name_and_no_version(platform: Platform) -> None:
    for request in (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", BROKEN["no request line"]):
        answer = _raw(platform, request)
        assert [value for name, value in answer.getheaders() if name.lower() == "server"] == ["retllm"]
        assert not any(name.lower() in ("via", "x-powered-by") for name, _ in answer.getheaders())
