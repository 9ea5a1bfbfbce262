"""Waiting for a server that is away: on a clock and a sleep of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from retllm.cli.client import Api, RequestRejected, Unreachable
from retllm.cli.patience import GaveUp, Patience, PatientApi
from retllm.errors import StackError


class World:
    """A clock that only sleeping moves, and what was said."""

    def __init__(self, seconds: float = 600) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.said: list[str] = []
        self.patience = Patience(seconds, self.said.append, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def api(self, answers: Iterator[httpx.Response | Exception]) -> PatientApi:
        def answer(_: httpx.Request) -> httpx.Response:
            found = next(answers)
            if isinstance(found, Exception):
                raise found
            return found

        http = httpx.Client(base_url="http://server.test", transport=httpx.MockTransport(answer))
        return PatientApi(http, self.patience)


def _error(status: int, **headers: str) -> httpx.Response:
    body = {"error": {"code": "c", "message": "The server is busy.", "detail": {}}}
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_a_request_is_repeated_until_the_server_answers() -> None:
    world = World()
    away = [httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.Response(502), _error(503), _error(504)]
    api = world.api(iter([*away, httpx.Response(200, json={"a": 1})]))
    assert api.call("GET", "/x") == {"a": 1}
    assert world.slept == [1, 2, 4, 8, 16]
    waiting, again = world.said
    assert waiting == (
        "Waiting for the server and trying again, for up to 10 minutes: "
        "The server at http://server.test/ can't be reached (refused)."
    )
    assert again == "The server answers again."


def test_it_waits_as_long_as_the_server_asks_for() -> None:
    world = World()
    assert world.api(iter([_error(503, Retry_After="25"), httpx.Response(204)])).call("POST", "/x") == {}
    assert world.slept == [25]
    assert world.said[0] == "Waiting for the server and trying again, for up to 10 minutes: The server is busy."


def test_patience_ends_after_its_time_away_in_one_go() -> None:
    world = World(70)

    def always() -> Iterator[httpx.Response]:
        yield _error(503)
        yield httpx.Response(204)
        while True:
            yield _error(503)

    api = world.api(always())
    api.call("GET", "/x")
    world.slept.clear()
    with pytest.raises(GaveUp, match=r"^The server was away for 70 seconds: The server is busy\.$"):
        api.call("GET", "/x")
    assert sum(world.slept) == 70
    assert max(world.slept) == 30


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500, 507])
def test_other_errors_are_not_repeated(status: int) -> None:
    world = World()
    with pytest.raises(RequestRejected):
        world.api(iter([_error(status)])).call("GET", "/x")
    assert world.slept == []


def test_what_is_no_such_server_is_not_waited_for() -> None:
    world = World()
    with pytest.raises(StackError, match="is not a retllm server"):
        world.api(iter([httpx.Response(200, text="hello")])).call("GET", "/x")
    assert world.slept == []


def test_other_commands_get_the_error_as_the_server_sent_it() -> None:
    http = httpx.Client(base_url="http://server.test", transport=httpx.MockTransport(lambda _: _error(503)))
    with pytest.raises(Unreachable) as caught:
        Api(http).call("GET", "/x")
    assert caught.value.as_json()["error"]["code"] == "c"


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("http://server.test", "Check that it runs, and that RETLLM_URL names it."),
        ("", "Start one with `retllm up`, or set RETLLM_URL."),
    ],
)
def test_a_command_that_does_not_wait_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, address: str, advice: str
) -> None:
    monkeypatch.setenv("RETLLM_URL", address)

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    http = httpx.Client(base_url="http://server.test", transport=httpx.MockTransport(refuse))
    with pytest.raises(Unreachable) as caught:
        Api(http).get("/x")
    assert caught.value.message == f"The server at http://server.test/ can't be reached (refused). {advice}"
