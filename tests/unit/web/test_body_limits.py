"""A body is read only if its sender may send it, and only as far as its route takes it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from tests.unit.web.conftest import Caller, start_session
from tests.unit.web.uploads import begin

from retllm.settings import Settings
from retllm_web.http import body_limits
from retllm_web.http.body_limits import ORDINARY, limit_of

BOUNDARY = "multipart/form-data; boundary=x"
FILE_HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
# what takes more than an ordinary body: files, pictures of queries, texts, names of many files, and reports
LARGE = {
    *(f"api.{name}" for name in ("upload_items", "send_files", "append_part", "announce_files", "note_unsent_files")),
    "api.expect_files",
    *(
        f"pages.{name}"
        for name in ("upload", "send_files", "close_upload", "tell_names_apart", "add_text", "change_item")
    ),
    *(
        "api.submit_search",
        "api.submit_search_of_several",
        "pages.search",
        "pages.search_anywhere",
        "api.add_evaluation",
        "pages.upload_run",
    ),
}


class Endless(io.RawIOBase):
    """A body that goes on for ever, and counts what is read of it."""

    def __init__(self, head: bytes = b"") -> None:
        self.head = io.BytesIO(head)
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self.head.read(len(buffer)) or b"x" * len(buffer)
        buffer[: len(found)] = found
        self.count += len(found)
        return len(found)


def post(caller: FlaskClient | Caller, path: str, head: bytes, kind: str, **headers: str) -> tuple[Any, int]:
    """Send an endless body; return the answer and how many bytes were read."""
    body = Endless(head)
    answer = caller.post(
        path,
        content_type=kind,
        headers=headers,
        environ_overrides={
            "wsgi.input": io.BufferedReader(body, 4096),
            "wsgi.input_terminated": True,
        },
    )
    return answer, body.count


def changing_routes(app: Flask) -> Iterator[str]:
    for rule in app.url_map.iter_rules():
        if {"POST", "PUT", "PATCH"} & (rule.methods or set()):
            yield rule.endpoint


def test_every_route_takes_an_ordinary_body_unless_it_is_known_to_take_more(app: Flask, settings: Settings) -> None:
    routes = set(changing_routes(app))
    assert routes >= LARGE
    assert {route for route in routes if limit_of(route, settings) != ORDINARY} == LARGE
    assert {route.partition(".")[0] for route in routes} == {"api", "pages"}, "those that restrict bodies"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (FILE_HEAD, BOUNDARY),
        (b"name=", "application/x-www-form-urlencoded"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 20, BOUNDARY),
    ],
)
def test_of_the_form_of_a_client_without_an_account_64_kib_and_ten_parts_are_read(
    client: FlaskClient, head: bytes, kind: str
) -> None:
    answer, count = post(client, "/login", head, kind)
    assert answer.status_code == 413
    assert count <= (64 << 10) + 8192


@pytest.mark.parametrize("path", ["/collections/{}/upload", "/collections", "/uploads/names"])
def test_nothing_is_read_of_a_page_form_without_a_session(client: FlaskClient, ada: Caller, path: str) -> None:
    key = ada.post("/collections", json={"name": "Birds"}).json["id"]
    answer, count = post(client, path.format(key), FILE_HEAD, BOUNDARY)
    assert (answer.status_code, count) == (302, 0)


@pytest.fixture
def shared(ada: Caller) -> str:
    """A collection that everybody may see."""
    key = str(ada.post("/collections", json={"name": "Birds"}).json["id"])
    assert ada.put(f"/collections/{key}/visibility", json={"visibility": "everyone"}).status_code == 200
    return key


def test_nothing_is_read_of_files_that_their_sender_may_not_send(
    app: Flask, ada: Caller, bob: Caller, shared: str
) -> None:
    job = begin(ada, shared)
    browser = app.test_client()
    start_session(app, browser, bob.user)
    for caller, path in (
        (bob, f"/collections/{shared}/items"),
        (bob, f"/uploads/{job}/files"),
        (bob, f"/uploads/{job}/known"),
        (browser, f"/collections/{shared}/upload"),
        (browser, f"/uploads/{job}/files"),
    ):
        for head, kind in ((FILE_HEAD, BOUNDARY), (b'{"files": ["', "application/json")):
            answer, count = post(caller, path, head, kind)
            assert (answer.status_code, count) == (403, 0), path


def test_of_an_ordinary_body_256_kib_are_read(app: Flask, ada: Caller, shared: str) -> None:
    browser = app.test_client()
    start_session(app, browser, ada.user)
    for caller, path in ((ada, f"/collections/{shared}/index"), (ada, "/tokens"), (browser, "/collections")):
        for head, kind in ((b'{"name": "', "application/json"), (FILE_HEAD, BOUNDARY)):
            answer, count = post(caller, path, head, kind)
            assert answer.status_code >= 400
            assert count <= (256 << 10) + 8192, path


def test_json_of_many_values_is_refused_before_it_is_parsed(ada: Caller, shared: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(body_limits, "_NODES", 50_000)
    many = json.dumps({"items": [{"text": "a"}] * 20_000})
    few = json.dumps({"items": [{"text": "a " * 20_000}] * 10})
    for body, status in (
        (many, 413),
        (few, 200),
        ("[" * 300_000, 413),
        ("[" * 10_000, 400),
        ('{"a": 1e999' + " " * 300_000, 400),
    ):
        answer = ada.post(f"/collections/{shared}/items", data=body, content_type="application/json")
        assert answer.status_code == status, answer.text[:200]
