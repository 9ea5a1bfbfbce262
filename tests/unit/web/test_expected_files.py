"""What an upload expects and never gets is listed, whoever ends it; names are the same on every way."""

from __future__ import annotations

import io
import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller
from tests.unit.web.uploads import BLUE, RED, begin, needs, send

from retllm.db.session import transaction
from retllm.db.uploads import ExpectedFiles, Upload
from retllm.uploads import submit
from retllm.uploads.unsent import LEFT
from retllm_web.http.services import Services


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Expected"}).json["id"])


def expect(caller: Caller, upload: str, first: int, *names: str) -> None:
    answer = caller.post(f"/uploads/{upload}/expected", json={"first": first, "names": names})
    assert answer.status_code == 204, answer.json


def unsent(caller: Caller, upload: str) -> list[tuple[str, int, str]]:
    """Return name, number and reason of what was not sent, in order."""
    rows: list[Any] = caller.get(f"/uploads/{upload}/files?status=rejected&status=not_sent").json["files"]
    codes = {"rejected": "unsendable", "not_sent": "not_sent"}
    assert all(row["error"]["code"] == codes[row["status"]] for row in rows)
    return [(row["name"], row["count"], row["error"]["message"]) for row in rows]


def test_what_never_comes_is_listed_when_the_upload_is_closed(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection, files=6)
    # the second request is repeated, since its answer was lost
    expect(ada, upload, 0, "z.png", "red.png", "red.png")
    for _ in range(2):
        expect(ada, upload, 3, ".DS_Store", "a//b.png", "blue.png")
    send(ada, upload, red_png=RED, blue_png=BLUE)
    assert unsent(ada, upload) == []
    ada.post(f"/uploads/{upload}/close", json={"reason": "Not sent: the line broke."})
    told = "Not sent: the line broke."
    # of two files of one name one came; clutter is not missed
    assert unsent(ada, upload) == [("z.png", 1, told), ("red.png", 1, told), ("a/b.png", 1, told)]
    ada.post(f"/uploads/{upload}/close", json={"reason": "Not sent: again."})
    assert len(unsent(ada, upload)) == 3
    with served.sessions() as session:
        assert session.scalars(sa.select(ExpectedFiles)).all() == []


def test_an_upload_that_got_all_lists_nothing_else(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection, files=2)
    expect(ada, upload, 0, "red.png", "gone.png")
    send(ada, upload, red_png=RED)
    note = {"name": "gone.png", "status": "rejected", "reason": "It vanished."}
    assert ada.post(f"/uploads/{upload}/unsent", json={"files": [note]}).status_code == 204
    ada.post(f"/uploads/{upload}/close")
    assert unsent(ada, upload) == [("gone.png", 1, "It vanished.")]


@pytest.mark.parametrize(("count", "name"), [(1, "1 more file"), (2500, "2,500 more files")])
def test_files_whose_names_did_not_come_are_counted(ada: Caller, collection: str, count: int, name: str) -> None:
    upload = begin(ada, collection, files=count + 1)
    expect(ada, upload, 0, "a.png")
    ada.post(f"/uploads/{upload}/close")
    assert unsent(ada, upload) == [("a.png", 1, LEFT), (name, count, LEFT)]
    assert ada.get(f"/uploads/{upload}").json["counts"] == {"not_sent": count + 1}


def test_files_that_came_without_their_names_are_not_missed(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection, files=3)
    expect(ada, upload, 0, "a.png")
    send(ada, upload, red_png=RED)
    ada.post(f"/uploads/{upload}/close")
    assert unsent(ada, upload) == [("a.png", 1, LEFT), ("1 more file", 1, LEFT)]


def test_of_files_none_of_which_was_named_those_that_came_are_not_missed(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection, files=3)
    send(ada, upload, red_png=RED)
    ada.post(f"/uploads/{upload}/close")
    assert unsent(ada, upload) == [("2 more files", 2, LEFT)]


def test_an_upload_that_is_left_behind_lists_what_is_missing(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    expect(ada, upload, 0, "a.png")
    with transaction(served.sessions) as session:
        old = sa.func.now() - timedelta(hours=2)
        session.execute(sa.update(Upload).where(Upload.id == uuid.UUID(upload)).values(active_at=old))
    submit.close_idle(served.sessions, timedelta(hours=1))
    assert unsent(ada, upload) == [("a.png", 1, LEFT)]


def test_a_cancelled_upload_lists_what_is_missing_once(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    expect(ada, upload, 0, "a.png")
    ada.post(f"/jobs/{upload}/cancel")
    note = {"name": "a.png", "status": "not_sent", "reason": "Not sent: cancelled."}
    assert ada.post(f"/uploads/{upload}/unsent", json={"files": [note]}).status_code == 204
    ((name, count, reason),) = unsent(ada, upload)
    assert (name, count) == ("a.png", 1)
    assert "cancelled" in reason
    late = ada.post(f"/uploads/{upload}/expected", json={"first": 1, "names": ["b.png"]})
    assert (late.status_code, late.json["error"]["detail"]["cancelled"]) == (409, True)


def test_an_announcement_is_bounded(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    expect(ada, upload, 0, *["n" * 4096] * 1000)
    for wrong in ({"names": []}, {"names": ["a"] * 1001}, {"names": [""]}, {"names": ["a"], "first": -1}):
        assert ada.post(f"/uploads/{upload}/expected", json={"first": 0, **wrong}).status_code == 422
    assert ada.post(f"/uploads/{upload}/close", json={"reason": ""}).status_code == 422


@pytest.mark.parametrize("name", ['5" disk.png', "5%22 disk.png", "100%.png", "a#b.png", "a%0Ab.png", "C:\\red.png"])
def test_a_name_is_the_same_announced_and_sent(ada: Caller, collection: str, name: str) -> None:
    upload = begin(ada, collection)
    expect(ada, upload, 0, name)
    parts = {"file": (io.BytesIO(RED), quote(name))}
    path = f"/uploads/{upload}/files?quoted=true"
    (receipt,) = ada.post(path, data=parts, content_type="multipart/form-data").json["files"]
    assert receipt["name"] == name.replace("\\", "/")
    file = {"name": name, "size": len(RED)}
    assert ada.post(f"/uploads/{upload}/known", json={"files": [file]}).json["needs"] == ["known"]
    ada.post(f"/uploads/{upload}/close")
    assert unsent(ada, upload) == []
    assert needs(ada, begin(ada, collection), red_png=RED) == ["known"]
