"""The web server decodes a picture once, few at a time, and a fair share for each account."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from PIL import Image
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture
from tests.unit.web.test_renditions import upload

from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.errors import Busy, MediaRejected
from retllm.media import sandbox
from retllm.media.sandbox import DecodeResponse, DecoderHung
from retllm.settings import Settings
from retllm_web.http import decoding
from retllm_web.http.decoding import WAITING, DecodingLine, Kept
from retllm_web.http.services import Services

LARGE = picture(size=(2400, 1600))
SOMEBODY, ANOTHER = uuid.uuid4(), uuid.uuid4()


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[sandbox.DecodeRequest]:
    """What decoders are asked."""
    asked: list[sandbox.DecodeRequest] = []
    real = sandbox.ask

    def ask(request: sandbox.DecodeRequest, *arguments: Any) -> DecodeResponse:
        asked.append(request)
        return real(request, *arguments)

    monkeypatch.setattr(sandbox, "ask", ask)
    return asked


def send(caller: Caller, collection: str, content: bytes, **query: Any) -> Any:
    data = {"picture": (io.BytesIO(content), "query"), "query": json.dumps({"k": 1, **query})}
    return caller.post(f"/collections/{collection}/searches", data=data, content_type="multipart/form-data")


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as shown:
        return shown.size


def test_the_picture_of_a_query_is_decoded_when_it_is_sent_and_never_again(
    ada: Caller,
    indexed: str,
    decodes: list[sandbox.DecodeRequest],
) -> None:
    search = send(ada, indexed, LARGE).json["id"]
    assert len(decodes) == 1
    for _ in range(3):
        assert size_of(ada.get(f"/searches/{search}/thumbnail").data) == (320, 213)
    assert len(decodes) == 1
    for _ in range(3):
        assert size_of(ada.get(f"/searches/{search}/rendition").data) == (1600, 1067)
    # made of the working copy, and kept
    assert [request.side for request in decodes[1:]] == [1600]


@pytest.mark.parametrize("size", [(40, 30), (2400, 1600)])
def test_the_picture_of_a_query_of_an_earlier_release_is_shown(
    ada: Caller,
    indexed: str,
    served: Services,
    size: tuple[int, int],
    decodes: list[sandbox.DecodeRequest],
) -> None:
    search = send(ada, indexed, picture(size=size)).json["id"]
    with served.sessions() as session:
        key = str(session.get_one(Search, uuid.UUID(search)).query_picture_key)
    content = served.storage.open(key).read()
    served.storage.delete_folder(key.rpartition("/")[0])
    served.storage.put(key, io.BytesIO(content))
    decodes.clear()
    for _ in range(2):
        assert ada.get(f"/searches/{search}/thumbnail").status_code == 200
        assert ada.get(f"/searches/{search}/rendition").status_code == 200
    assert len(decodes) == 2


def test_a_picture_that_cannot_be_decoded_is_tried_once(
    ada: Caller,
    bob: Caller,
    indexed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = []

    def hang(*_: object) -> None:
        tries.append(1)
        raise DecoderHung

    monkeypatch.setattr(sandbox, "ask", hang)
    answers = [send(ada, indexed, LARGE) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [422] * 3
    assert len({answer.json["error"]["message"] for answer in answers}) == 1
    assert len(tries) == 1
    send(ada, indexed, picture("blue"))
    assert len(tries) == 2


def test_decoders_of_the_web_server_have_a_lower_priority_than_itself(ada: Caller, indexed: str) -> None:
    sandbox.close()
    assert send(ada, indexed, LARGE).status_code == 202
    (decoder,) = sandbox._pool._all
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, decoder._process.pid) == min(19, ours + 10)


def test_what_is_kept_is_limited_and_failures_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_KEPT_BYTES", 100)
    monkeypatch.setattr(decoding, "_KEPT_FAILURES", 2)
    kept = Kept()
    for key in "abc":
        kept.keep(key, key.encode() * 40)
        kept.keep(key, key.encode() * 40)
    assert [kept.get(key) for key in "abc"] == [None, b"b" * 40, b"c" * 40]
    for key in "xyz":
        kept.fail(key, MediaRejected("It is damaged."))
    assert kept.get("x") is None
    with pytest.raises(MediaRejected, match="It is damaged"):
        kept.get("z")
    monkeypatch.setattr(decoding, "_FAILURE_SECONDS", 0.0)
    kept.fail("z", MediaRejected("It is damaged."))
    assert kept.get("z") is None


def test_the_picture_of_a_query_has_a_smaller_limit_than_that_of_an_item(
    app: OpenAPI,
    ada: Caller,
    indexed: str,
    birds: str,
    settings: Settings,
) -> None:
    served = app.extensions["retllm"]
    few = settings.model_copy(update={"max_query_pixels": 1000})
    app.extensions["retllm"] = Services(served.sessions, served.storage, served.notifier, few)
    assert send(ada, indexed, picture(size=(30, 30))).status_code == 202
    refused = send(ada, indexed, picture(size=(40, 30)))
    assert refused.status_code == 413
    assert "RETLLM_MAX_QUERY_PIXELS allows 1,000" in refused.json["error"]["message"]
    assert upload(ada, birds, "larger.png", picture(size=(40, 30)))


def test_a_picture_that_is_stored_already_is_not_decoded_to_ask_by_it_again(
    ada: Caller,
    indexed: str,
    birds: str,
    served: Services,
    decodes: list[sandbox.DecodeRequest],
) -> None:
    item = upload(ada, birds, "large.png", LARGE)
    first = send(ada, indexed, LARGE).json["id"]
    decodes.clear()
    like = ada.post(f"/collections/{indexed}/searches", json={"like": {"item": item}})
    assert like.status_code == 202
    for search in (first, like.json["id"]):
        assert size_of(ada.get(f"/searches/{search}/thumbnail").data) == (320, 213)
    assert not decodes
    with served.sessions() as session:
        keys = session.scalars(sa.select(Search.query_picture_key)).all()
        assert len(set(session.scalars(sa.select(Search.query_picture_sha256)))) == 1
    for key in keys:
        assert served.storage.exists(f"{str(key).rpartition('/')[0]}/copy-1600.jpg")


def test_all_files_of_a_query_are_deleted_with_it(ada: Caller, indexed: str, served: Services) -> None:
    search = send(ada, indexed, LARGE).json["id"]
    assert served.storage.folders("queries")
    with transaction(served.sessions) as session:
        session.execute(sa.text("UPDATE jobs SET state = 'succeeded', finished_at = now()"))
    assert ada.delete(f"/jobs/{search}").status_code == 204
    assert not served.storage.folders("queries")
    # refused after it was stored
    empty = ada.post("/collections", json={"name": "Empty"}).json["id"]
    assert send(ada, empty, LARGE).status_code == 409
    assert not served.storage.folders("queries")


def test_requests_beyond_the_line_are_told_to_come_again(
    app: OpenAPI,
    ada: Caller,
    bob: Caller,
    indexed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoding.install(app, 1)
    entered, go_on, real = threading.Semaphore(0), threading.Event(), sandbox.ask

    def slow(*arguments: Any) -> DecodeResponse:
        entered.release()
        assert go_on.wait(120)
        return real(*arguments)

    most = (1 + WAITING + 1) // 2
    with ThreadPoolExecutor(most) as threads, monkeypatch.context() as patch:
        patch.setattr(sandbox, "ask", slow)
        clients = [Caller(app.test_client(), ada.user, ada.token) for _ in range(most)]
        inside = [threads.submit(send, client, indexed, picture("blue")) for client in clients]
        assert entered.acquire(timeout=120)
        deadline = time.monotonic() + 120
        while app.extensions["retllm_decoding_line"]._inside.total() < most:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused = send(ada, indexed, picture("green"))
        assert (refused.status_code, refused.json["error"]["code"]) == (503, "busy")
        assert int(refused.headers["Retry-After"]) > 0
        # what was made before needs no decoder
        assert ada.get("/collections").status_code == 200
        go_on.set()
        assert Counter(one.result().status_code for one in inside) == {202: most}
    assert send(bob, indexed, picture("green")).status_code == 404


def test_an_account_has_at_most_half_of_the_places(app: OpenAPI) -> None:
    line = DecodingLine(2)
    with app.test_request_context():
        for _ in range(9):
            # as if they waited
            line._enter(SOMEBODY)
        with pytest.raises(Busy):
            line._enter(SOMEBODY)
        with line.place(ANOTHER):
            pass


def test_an_account_that_decoded_for_long_gets_only_what_nobody_else_wants(
    app: OpenAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    line = DecodingLine(2)
    with app.test_request_context():
        with line.place(SOMEBODY):
            now += 61
        # nobody else decodes
        with line.place(SOMEBODY), pytest.raises(Busy), line.place(SOMEBODY):
            pass
        with line.place(ANOTHER):
            with pytest.raises(Busy), line.place(SOMEBODY):
                pass
            now += 60
            with line.place(SOMEBODY):
                pass
        assert line._inside.total() == 0
        now += 10_000
        with line.place(ANOTHER):
            pass
    assert set(line._spent) <= {ANOTHER}
