"""Uploads that resume: open, announce, send, close, outcomes, another try; and large files in parts (tus)."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.media.samples import zipped
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pictures import picture

from retllm.db.enums import FileStatus, JobState, Stage
from retllm.db.session import transaction
from retllm.db.tables import Item, Job, Unit
from retllm.db.uploads import FilePart, LargeFile, UploadFile
from retllm.uploads.large_files import expire
from retllm_web.http.services import Services

STREAM = "application/offset+octet-stream"
TUS = {"Tus-Resumable": "1.0.0"}
RED, BLUE = picture("red"), picture("blue")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Body(io.RawIOBase):
    """A body of which only the beginning can be read."""

    def __init__(self, content: bytes, length: int, then: Exception) -> None:
        super().__init__()
        self._left, self._length, self._then = content, length, then
        self._at = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        # asked for its length only
        self._at = self._length if whence == io.SEEK_END else offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            raise self._then
        data, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Parts"}).json["id"])


def begin(caller: Caller, collection: str, **asked: Any) -> str:
    answer = caller.post(f"/collections/{collection}/uploads", json={"index": False, **asked})
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/uploads/{answer.json['id']}"
    return str(answer.json["id"])


def send(caller: Caller, upload: str, **files: bytes) -> Any:
    parts = [(io.BytesIO(content), name.replace("_", ".")) for name, content in files.items()]
    return caller.post(f"/uploads/{upload}/files", data={"file": parts}, content_type="multipart/form-data")


def outcomes(caller: Caller, upload: str, query: str = "") -> dict[str, str]:
    return {file["name"]: file["status"] for file in caller.get(f"/uploads/{upload}/files{query}").json["files"]}


def needs(caller: Caller, upload: str, **files: bytes) -> list[str]:
    manifest = [
        {"name": name.replace("_", "."), "size": len(content), "sha256": sha256(content)}
        for name, content in files.items()
    ]
    return list(caller.post(f"/uploads/{upload}/known", json={"files": manifest}).json["needs"])


# open, send, close


def test_an_upload_takes_files_until_it_is_closed(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    first = send(ada, upload, red_png=RED, captions_csv=b"file,caption\nred.png,a red square\nblue.png,a blue one\n")
    assert first.status_code == 202
    receipt, _ = first.json["files"]
    assert (receipt["name"], receipt["size"], receipt["sha256"]) == ("red.png", len(RED), sha256(RED))
    state = ada.get(f"/uploads/{upload}").json
    assert (state["closed_at"], state["processed"], state["counts"]) == (None, False, {"added": 1, "waiting": 1})
    assert send(ada, upload, blue_png=BLUE).status_code == 202
    closed = ada.post(f"/uploads/{upload}/close").json
    assert closed["closed_at"] is not None
    assert ada.post(f"/uploads/{upload}/close").json["closed_at"] == closed["closed_at"]
    assert ada.get(f"/uploads/{upload}").json["processed"]
    late = send(ada, upload, late_png=picture("green"))
    assert (late.status_code, late.json["error"]["code"]) == (409, "conflict")
    texts = {item["name"]: item["text"] for item in ada.get(f"/collections/{collection}/items").json["items"]}
    assert texts == {"red.png": "a red square", "blue.png": "a blue one"}
    assert ada.get(f"/jobs/{upload}").json["state"] == "succeeded"


def test_one_idempotency_key_opens_one_upload(ada: Caller, collection: str) -> None:
    def asked(**body: Any) -> Any:
        return ada.post(f"/collections/{collection}/uploads", json=body, headers={"Idempotency-Key": "k"})

    assert asked(texts=True).json["id"] == asked(texts=True).json["id"]
    assert asked(texts=False).status_code == 409


def test_other_jobs_are_no_uploads(ada: Caller, collection: str) -> None:
    ada.post(f"/collections/{collection}/items?index=false", json={"items": [{"text": "a robin"}]})
    index = ada.post(f"/collections/{collection}/index").json["id"]
    for path in ("", "/files", "/files.csv"):
        assert ada.get(f"/uploads/{index}{path}").status_code == 404
    assert ada.post(f"/uploads/{index}/close").status_code == 404
    assert ada.post(f"/uploads/{index}/retry").status_code == 404


def test_rights_are_checked_before_the_files_are_read(app: OpenAPI, ada: Caller, bob: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    large = ada.post(f"/uploads/{upload}/tus", headers={**TUS, "Upload-Length": "9"}).json["id"]
    for path, method, kind in (
        ("files", "POST", "multipart/form-data; boundary=x"),
        (f"tus/{large}", "PATCH", STREAM),
    ):
        answer = app.test_client().open(
            f"/api/v1/uploads/{upload}/{path}",
            method=method,
            headers={"Authorization": f"Bearer {bob.token}", **TUS, "Upload-Offset": "0"},
            content_type=kind,
            input_stream=Body(b"", 9, AssertionError("the body was read")),
        )
        assert answer.status_code == 404


# what need not be sent


def test_a_picture_that_the_collection_has_is_not_sent_and_gets_its_caption(ada: Caller, collection: str) -> None:
    first = begin(ada, collection)
    send(ada, first, red_png=RED)
    ada.post(f"/uploads/{first}/close")
    again = begin(ada, collection)
    assert needs(ada, again, red_png=RED, blue_png=BLUE) == ["known", "send"]
    send(ada, again, captions_csv=b"file,caption\nred.png,a red square\n")
    ada.post(f"/uploads/{again}/close")
    assert outcomes(ada, again) == {"red.png": "duplicate", "captions.csv": "read", "captions.csv, row 2": "updated"}
    (item,) = ada.get(f"/collections/{collection}/items").json["items"]
    assert item["text"] == "a red square"


def test_bytes_that_an_upload_to_the_collection_has_are_not_sent_again(ada: Caller, collection: str) -> None:
    sheet, text = b"file,caption\nred.png,a red square\n", b"a robin"
    upload = begin(ada, collection)
    assert needs(ada, upload, captions_csv=sheet, a_txt=text) == ["send", "send"]
    send(ada, upload, captions_csv=sheet, a_txt=text)
    assert needs(ada, upload, captions_csv=sheet, a_txt=text, b_txt=text) == ["known"] * 3
    assert outcomes(ada, upload) == {"captions.csv": "waiting", "a.txt": "waiting", "b.txt": "waiting"}
    other = begin(ada, collection)
    assert needs(ada, other, captions_csv=sheet) == ["known"]
    # bytes go with the outcome
    for opened in (upload, other):
        ada.post(f"/uploads/{opened}/close")
    assert needs(ada, begin(ada, collection), a_txt=text) == ["send"]


def test_a_text_with_the_hash_of_an_item_is_no_picture(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    send(ada, upload, a_txt=b"a robin")
    ada.post(f"/uploads/{upload}/close")
    assert needs(ada, begin(ada, collection), a_txt=b"a robin") == ["send"]


def test_a_manifest_is_bounded(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    file = {"name": "a", "size": 1, "sha256": "0" * 64}
    assert ada.post(f"/uploads/{upload}/known", json={"files": [file] * 1000}).status_code == 200
    for wrong in ([file] * 1001, [], [{**file, "sha256": "x"}], [{**file, "size": -1}]):
        assert ada.post(f"/uploads/{upload}/known", json={"files": wrong}).status_code == 422


# what is never sent


def note(caller: Caller, upload: str, *names: str) -> None:
    files = [{"name": name, "status": "rejected", "reason": "Stopped."} for name in names]
    assert caller.post(f"/uploads/{upload}/unsent", json={"files": files}).status_code == 204


def test_a_file_that_arrives_after_all_takes_the_place_of_its_note(ada: Caller, collection: str) -> None:
    send(ada, begin(ada, collection), blue_png=BLUE)
    upload = begin(ada, collection)
    note(ada, upload, "red.png", "blue.png", "gone.png")
    assert ada.get(f"/uploads/{upload}").json["arrived"] == 0
    # with a request that its sender gave up
    send(ada, upload, red_png=RED)
    assert needs(ada, upload, blue_png=BLUE, gone_png=b"") == ["known", "send"]
    rows = ada.get(f"/uploads/{upload}/files").json["files"]
    assert sorted((row["name"], row["status"]) for row in rows) == [
        ("blue.png", "duplicate"),
        ("gone.png", "rejected"),
        ("red.png", "added"),
    ]
    assert ada.post(f"/uploads/{upload}/close").json["arrived"] == 2


def test_a_note_on_a_file_that_arrived_changes_nothing(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    send(ada, upload, all_zip=zipped({"blue.png": BLUE}), red_png=RED)
    # the entry of an archive is another file
    note(ada, upload, "red.png", "blue.png")
    rows = ada.get(f"/uploads/{upload}/files").json["files"]
    told = [("all.zip", "read"), ("blue.png", "added"), ("blue.png", "rejected"), ("red.png", "added")]
    assert sorted((row["name"], row["status"]) for row in rows) == told


# outcomes


def test_outcomes_are_paged_filtered_and_exported(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    send(ada, upload, red_png=RED, bad_png=RED[:40], captions_csv=b"file,caption\nred.png,=red\nno.png,x\n")
    ada.post(f"/uploads/{upload}/close")
    page = ada.get(f"/uploads/{upload}/files?limit=3").json
    rest = ada.get(f"/uploads/{upload}/files?limit=3&after={page['next']}").json
    assert [file["status"] for file in page["files"] + rest["files"]] == [
        "added",
        "rejected",
        "read",
        "updated",
        "rejected",
    ]
    assert rest["next"] is None
    assert [file["within"] for file in rest["files"]] == ["captions.csv", "captions.csv"]
    assert set(outcomes(ada, upload, "?status=added&status=read")) == {"red.png", "captions.csv"}
    exported = ada.get(f"/uploads/{upload}/files.csv?status=rejected")
    assert exported.mimetype == "text/csv"
    rows = list(csv.DictReader(io.StringIO(exported.text)))
    assert [(row["within"], row["name"], row["status"]) for row in rows] == [
        ("", "bad.png", "rejected"),
        ("captions.csv", "captions.csv, row 3", "rejected"),
    ]
    assert "no.png" in rows[1]["error"]


# another try


def test_a_rejected_file_is_tried_again_and_embedded(
    ada: Caller, collection: str, served: Services, notified: RecordingNotifier
) -> None:
    upload = begin(ada, collection, index=True)
    send(ada, upload, red_png=RED)
    ada.post(f"/uploads/{upload}/close")
    with transaction(served.sessions) as session:
        # as if the picture had been rejected by a limit that was raised since
        session.execute(
            sa.update(Unit).where(Unit.job_id == uuid.UUID(upload), Unit.stage == Stage.EMBED).values(state="done")
        )
        session.execute(
            sa.update(Job).where(Job.id == uuid.UUID(upload)).values(state="succeeded", finished_at=sa.func.now())
        )
        key = f"uploads/{upload}/kept"
        served.storage.put(key, io.BytesIO(BLUE))
        row = {"name": "blue.png", "content": "picture", "file_key": key, "sha256": sha256(BLUE)}
        rejected = {"status": FileStatus.REJECTED, "error_code": "media_rejected", "error": "too large"}
        session.add(UploadFile(job_id=uuid.UUID(upload), **row, **rejected))
    answer = ada.post(f"/uploads/{upload}/retry")
    assert (answer.status_code, answer.json["finished_at"]) == (202, None)
    assert outcomes(ada, upload) == {"red.png": "added", "blue.png": "added"}
    with transaction(served.sessions) as session:
        units = session.scalars(sa.select(Unit).where(Unit.job_id == uuid.UUID(upload)).order_by(Unit.created_at)).all()
        blue = session.scalars(sa.select(Item.id).where(Item.name == "blue.png")).one()
    assert [unit.stage for unit in units] == [Stage.MEDIA, Stage.EMBED, Stage.MEDIA, Stage.EMBED]
    assert str(blue) in units[-1].payload["items"]


def test_without_kept_bytes_there_is_nothing_to_try_again(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    send(ada, upload, notes_xyz=b"\x00\x01\x02\x03")
    ada.post(f"/uploads/{upload}/close")
    assert outcomes(ada, upload) == {"notes.xyz": "rejected"}
    answer = ada.post(f"/uploads/{upload}/retry")
    assert answer.status_code == 409
    assert "send them again" in answer.json["error"]["message"]
    with transaction(served.sessions) as session:
        assert session.get_one(Job, uuid.UUID(upload)).state is JobState.SUCCEEDED


# large files in parts


def _metadata(**values: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())


def announce(caller: Caller, upload: str, name: str, content: bytes, *, hashed: bool = True) -> str:
    metadata = _metadata(filename=name, **({"sha256": sha256(content)} if hashed else {}))
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
    assert file["error"]["message"].startswith(f"Only 50 bytes of {len(RED)} bytes arrived")
    second = begin(ada, collection)
    address = announce(ada, second, "other/red.png", RED)
    assert offset(ada, address) == 50
    patch(ada, address, 50, RED[50:])
    assert outcomes(ada, second) == {"other/red.png": "added"}
    assert offset(ada, announce(ada, begin(ada, collection), "blue.png", BLUE)) == 0


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
