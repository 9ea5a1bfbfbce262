"""Which messages the transport drops, and which errors it leaves to Celery and the supervisor."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from kombu.transport.virtual import QoS

from retllm.queue.notifications import celery_app
from retllm.queue.transport import Transport, _Client, _QoS


class _Channel:
    """A channel without Redis."""

    def __init__(self) -> None:
        self.qos = QoS(self, prefetch_count=2)
        self.qos.restore_at_shutdown = False


class _Wire:
    """A connection that returns one answer."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read_response(self, **_: Any) -> Any:
        return self._answer


@pytest.fixture
def transport() -> Transport:
    made: Transport = celery_app("redis://127.0.0.1:1/0").connection().create_transport()
    made.channels.append(_Channel())
    return made


def _take(transport: Transport, error: BaseException | None) -> QoS:
    """Deliver a message that raises this error while another one is unacknowledged."""
    qos: QoS = transport.channels[0].qos
    qos.append("held", "before")

    def callback(message: str) -> None:
        qos.append(message, "now")
        if error is not None:
            raise error

    transport._callbacks["embed"] = callback
    transport._deliver("a message", "embed")
    qos._flush()
    return qos


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_every_redis_url_scheme_uses_this_transport(scheme: str) -> None:
    with celery_app(f"{scheme}://127.0.0.1:1/0").connection() as connection:
        assert connection.get_transport_cls() is Transport
        assert bool(connection.ssl) == (scheme == "rediss")
        assert connection.as_uri().startswith(f"{scheme}://")


@pytest.mark.parametrize(
    "error",
    [TypeError("x"), KeyError("id"), ValueError("x"), AttributeError("x"), RecursionError("x"), redis.DataError("x")],
    ids=repr,
)
def test_a_message_whose_handling_fails_is_acknowledged(transport: Transport, error: Exception) -> None:
    qos = _take(transport, error)
    assert list(qos._delivered) == ["before"], "only the failed message is acknowledged"
    assert qos.can_consume()


def test_a_delivered_message_stays_unacknowledged_until_its_task_is_done(transport: Transport) -> None:
    assert list(_take(transport, None)._delivered) == ["before", "now"]


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("x"),
        redis.TimeoutError("x"),
        redis.ResponseError("x"),
        OSError("x"),
        MemoryError(),
        SystemExit(0),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_errors_not_caused_by_the_message_are_raised_and_leave_it_unacknowledged(
    transport: Transport, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        _take(transport, error)
    assert list(transport.channels[0].qos._delivered) == ["before", "now"]


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"__type__": "uuid", "__value__": {}}',
        b'{"__type__": [], "__value__": 1}',
    ],
    ids=lambda entry: repr(entry[:12]),
)
def test_an_unreadable_entry_is_dropped(transport: Transport, entry: bytes) -> None:
    channel = Transport.Channel.__new__(Transport.Channel)
    assert channel._get_client() is _Client
    assert _Client().parse_response(_Wire([b"embed", entry]), "BRPOP") is None


@pytest.mark.parametrize("answer", [None, (b"embed", json.dumps({"body": "x"}).encode())])
def test_a_readable_entry_is_returned_unchanged(answer: Any) -> None:
    assert _Client().parse_response(_Wire(answer), "BRPOP") == answer


def test_replies_to_other_commands_are_not_inspected() -> None:
    assert _Client().parse_response(_Wire([b"embed", b"not json"]), "LRANGE") == [b"embed", b"not json"]


class _Gone:
    """A pipeline to an unreachable Redis."""

    def execute(self) -> None:
        raise redis.ConnectionError("gone")


@pytest.mark.parametrize("method", ["ack", "reject"])
def test_a_message_is_released_even_if_redis_is_unreachable(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Transport.Channel.QoS is _QoS
    qos = _QoS(_Channel(), prefetch_count=1)
    qos.restore_at_shutdown = False
    monkeypatch.setattr(qos, "_remove_from_indices", lambda *_: _Gone())
    QoS.append(qos, "a message", "now")
    assert not qos.can_consume()
    with pytest.raises(redis.ConnectionError):
        getattr(qos, method)("now")
    assert qos.can_consume()
