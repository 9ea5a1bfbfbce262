"""Uploads that resume: open, announce, send, close, outcomes, another try."""

from __future__ import annotations

import csv
import gzip
import io
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.media.films import film
from tests.unit.media.fingerprints import fingerprint
from tests.unit.media.handmade_tars import tarred
from tests.unit.media.samples import zipped
from tests.unit.media.test_parts import pages, plain
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pictures import picture
from tests.unit.web.uploads import BLUE, RED, STREAM, TUS, Body, begin, needs, outcomes, send, sha256

from retllm.db.enums import FileStatus, JobState, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile
from retllm.media.records import empty_item
from retllm_web.http.services import Services


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Parts"}).json["id"])


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


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.tif", pages(3)), ("a.pdf", pages(2, "PDF")), ("a.mp4", film(plain(2), frames=15))],
    ids=["TIFF", "PDF", "film"],
)
def test_a_document_or_film_that_the_collection_has_is_not_sent(
    ada: Caller, collection: str, served: Services, name: str, data: bytes
) -> None:
    first = begin(ada, collection)
    send(ada, first, **{name: data})
    ada.post(f"/uploads/{first}/close")
    items = ada.get(f"/collections/{collection}/items").json["items"]
    assert len(items) > 1
    with transaction(served.sessions) as session:
        empty_item(session, uuid.UUID(items[0]["id"]))
    again = begin(ada, collection)
    assert needs(ada, again, **{name: data}) == ["known"]
    send(ada, again, captions_csv=f"file,caption\n{name},a whole\n".encode())
    ada.post(f"/uploads/{again}/close")
    counts = ada.get(f"/uploads/{again}").json["counts"]
    # the page that was deleted comes back
    assert counts == {"read": 2, "added": 1, "duplicate": len(items) - 1, "updated": 1}
    assert {item["text"] for item in ada.get(f"/collections/{collection}/items").json["items"]} == {"a whole"}
    by_slices = begin(ada, collection)
    offer = {"name": "other.bin", "size": len(data), "slices": fingerprint(data)}
    files = [offer | {"slices": fingerprint(b"")}, offer | {"size": 1}, offer]
    asked = ada.post(f"/uploads/{by_slices}/known", json={"files": files}).json["needs"]
    assert asked == ["send", "send", "known"]
    ada.post(f"/uploads/{by_slices}/close")
    assert ada.get(f"/uploads/{by_slices}").json["counts"] == {"read": 1, "duplicate": len(items)}


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


def test_a_name_is_noted_once_and_a_file_takes_the_place_of_any_note(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    note(ada, upload, "gone.png", "gone.png", "gone.png")
    left_out = [{"name": "red.png", "status": "ignored", "reason": "Left out."}]
    assert ada.post(f"/uploads/{upload}/unsent", json={"files": left_out}).status_code == 204
    send(ada, upload, red_png=RED)
    rows = ada.get(f"/uploads/{upload}/files").json["files"]
    assert sorted((row["name"], row["status"]) for row in rows) == [("gone.png", "rejected"), ("red.png", "added")]


def test_the_other_form_of_an_archive_is_not_taken_for_the_one_that_was_sent(ada: Caller, collection: str) -> None:
    packed = gzip.compress(tarred({"bad.png": RED[:40]}), mtime=0)
    send(ada, begin(ada, collection), all_tgz=packed)
    upload = begin(ada, collection)
    assert needs(ada, upload, all_tgz=packed) == ["send"]


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


def test_the_retry_of_a_job_tries_the_rejected_rows_of_an_upload_again(ada: Caller, collection: str) -> None:
    upload = begin(ada, collection)
    send(ada, upload, c_csv=b"file,caption\nred.png,a red square\n")
    ada.post(f"/uploads/{upload}/close")
    assert outcomes(ada, upload) == {"c.csv": "read", "c.csv, row 2": "rejected"}
    later = begin(ada, collection)
    send(ada, later, red_png=RED)
    ada.post(f"/uploads/{later}/close")
    answer = ada.post(f"/jobs/{upload}/retry")
    assert (answer.status_code, answer.json["again"]["read_again"]) == (202, 1)
    assert outcomes(ada, upload) == {"c.csv": "read", "c.csv, row 2": "updated"}
    again = ada.post(f"/jobs/{upload}/retry")
    assert again.status_code == 409
    assert "keeps nothing of this upload" in again.json["error"]["message"]


def test_without_kept_bytes_there_is_nothing_to_try_again(ada: Caller, collection: str, served: Services) -> None:
    upload = begin(ada, collection)
    send(ada, upload, notes_xyz=b"\x00\x01\x02\x03")
    ada.post(f"/uploads/{upload}/close")
    assert outcomes(ada, upload) == {"notes.xyz": "rejected"}
    answer = ada.post(f"/uploads/{upload}/retry")
    assert answer.status_code == 409
    assert "upload the same files again" in answer.json["error"]["message"]
    with transaction(served.sessions) as session:
        assert session.get_one(Job, uuid.UUID(upload)).state is JobState.SUCCEEDED
