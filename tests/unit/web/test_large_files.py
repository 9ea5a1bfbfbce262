"""Large files are sent in parts (tus), which survive a lost connection."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.media.fingerprints import fingerprint
from tests.unit.web.conftest import Caller
from tests.unit.web.uploads import BLUE, RED, STREAM, TUS, Body, begin, needs, outcomes, sha256

from retllm.db.session import transaction
from retllm.db.uploads import FilePart, LargeFile
from retllm.uploads.large_files import expire
from retllm.uploads.unsent import LEFT
from retllm_web.http.services import Services


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Parts"}).json["id"])


def _metadata(**values: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())


def announce(caller: Caller, upload: str, name: str, content: bytes, *, hashed: bool = True, **hashes: str) -> str:
    if not hashes and hashed:
        hashes = {"sha256": sha256(content)}
    metadata = _metadata(filename=name, **hashes)
    headers = {**TUS, "Upload-Length": str(len(content)), "Upload-Metadata": metadata}
    answer = caller.post(f"/uploads/{upload}/tus", headers=headers)
    assert answer.status_code == 201
    return str(answer.headers["Location"].removeprefix("/api/v1"))


def patch(caller: Caller, address: str, offset: int, content: bytes) -> Any:
    headers = {**TUS, "Upload-Offset": str(offset)}
    return caller.patch(address, headers=headers, data=content, content_type=STREAM)


def offset(caller: Caller, address: str) -> int:
    answer = caller.head(address, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    return int(answer.headers["Upload-Offset"])


def test_a_file_in_parts_is_the_file(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    address = announce(ada, upload, "größe/red.png", RED)
    assert patch(ada, address, 0, RED[:50]).headers["Upload-Offset"] == "50"
    assert offset(ada, address) == 50
    last = patch(ada, address, 50, RED[50:])
    assert (last.status_code, last.headers["Upload-Offset"]) == (204, str(len(RED)))
    assert offset(ada, address) == len(RED)
    ada.post(f"/uploads/{upload}/close")
    (item,) = ada.get(f"/collections/{collection}/items").json["items"]
    assert item["name"] == "größe/red.png"
    assert ada.get(f"/items/{item['id']}/picture").data == RED
    assert needs(ada, begin(ada, collection), red_png=RED) == ["known"]
    assert _stored_parts(served) == []


def _stored_parts(served: Services) -> list[str]:
    with transaction(served.sessions) as session:
        named = list(session.scalars(sa.select(FilePart.file_key)))
    fs, folder = served.storage._locate("parts")
    assert len(fs.find(folder)) == len(named)
    return named


def test_a_part_at_the_wrong_offset_changes_nothing(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    address = announce(ada, upload, "red.png", RED)
    patch(ada, address, 0, RED[:50])
    for wrong in (0, 49, 51, len(RED)):
        answer = patch(ada, address, wrong, RED[wrong : wrong + 1])
        assert (answer.status_code, answer.json["error"]["detail"]) == (409, {"offset": 50})
    assert patch(ada, address, 50, RED[50:] + b"more").status_code == 413
    assert offset(ada, address) == 50
    assert len(_stored_parts(served)) == 1


def test_what_arrived_before_the_connection_broke_stays(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    address = announce(ada, upload, "red.png", RED)
    ada.client.open(
        f"/api/v1{address}",
        method="PATCH",
        headers={"Authorization": f"Bearer {ada.token}", **TUS, "Upload-Offset": "0"},
        content_type=STREAM,
        content_length=len(RED),
        input_stream=Body(RED[:33], len(RED), ConnectionResetError()),
    )
    assert offset(ada, address) == 33
    assert patch(ada, address, 33, RED[33:]).status_code == 204
    assert outcomes(ada, upload) == {"red.png": "added"}


def test_an_upload_goes_on_with_the_parts_of_an_earlier_one(ada: Caller, collection: str) -> None:
    first = begin(ada, collection)
    patch(ada, announce(ada, first, "red.png", RED), 0, RED[:50])
    assert announce(ada, begin(ada, collection), "red.png", RED) != announce(ada, first, "red.png", RED)
    ada.post(f"/uploads/{first}/close")
    (file,) = ada.get(f"/uploads/{first}/files").json["files"]
    assert file["error"]["message"].startswith(f"Not sent whole: only 50 bytes of {len(RED)} bytes arrived")
    second = begin(ada, collection)
    address = announce(ada, second, "other/red.png", RED)
    assert offset(ada, address) == 50
    patch(ada, address, 50, RED[50:])
    assert outcomes(ada, second) == {"other/red.png": "added"}
    assert offset(ada, announce(ada, begin(ada, collection), "blue.png", BLUE)) == 0


def test_an_upload_goes_on_with_parts_of_the_same_fingerprint(ada: Caller, collection: str) -> None:
    """As browsers do, which can't hash a large file as a whole; with both hashes either finds the parts."""
    first = begin(ada, collection)
    patch(ada, announce(ada, first, "red.png", RED, slices=fingerprint(RED)), 0, RED[:50])
    ada.post(f"/uploads/{first}/close")
    (file,) = ada.get(f"/uploads/{first}/files").json["files"]
    assert file["error"]["message"].endswith("Send it again within a day, and only the rest is sent.")
    second = begin(ada, collection)
    other = RED[:-1] + b"x"
    assert offset(ada, announce(ada, second, "red.png", other, slices=fingerprint(other))) == 0
    hashes = {"slices": fingerprint(RED), "sha256": sha256(RED)}
    address = announce(ada, second, "other/red.png", RED, **hashes)
    assert offset(ada, address) == 50
    patch(ada, address, 50, RED[50:])
    assert outcomes(ada, second)["other/red.png"] == "added"


def test_bytes_that_are_not_those_of_the_fingerprint_are_rejected(
    ada: Caller, collection: str, served: Services
) -> None:
    upload = begin(ada, collection)
    patch(ada, announce(ada, upload, "red.png", RED, slices=fingerprint(RED[::-1])), 0, RED)
    assert outcomes(ada, upload) == {"red.png": "rejected"}
    assert _stored_parts(served) == []


def test_only_of_a_file_with_a_hash_the_rest_alone_is_sent(ada: Caller, collection: str) -> None:
    """As by a browser without HTTPS, which has no hashes."""
    upload = begin(ada, collection)
    patch(ada, announce(ada, upload, "red.png", RED, hashed=False), 0, RED[:50])
    ada.post(f"/uploads/{upload}/close")
    (file,) = ada.get(f"/uploads/{upload}/files").json["files"]
    assert file["error"]["message"].endswith("so the file was not taken. Send it again from its beginning.")
    assert offset(ada, announce(ada, begin(ada, collection), "red.png", RED, hashed=False)) == 0


def test_two_files_of_one_upload_with_the_same_content_are_two(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    first = announce(ada, upload, "a.png", RED)
    patch(ada, first, 0, RED[:50])
    second = announce(ada, upload, "b.png", RED)
    assert (offset(ada, first), offset(ada, second)) == (50, 0)
    assert announce(ada, upload, "a.png", RED) == first
    assert patch(ada, first, 50, RED[50:]).status_code == 204
    assert patch(ada, second, 0, RED).status_code == 204
    ada.post(f"/uploads/{upload}/close")
    assert outcomes(ada, upload) == {"a.png": "added", "b.png": "duplicate"}


def test_bytes_that_are_not_those_of_the_hash_are_rejected(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    address = announce(ada, upload, "red.png", RED)
    patch(ada, address, 0, RED[:-1] + b"x")
    (file,) = ada.get(f"/uploads/{upload}/files").json["files"]
    assert (file["status"], "SHA-256 differs" in file["error"]["message"]) == ("rejected", True)
    assert _stored_parts(served) == []


def test_limits_and_clutter_are_those_of_other_files(
    ada: Caller, collection: str, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(ada, collection)
    monkeypatch.setattr(served.settings, "max_file_bytes", len(RED) - 1)
    monkeypatch.setattr(served.settings, "max_request_bytes", len(RED))
    patch(ada, announce(ada, upload, "red.png", RED), 0, RED)
    patch(ada, announce(ada, upload, "a/Thumbs.db", b"x"), 0, b"x")
    announce(ada, upload, "empty.txt", b"")
    assert outcomes(ada, upload) == {"red.png": "rejected", "a/Thumbs.db": "ignored", "empty.txt": "rejected"}
    over = ada.post(f"/uploads/{upload}/tus", headers={**TUS, "Upload-Length": str(len(RED) + 1)})
    assert over.status_code == 413


def test_an_abandoned_file_is_gone_with_its_parts(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    address = announce(ada, upload, "red.png", RED, hashed=False)
    patch(ada, address, 0, RED[:50])
    assert ada.delete(address, headers=TUS).status_code == 204
    assert ada.head(address, headers=TUS).status_code == 404
    assert _stored_parts(served) == []
    ada.post(f"/uploads/{upload}/close")
    assert outcomes(ada, upload) == {}


def test_parts_expire_a_day_after_their_upload_and_with_it(ada: Caller, collection: str, served: Services) -> None:
    upload, deleted = begin(ada, collection), begin(ada, collection)
    for each in (upload, deleted):
        patch(ada, announce(ada, each, "red.png", RED, hashed=False), 0, RED[:50])
    assert expire(served.sessions, served.storage, timedelta(0)) == 0
    for each in (upload, deleted):
        ada.post(f"/uploads/{each}/close")
    assert expire(served.sessions, served.storage) == 0
    assert ada.delete(f"/jobs/{deleted}").status_code == 204
    assert expire(served.sessions, served.storage) == 1
    with transaction(served.sessions) as session:
        session.execute(sa.update(LargeFile).values(active_at=sa.func.now() - timedelta(days=2)))
    assert expire(served.sessions, served.storage) == 1
    assert _stored_parts(served) == []


def test_the_protocol_is_named_and_its_rules_hold(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    options = ada.options(f"/uploads/{upload}/tus")
    assert (options.headers["Tus-Version"], options.headers["Tus-Extension"]) == ("1.0.0", "creation,termination")
    assert options.headers["Tus-Max-Size"] == str(served.settings.max_request_bytes)
    other = ada.post(f"/uploads/{upload}/tus", headers={"Tus-Resumable": "0.2.2", "Upload-Length": "1"})
    assert (other.status_code, other.headers["Tus-Version"]) == (412, "1.0.0")
    assert ada.post(f"/uploads/{upload}/tus", headers={"Upload-Length": "1"}).status_code == 422
    for wrong in ({}, {"Upload-Length": "-1"}, {"Upload-Length": "1", "Upload-Metadata": "filename a"}):
        assert ada.post(f"/uploads/{upload}/tus", headers={**TUS, **wrong}).status_code == 422
    address = announce(ada, upload, "red.png", RED)
    for kind in ("application/octet-stream", "application/json", "multipart/form-data"):
        answer = ada.patch(address, headers={**TUS, "Upload-Offset": "0"}, data=b"{}", content_type=kind)
        assert answer.status_code == 415
    stream = ada.post(f"/uploads/{upload}/known", data=b"{}", content_type=STREAM)
    assert stream.status_code == 415


def test_a_file_of_which_nothing_arrived_is_not_sent(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    assert ada.post(f"/uploads/{upload}/expected", json={"first": 0, "names": ["half", "told"]}).status_code == 204
    announce(ada, upload, "none", b"\0" * (3 << 20))
    announce(ada, upload, "told", b"\0" * (3 << 20), hashed=False)
    half = RED + bytes((3 << 20) - len(RED))
    patch(ada, announce(ada, upload, "half", half), 0, half[: 1 << 20])
    ada.post(f"/uploads/{upload}/close")
    rows = ada.get(f"/uploads/{upload}/files?status=not_sent").json["files"]
    assert {row["name"]: (row["error"]["code"], row["error"]["message"]) for row in rows} == {
        "told": ("not_sent", LEFT),
        "none": ("not_sent", "Not sent: nothing of its 3.1 MB arrived. Send the file again."),
        "half": (
            "incomplete",
            "Not sent whole: only 1.0 MB of 3.1 MB arrived, so the file was not taken. Send it again within a day, "
            "and only the rest is sent.",
        ),
    }


def test_a_file_that_its_first_part_shows_to_be_refused_is_over_with_it(
    ada: Caller, collection: str, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.settings, "max_file_bytes", 10_000)
    first, upload = bytes(5000), begin(ada, collection)
    too_large, other = RED + first, b"\x7fELF" + first
    for name, part in {"large.png": too_large, "program.jpg": other, "small.png": RED[:50]}.items():
        address = announce(ada, upload, name, part + bytes(6000))
        answer = patch(ada, address, 0, part)
        told = len(part) if name == "small.png" else len(part) + 6000
        assert (answer.status_code, offset(ada, address)) == (204, told)
        assert answer.headers["Upload-Offset"] == str(told)
    assert len(_stored_parts(served)) == 1
    ada.post(f"/uploads/{upload}/close")
    files = {file["name"]: file for file in ada.get(f"/uploads/{upload}/files").json["files"]}
    assert {name: file["status"] for name, file in files.items()} == {
        "large.png": "rejected",
        "program.jpg": "rejected",
        "small.png": "not_sent",
    }
    assert "the limit set by RETLLM_MAX_FILE_BYTES" in files["large.png"]["error"]["message"]
