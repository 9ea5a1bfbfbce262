"""Exports and originals hold no slot of the server while they are sent, and an account has few exports at a time."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture
from tests.unit.web.test_renditions import upload
from tests.unit.web.uploads import begin

from retllm.search import export
from retllm.stack.client_socket import ClientSocket, RequestSlots
from retllm_web.http import long_answers, pictures
from retllm_web.http.lines import Places

SOMEBODY, ANOTHER = uuid.uuid4(), uuid.uuid4()


@pytest.fixture(autouse=True)
def places(app: OpenAPI) -> Places:
    """The app's places for exports, all of them free."""
    long_answers.install(app, 8)
    found: Places = app.extensions["retllm_exports"]
    return found


@pytest.fixture
def routes(ada: Caller, birds: str) -> list[Callable[..., Any]]:
    """Every request of the API whose answer is an export."""
    files = f"/uploads/{begin(ada, birds)}/files.csv"

    return [
        lambda **options: ada.get("/jobs/export?rows=jobs", **options),
        lambda **options: ada.get("/jobs/export?rows=results", **options),
        lambda **options: ada.get(files, **options),
        lambda **options: ada.get(f"/collections/{birds}/archive", **options),
    ]


class Served:
    """A request of a server with one slot, which the request holds."""

    def __init__(self) -> None:
        self.slots = RequestSlots(1, lambda: None)
        assert self.slots.try_acquire()
        ours, self.theirs = socket.socketpair()
        self.client = ClientSocket(ours, self.slots, 60)
        self.options: dict[str, Any] = {"environ_overrides": {"gunicorn.socket": self.client}, "buffered": False}

    def is_free(self) -> bool:
        """Return whether another request can be served."""
        free = self.slots.try_acquire()
        if free:
            self.slots.release()
        return free


@pytest.fixture
def request_of_one_slot() -> Iterator[Served]:
    """The only request of a server."""
    found = Served()
    yield found
    found.client.close()
    found.theirs.close()


def test_half_of_the_places_are_for_one_account() -> None:
    few = Places(3)
    assert [few.take(SOMEBODY) for _ in range(3)] == [True, True, False]
    assert [few.take(ANOTHER) for _ in range(2)] == [True, False]
    few.leave(SOMEBODY)
    assert few.total() == 2
    assert few.take(ANOTHER)


def test_any_number_of_threads_leaves_a_place_for_another_account() -> None:
    for threads in range(1, 20):
        few = Places(long_answers.exports_at_once(threads))
        while few.take(SOMEBODY):
            pass
        assert few.take(ANOTHER)


def test_exports_beyond_the_places_of_an_account_are_refused_until_one_ends(
    ada: Caller, bob: Caller, routes: list[Callable[..., Any]], places: Places
) -> None:
    for ask in routes:
        open_answers = [ask(buffered=False) for _ in range(3)]
        assert [answer.status_code for answer in open_answers] == [200, 200, 503]
        assert open_answers[-1].json["error"]["code"] == "busy"
        assert int(open_answers[-1].headers["Retry-After"]) > 0
        assert bob.get("/jobs/export").status_code == 200
        for answer in open_answers:
            answer.close()
        assert places.total() == 0


@pytest.mark.parametrize("end", ["read", "closed", "broken off", "only the header"])
def test_an_export_gives_its_place_back_however_it_ends(ada: Caller, places: Places, birds: str, end: str) -> None:
    begin(ada, birds)
    for _ in range(5):
        if end == "only the header":
            ada.head("/jobs/export").close()
        else:
            answer = ada.get("/jobs/export", buffered=False)
            assert places.total() == 1
            if end == "read":
                assert len(answer.json) == 1
            elif end == "broken off":
                next(iter(answer.response))
            answer.close()
        assert places.total() == 0


def test_an_export_that_fails_gives_its_place_back(
    ada: Caller, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Iterator[export.Row]:
        yield from ()
        raise ConnectionError

    monkeypatch.setattr(export, "rows", fails)
    with pytest.raises(ConnectionError):
        ada.get("/jobs/export")
    assert places.total() == 0


def test_an_export_is_made_and_sent_without_a_slot_and_without_a_connection(
    app: OpenAPI,
    ada: Caller,
    birds: str,
    request_of_one_slot: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "BATCH", dict.fromkeys(export.BATCH, 1))
    for _ in range(3):
        begin(ada, birds)
    pool = app.extensions["retllm"].sessions.kw["bind"].pool
    answer = ada.get("/jobs/export", **request_of_one_slot.options)
    for _ in answer.response:
        # as if the client did not read
        assert request_of_one_slot.is_free()
        assert pool.checkedout() == 0
    answer.close()
    assert not request_of_one_slot.is_free()


def test_an_original_is_sent_without_a_slot(
    ada: Caller, birds: str, request_of_one_slot: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_CHUNK", 16)
    content = picture("blue")
    item = upload(ada, birds, "blue.png", content)
    answer = ada.get(f"/items/{item}/picture", **request_of_one_slot.options)
    sent = b""
    for chunk in answer.response:
        assert request_of_one_slot.is_free()
        # a client that has to be waited for takes nothing else from the server
        with request_of_one_slot.client.without_slot():
            assert request_of_one_slot.is_free()
        sent += chunk
    answer.close()
    assert sent == content
    assert not request_of_one_slot.is_free()


def test_uploads_that_wait_for_their_outcomes_hold_no_slot_and_few_wait(
    app: OpenAPI, request_of_one_slot: Served
) -> None:
    with app.test_request_context(**{"environ_overrides": request_of_one_slot.options["environ_overrides"]}):
        with long_answers.waiting(SOMEBODY) as may_wait:
            assert may_wait
            assert request_of_one_slot.is_free()
        assert not request_of_one_slot.is_free()
    with app.test_request_context():
        waits: Places = app.extensions["retllm_waits"]
        while waits.take(SOMEBODY):
            pass
        with long_answers.waiting(SOMEBODY) as may_wait:
            assert not may_wait
        with long_answers.waiting(ANOTHER) as may_wait:
            assert may_wait
