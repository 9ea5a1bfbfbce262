"""Items through the API: upload, rejection, reading."""

from __future__ import annotations

import hashlib
import io
import uuid
import zipfile
from typing import Any, BinaryIO

import pytest
from PIL import Image
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pictures import picture

from retllm.db.enums import Stage
from retllm.errors import StorageFull
from retllm.media.storage import Storage
from retllm_web.http.services import Services

UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


def _send(caller: Caller, key: str, *files: tuple[str, bytes], query: str = "") -> Any:
    parts = [(io.BytesIO(content), name) for name, content in files]
    return caller.post(f"/collections/{key}/items{query}", data={"file": parts}, content_type="multipart/form-data")


def test_an_upload_reports_the_outcome_of_each_file(ada: Caller, birds: str, notified: RecordingNotifier) -> None:
    answer = _send(
        ada,
        birds,
        ("red.png", picture("red")),
        ("again.png", picture("red")),
        ("blue.jpg", picture("blue", "JPEG")),
        ("broken.png", picture("red")[:40]),
        ("notes.txt", b"a robin in the snow"),
        ("program.exe", b"MZ\x90\x00"),
        ("captions.csv", b"file,caption\nblue.jpg,a blue wall\n"),
    )
    assert answer.status_code == 200
    body = answer.json
    by_name = {one["name"]: one for one in body["outcomes"]}
    assert by_name["red.png"]["status"] == "added"
    assert by_name["again.png"]["status"] == "duplicate"
    assert by_name["broken.png"]["status"] == by_name["program.exe"]["status"] == "rejected"
    assert by_name["broken.png"]["error"]["code"] == "media_rejected"
    assert (body["added"], body["updated"], body["duplicate"], body["rejected"]) == (3, 1, 1, 2)
    counts = ada.get(f"/collections/{birds}").json["items"]
    assert counts == {"image": 1, "text": 1, "image+text": 1}
    job = ada.get(f"/jobs/{body['job_id']}").json
    assert [(stage["stage"], stage["items_total"]) for stage in job["stages"]] == [("media", 4), ("embed", 3)]
    assert (job["kind"], job["state"]) == ("upload", "running")
    assert [unit.stage for unit in notified.units] == [Stage.EMBED]


def test_an_archive_and_many_files_can_be_uploaded_together(ada: Caller, birds: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for colour in ("red", "green", "blue"):
            archive.writestr(f"walls/{colour}.png", picture(colour))
    more = [(f"p{n}.png", picture(f"rgb({n % 250},{n // 250},7)")) for n in range(40)]
    body = _send(ada, birds, ("walls.zip", packed.getvalue()), *more).json
    assert body["added"] == 43
    assert "walls/red.png" in {one["name"] for one in body["outcomes"]}


@pytest.mark.slow
def test_an_upload_can_exceed_the_limit_of_1000_parts_in_flask(ada: Caller, birds: str) -> None:
    texts = [(f"{n}.txt", f"text {n}".encode()) for n in range(1_100)]
    assert _send(ada, birds, *texts, query="?index=false").json["added"] == 1_100


@pytest.mark.parametrize(("files", "kept"), [(3, 0), (40, 32)], ids=["one transaction", "several"])
def test_of_a_form_that_fills_the_storage_whole_transactions_stay(
    ada: Caller, birds: str, served: Services, monkeypatch: pytest.MonkeyPatch, files: int, kept: int
) -> None:
    stored: list[str] = []
    put = Storage.put

    def put_most(storage: Storage, key: str, file: BinaryIO) -> int:
        if len(stored) == files - 1:
            raise StorageFull
        stored.append(key)
        return put(storage, key, file)

    monkeypatch.setattr(Storage, "put", put_most)
    answer = _send(ada, birds, *((f"{number}.txt", b"text %d" % number) for number in range(files)))
    assert answer.status_code == 507
    jobs = ada.get("/jobs").json["jobs"]
    arrived = sum(len(ada.get(f"/uploads/{job['id']}/files").json["files"]) for job in jobs)
    assert (len(jobs), arrived) == (bool(kept), kept)
    assert [key for key in stored[kept:] if served.storage.exists(key)] == []


def test_texts_are_added_as_json(ada: Caller, birds: str) -> None:
    answer = ada.post(
        f"/collections/{birds}/items", json={"items": [{"text": "a robin"}, {"text": "a wren", "name": "wren"}]}
    )
    assert answer.status_code == 200
    assert [one["name"] for one in answer.json["outcomes"]] == ["a robin", "wren"]
    assert answer.json["job_id"]


def test_nothing_is_embedded_with_index_false(ada: Caller, birds: str, notified: RecordingNotifier) -> None:
    sent = _send(ada, birds, ("a.txt", b"a robin"), query="?index=false").json
    assert ada.get(f"/jobs/{sent['job_id']}").json["state"] == "succeeded"
    assert notified.units == []


def test_an_upload_embeds_what_it_brings_even_if_the_collection_has_it(
    ada: Caller, birds: str, notified: RecordingNotifier
) -> None:
    _send(ada, birds, ("a.txt", b"a robin"), query="?index=false")
    again = _send(ada, birds, ("b.txt", b"a robin")).json
    assert again["duplicate"] == 1
    assert [unit.stage for unit in notified.units] == [Stage.EMBED]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": [{}]},
        {"items": [{"text": ""}]},
        {"items": [{"text": 3}]},
        {"items": [{"text": "a", "colour": "red"}]},
        {"items": [{"text": "nul\0"}]},
        {"items": "a"},
        {"texts": []},
    ],
)
def test_an_invalid_json_body_is_rejected_and_adds_nothing(ada: Caller, birds: str, body: Any) -> None:
    answer = ada.post(f"/collections/{birds}/items", json=body)
    assert answer.status_code == 422
    assert answer.json["error"]["detail"]["fields"]
    assert ada.get(f"/collections/{birds}").json["items_total"] == 0


def test_a_form_without_a_file_or_with_unknown_parts_is_rejected(ada: Caller, birds: str) -> None:
    for data in (
        {"other": "x"},
        {"file": "text without a file name"},
        {"picture": (io.BytesIO(picture()), "a.png")},
        {"file": (io.BytesIO(b""), "")},
        {"file": (io.BytesIO(picture()), "a.png"), "extra": "1"},
    ):
        answer = ada.post(f"/collections/{birds}/items", data=data, content_type="multipart/form-data")
        assert answer.status_code == 422, data
        assert answer.json["error"]["detail"]["fields"]
    assert ada.get(f"/collections/{birds}").json["items_total"] == 0


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None])
def test_other_content_types_are_rejected_with_415(ada: Caller, birds: str, content_type: str | None) -> None:
    answer = ada.post(f"/collections/{birds}/items", data=b"<a/>", content_type=content_type)
    assert answer.status_code == 415
    assert answer.json["error"]["code"] == "unsupported_media_type"


def test_uploading_to_or_listing_a_missing_or_hidden_collection_returns_404(
    ada: Caller, bob: Caller, birds: str
) -> None:
    for caller, key in ((ada, UNKNOWN_ID), (bob, birds)):
        assert _send(caller, key, ("a.txt", b"a robin")).status_code == 404
        assert caller.post(f"/collections/{key}/items", json={"items": [{"text": "a"}]}).status_code == 404
        assert caller.get(f"/collections/{key}/items").status_code == 404


def test_an_item_is_returned_with_its_metadata(ada: Caller, birds: str) -> None:
    content = picture("red", size=(32, 24))
    key = _send(ada, birds, ("red.png", content)).json["outcomes"][0]["item_id"]
    item = ada.get(f"/items/{key}").json
    assert (item["name"], item["kind"], item["media_type"]) == ("red.png", "image", "image/png")
    assert (item["width"], item["height"], item["size_bytes"]) == (32, 24, len(content))
    assert item["content_sha256"] == hashlib.sha256(content).hexdigest()
    assert (item["has_picture"], item["indexed"], item["version"]) == (True, False, 1)
    assert ada.get(f"/collections/{birds}/items").json == {"items": [item], "next": None}


def test_an_original_picture_is_returned_unchanged_and_cached_privately(ada: Caller, birds: str) -> None:
    content = picture("green", "JPEG")
    key = _send(ada, birds, ("a.jpg", content)).json["outcomes"][0]["item_id"]
    answer = ada.get(f"/items/{key}/picture")
    assert answer.data == content
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "private" in answer.headers["Cache-Control"]
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    again = ada.get(f"/items/{key}/picture", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert ada.get(f"/items/{key}/picture", headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_thumbnail_is_a_small_webp_picture(ada: Caller, birds: str) -> None:
    key = _send(ada, birds, ("a.png", picture(size=(900, 300)))).json["outcomes"][0]["item_id"]
    answer = ada.get(f"/items/{key}/thumbnail")
    assert answer.headers["Content-Type"] == "image/webp"
    with Image.open(io.BytesIO(answer.data)) as small:
        assert small.size == (320, 107)


def test_a_text_has_no_picture_or_thumbnail(ada: Caller, birds: str) -> None:
    key = _send(ada, birds, ("a.txt", b"a robin")).json["outcomes"][0]["item_id"]
    assert ada.get(f"/items/{key}").json["text"] == "a robin"
    for which in ("thumbnail", "picture"):
        assert ada.get(f"/items/{key}/{which}").status_code == 404


def test_other_accounts_cannot_see_or_delete_an_item_but_administrators_can_see_it(
    ada: Caller, bob: Caller, root: Caller, birds: str
) -> None:
    key = _send(ada, birds, ("a.png", picture())).json["outcomes"][0]["item_id"]
    for path in (f"/items/{key}", f"/items/{key}/thumbnail", f"/items/{key}/picture"):
        assert bob.get(path).status_code == 404
        assert root.get(path).status_code == 200
    assert bob.delete(f"/items/{key}").status_code == 404
    assert ada.get(f"/items/{key}").status_code == 200


def test_deleting_an_item_without_a_trash_deletes_its_files_and_allows_uploading_it_again(
    ada: Caller, birds: str, served: Services, without_trash: None
) -> None:
    key = _send(ada, birds, ("a.png", picture())).json["outcomes"][0]["item_id"]
    assert ada.delete(f"/items/{key}").status_code == 204
    for path in (f"/items/{key}", f"/items/{key}/thumbnail", f"/items/{key}/picture"):
        assert ada.get(path).status_code == 404
    assert ada.delete(f"/items/{key}").status_code == 404
    assert ada.get(f"/collections/{birds}/items").json["items"] == []
    folder = uuid.UUID(key).hex[-2:]
    assert not served.storage.exists(f"items/{folder}/{key}/original")
    # the same picture can be added again
    assert _send(ada, birds, ("a.png", picture())).json["added"] == 1


def test_items_are_paged_and_filtered(ada: Caller, birds: str) -> None:
    texts = [{"text": f"text {n}", "name": f"Note 100%_{n}"} for n in range(5)]
    ada.post(f"/collections/{birds}/items", json={"items": texts})
    _send(ada, birds, ("red.png", picture()))
    first = ada.get(f"/collections/{birds}/items?limit=4").json
    rest = ada.get(f"/collections/{birds}/items?limit=4&after={first['next']}").json
    assert [item["name"] for item in first["items"] + rest["items"]] == [one["name"] for one in texts] + ["red.png"]
    assert rest["next"] is None
    only = ada.get(f"/collections/{birds}/items?kind=image").json["items"]
    assert [item["name"] for item in only] == ["red.png"]
    for q, count in (("note", 5), ("100%25_3", 1), ("%25", 5), ("_", 5), ("100__", 0), ("RED", 1), ("", 6)):
        assert len(ada.get(f"/collections/{birds}/items?q={q}").json["items"]) == count, q
    ada.post(f"/collections/{birds}/items", json={"items": [{"text": "a ferry", "name": "\u00dcberfahrt"}]})
    (composed,) = ada.get(f"/collections/{birds}/items?q=U\u0308berfahrt").json["items"]
    assert composed["text"] == "a ferry"
    for wrong in ("kind=film", "q=" + "x" * 201, "state=ready"):
        assert ada.get(f"/collections/{birds}/items?{wrong}").status_code == 422


def test_a_request_above_the_size_limit_gives_413(
    settings: Any, notified: RecordingNotifier, app: Any, ada: Caller, birds: str
) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 10_000
    for answer in (
        _send(ada, birds, ("a.bin", b"x" * 20_000)),
        ada.post(f"/collections/{birds}/items", json={"items": [{"text": "x" * 20_000}]}),
    ):
        assert answer.status_code == 413
        assert answer.json["error"]["code"] == "too_large"


def test_malformed_json_gives_400_and_json_other_than_an_object_gives_422(ada: Caller, birds: str) -> None:
    for body in (b"{", b"\xff\xfe", b"[" * 200_000, b'{"items": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"):
        answer = ada.post(f"/collections/{birds}/items", data=body, content_type="application/json")
        assert answer.status_code == 400, body[:20]
        assert answer.json["error"]["code"] == "bad_request"
    for value in ("[]", '"text"', "3", "null", "true", ""):
        answer = ada.post(f"/collections/{birds}/items", data=value, content_type="application/json")
        assert answer.status_code == 422
