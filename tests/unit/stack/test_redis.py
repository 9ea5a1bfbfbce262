"""The embedded Redis-compatible server, and the errors for unusable servers."""

from __future__ import annotations

import stat

import psutil
import pytest
import redis as client
from redis.exceptions import AuthenticationError

from retllm.errors import StackError
from retllm.stack import LocalStack, redis
from retllm.stack.network import choose_port


def test_the_embedded_server_is_described(servers: LocalStack) -> None:
    assert redis.check(servers.redis_url).startswith("Valkey 9.")


def test_the_embedded_server_is_local_and_requires_a_password(servers: LocalStack) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(servers.processes["redis"]).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]
    port = int(servers.redis_url.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(AuthenticationError):
        client.Redis(port=port).ping()
    configuration = servers.home / "redis" / "valkey.conf"
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600


def test_an_unreachable_redis_server_gives_a_one_sentence_error_without_the_password() -> None:
    port = choose_port("127.0.0.1", 0)
    with pytest.raises(StackError) as caught:
        redis.check(f"redis://:secret@127.0.0.1:{port}/0")
    assert caught.value.message == (
        f"Redis at redis://***@127.0.0.1:{port}/0 can't be reached (Connection refused): start that server, or correct "
        "REDIS_URL, or unset it to let `retllm up` run its own server."
    )


def test_a_wrong_password_gives_a_one_sentence_error(servers: LocalStack) -> None:
    wrong = "redis://:wrong@" + servers.redis_url.split("@")[1]
    with pytest.raises(StackError, match=r"can't be reached \(.*(WRONGPASS|invalid).*\): start that server") as caught:
        redis.check(wrong)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("given", ["nonsense", "http://h:1", ""])
def test_an_invalid_redis_url_is_rejected(given: str) -> None:
    with pytest.raises(StackError, match="REDIS_URL is not a Redis URL"):
        redis.check(given)
