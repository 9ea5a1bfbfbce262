"""Uploads by the script of the pages, and the page of their job."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pictures import picture

from retllm.db.enums import FileStatus, JobState
from retllm.db.session import transaction
from retllm.db.tables import Item, Job, Unit
from retllm.db.uploads import UploadFile
from retllm.queue import lifecycle
from retllm_web.http.services import Services
from retllm_web.pages import job as job_page

SCRIPT = {"X-Requested-With": "fetch", "Accept": "application/json"}
RED, BLUE, BROKEN = picture("red"), picture("blue"), b"no picture"


def _described(name: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more}


class Script:
    """Sends the requests of the script that uploads files into one collection."""

    def __init__(self, reader: Visitor, collection: str) -> None:
        reader.get(f"/collections/{collection}")
        self.reader, self.collection, self.token = reader, collection, reader.token()
        self._addresses: dict[str, dict[str, str]] = {}

    def open(self, key: str | None = None) -> str:
        """Open an upload and return its key."""
        headers = {**SCRIPT, **({"Idempotency-Key": key} if key else {})}
        address = f"/collections/{self.collection}/uploads"
        answer = self.reader.client.post(address, data={"csrf_token": self.token}, headers=headers)
        assert answer.status_code == 201
        upload = str(answer.json["files"]).split("/")[2]
        self._addresses[upload] = answer.json
        return upload

    def addresses(self, upload: str) -> dict[str, str]:
        """Return where the requests of an upload go."""
        return self._addresses[upload]

    def send(self, upload: str, **files: bytes) -> Any:
        parts = [(io.BytesIO(content), f"{name}.png") for name, content in files.items()]
        data = {"csrf_token": self.token, "file": parts}
        return self.reader.client.post(f"/uploads/{upload}/files", data=data, headers=SCRIPT)

    def ask(self, upload: str, what: str, *files: dict[str, Any]) -> Any:
        headers = {**SCRIPT, "X-CSRFToken": self.token}
        return self.reader.client.post(self.addresses(upload)[what], json={"files": list(files)}, headers=headers)

    def known(self, upload: str, *files: dict[str, Any]) -> list[bool]:
        answer = self.ask(upload, "known", *files)
        assert answer.status_code == 200
        return [need == "known" for need in answer.json["needs"]]

    def close(self, upload: str, *files: dict[str, Any]) -> list[bool]:
        answer = self.ask(upload, "close", *files)
        assert answer.status_code == 200
        return list(answer.json["known"])


@pytest.fixture
def script(reader: Visitor, texts: str) -> Script:
    """The script on the page of a collection."""
    return Script(reader, texts)


@pytest.fixture
def outcomes(served: Services) -> Callable[[str], list[tuple[str, str]]]:
    """Returns name and status of each file of an upload."""

    def read(upload: str) -> list[tuple[str, str]]:
        query = sa.select(UploadFile.name, UploadFile.status).where(UploadFile.job_id == uuid.UUID(upload))
        with transaction(served.sessions) as session:
            return [(name, status.value) for name, status in session.execute(query.order_by(UploadFile.id))]

    return read


Outcomes = Callable[[str], list[tuple[str, str]]]


def test_an_upload_takes_files_in_several_requests_and_says_which_it_has(script: Script, outcomes: Outcomes) -> None:
    upload = script.open()
    assert script.send(upload, red=RED).status_code == 204
    red, blue = _described("red.png", RED), _described("blue.png", BLUE)
    assert script.known(upload, red, blue) == [True, False]
    assert script.send(upload, blue=BLUE).status_code == 204
    assert script.close(upload, red, blue) == [True, True]
    assert outcomes(upload) == [("red.png", "added"), ("blue.png", "added")]
    answer = script.send(upload, green=picture("green"))
    assert answer.status_code == 409
    assert "takes no more files" in answer.json["error"]["message"]


def test_a_request_whose_answer_got_lost_can_be_repeated(script: Script, outcomes: Outcomes) -> None:
    upload = script.open("a key of the script")
    assert script.open("a key of the script") == upload
    assert [script.send(upload, red=RED).status_code for _ in range(2)] == [204, 204]
    unsent = [
        {"name": "2023/Thumbs.db", "status": "ignored", "reason": "Left out: previews, 2 files."},
        {"name": "secret.png", "status": "rejected", "reason": "It can't be read."},
    ]
    assert [script.ask(upload, "unsent", *unsent).status_code for _ in range(2)] == [204, 204]
    assert outcomes(upload) == [("red.png", "added"), ("2023/Thumbs.db", "ignored"), ("secret.png", "rejected")]
    assert [script.close(upload) for _ in range(2)] == [[], []]
    assert script.ask(upload, "unsent", *unsent).status_code == 409


def test_files_of_unknown_content_are_told_apart_by_their_number(script: Script) -> None:
    upload = script.open()
    unknown = {"name": "red.png", "size": len(RED), "sha256": None}
    assert script.known(upload, unknown) == [False]
    script.send(upload, red=RED)
    assert script.known(upload, unknown, {**unknown, "earlier": 1}) == [True, False]


def test_what_the_collection_has_is_a_duplicate_without_being_sent(script: Script, outcomes: Outcomes) -> None:
    first = script.open()
    script.send(first, red=RED)
    script.ask(first, "close")
    second = script.open()
    assert script.known(second, _described("again.png", RED), _described("blue.png", BLUE)) == [True, False]
    assert outcomes(second) == [("again.png", "duplicate")]


def test_bytes_that_another_upload_has_not_processed_are_not_sent_again(
    script: Script, outcomes: Outcomes, notified: RecordingNotifier
) -> None:
    workers, notified.context = notified.context, None
    first = script.open()
    script.send(first, red=RED)
    second = script.open()
    notified.context = workers
    assert script.known(second, _described("red.png", RED)) == [True]
    assert (outcomes(first), outcomes(second)) == ([("red.png", "waiting")], [("red.png", "added")])


def test_a_text_that_the_collection_has_may_be_a_caption_and_is_sent(script: Script) -> None:
    upload = script.open()
    assert script.known(upload, _described("robin.txt", b"a robin")) == [False]


def test_malformed_offers_are_refused(script: Script) -> None:
    upload = script.open()
    for wrong in ({"name": "", "size": 1}, {"name": "a", "size": -1}, {"name": "a", "size": 1, "sha256": "x"}, {}):
        assert script.ask(upload, "known", wrong).status_code == 422
        assert script.ask(upload, "close", wrong).status_code == 422
    for wrong in ({"status": "added"}, {"reason": ""}, {"reason": "x" * 1001}):
        assert (
            script.ask(upload, "unsent", {"name": "a", "status": "ignored", "reason": "x", **wrong}).status_code == 422
        )
    assert script.send(upload).status_code == 422


def test_a_beacon_closes_an_upload_and_what_arrived_is_indexed(
    script: Script, served: Services, notified: RecordingNotifier
) -> None:
    upload = script.open()
    script.send(upload, red=RED)
    answer = script.reader.client.post(f"/uploads/{upload}/close", data={"csrf_token": script.token})
    assert answer.status_code == 200
    assert [unit.stage.value for unit in notified.units] == ["embed"]
    with transaction(served.sessions) as session:
        assert session.scalar(sa.select(sa.func.count()).where(Item.picture_key.is_not(None))) == 1


def test_an_upload_stores_nothing_of_files_that_are_refused(script: Script, served: Services) -> None:
    upload = script.open()
    script.ask(upload, "close")
    before = _stored(served)
    assert script.send(upload, red=RED).status_code == 409
    assert _stored(served) == before


def _stored(served: Services) -> list[str]:
    return sorted(str(path) for path in (served.settings.home).rglob("uploads/*/*"))


def test_the_collection_shows_the_last_upload_of_this_person_only(script: Script, ada: Caller, reader: Visitor) -> None:
    here = f"/collections/{script.collection}"
    assert "hidden" in reader.get(here).one("section", id="outcomes").attributes
    upload = script.open()
    script.send(upload, red=RED, broken=BROKEN)
    shown = reader.get(here).one("section", id="outcomes")
    assert "1 added, 1 rejected. More files can arrive." in shown.text
    assert shown.attributes["data-over"] == "false"
    script.ask(upload, "close")
    waiting = reader.get(here).one("section", id="outcomes")
    assert "Processed; new items are being indexed." in waiting.text
    assert waiting.attributes["data-over"] == "false"
    ada.post(f"/jobs/{upload}/cancel")
    page = reader.get(here)
    assert page.one("section", id="outcomes").attributes["data-over"] == "true"
    assert [row.attributes["data-status"] for row in page.all("tr") if "data-status" in row.attributes] == [
        "rejected",
        "added",
    ]
    assert page.all("a", href=f"/jobs/{upload}")


def test_the_last_upload_is_only_sent_again_after_a_change(script: Script) -> None:
    upload = script.open()
    address = f"/collections/{script.collection}/last-upload"
    first = script.reader.client.get(address, headers=SCRIPT)
    again = {**SCRIPT, "If-None-Match": first.headers["ETag"]}
    assert script.reader.client.get(address, headers=again).status_code == 304
    script.send(upload, red=RED)
    changed = script.reader.client.get(address, headers=again)
    assert changed.status_code == 200
    assert "1 added" in changed.get_data(as_text=True)


def test_a_form_leads_to_the_job_if_its_files_take_long(
    reader: Visitor, texts: str, notified: RecordingNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    notified.context = None
    monkeypatch.setattr("retllm_web.pages.uploads._WAIT_SECONDS", 0)
    reader.get(f"/collections/{texts}")
    page = reader.send(f"/collections/{texts}/upload", follow=False, file=[(io.BytesIO(RED), "red.png")])
    assert page.status == 303
    page = reader.get(page.headers["Location"])
    assert "1 waiting." in page.text
    assert "All files arrived; they are being processed." in page.text
    # cancel says what it does
    assert "Files that were added stay; the others are not processed." in page.text


# the page of the job


@pytest.fixture
def mixed(script: Script) -> str:
    """An upload with two pictures, two broken ones and a duplicate."""
    upload = script.open()
    script.send(upload, red=RED, b1=BROKEN, blue=BLUE, again=RED, b2=b"neither a picture")
    script.ask(upload, "close")
    return upload


def _names(page: Page) -> list[str]:
    rows = [element for element in page.elements if "data-status" in element.attributes]
    return [row.text.split()[0] for row in rows]


def test_the_job_lists_its_files_with_the_rejected_ones_first(reader: Visitor, mixed: str) -> None:
    page = reader.get(f"/jobs/{mixed}")
    assert _names(page) == ["b1.png", "b2.png", "red.png", "blue.png", "again.png"]
    assert "2 added, 1 duplicate, 2 rejected." in page.text
    assert "is not such a picture" in page.text
    assert _names(reader.get(f"/jobs/{mixed}?status=rejected")) == ["b1.png", "b2.png"]
    assert _names(reader.get(f"/jobs/{mixed}?status=duplicate")) == ["again.png"]
    assert "No files with this outcome" in reader.get(f"/jobs/{mixed}?status=updated").text
    assert len(_names(reader.get(f"/jobs/{mixed}?status=unheard-of"))) == 5


@pytest.mark.parametrize("status", ["", "rejected"])
def test_its_files_are_paged_by_key(reader: Visitor, mixed: str, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    whole = _names(reader.get(f"/jobs/{mixed}?status={status}"))
    monkeypatch.setattr(job_page, "_FILES", 1)
    found: list[str] = []
    page = reader.get(f"/jobs/{mixed}?status={status}")
    while True:
        found += _names(page)
        following = [link for link in page.all("a") if link.text == "Next page"]
        if not following:
            break
        page = reader.get(str(following[0].attributes["href"]).partition("#")[0])
    assert whole
    assert found == whole


def test_its_live_part_keeps_the_filter_and_changes_with_the_files(reader: Visitor, script: Script) -> None:
    upload = script.open()
    address = str(reader.get(f"/jobs/{upload}?status=rejected").one("div", id="job").attributes["data-live"])
    first = reader.client.get(address, headers=SCRIPT)
    again = {**SCRIPT, "If-None-Match": first.headers["ETag"]}
    assert reader.client.get(address, headers=again).status_code == 304
    script.send(upload, red=RED, broken=BROKEN)
    changed = reader.client.get(address, headers=again)
    assert _names(Page(changed)) == ["broken.png"]


def test_its_files_are_exported_as_csv(reader: Visitor, mixed: str) -> None:
    answer = reader.client.get(f"/uploads/{mixed}/files.csv")
    assert answer.mimetype == "text/csv"
    rows = list(csv.DictReader(io.StringIO(answer.get_data().decode("utf-8-sig"))))
    assert [(row["name"], row["status"]) for row in rows] == [
        ("red.png", "added"),
        ("b1.png", "rejected"),
        ("blue.png", "added"),
        ("again.png", "duplicate"),
        ("b2.png", "rejected"),
    ]
    assert "is not such a picture" in rows[1]["error"]
    assert rows[0]["item_id"] == rows[3]["item_id"]
    assert rows[3]["item_name"] == "red.png"
    rejected = reader.client.get(f"/uploads/{mixed}/files.csv?status=rejected").get_data(as_text=True)
    assert (rejected.count("\n"), rejected.count(",rejected,")) == (3, 2)


def test_csv_of_pages_is_marked_as_utf_8_and_that_of_the_api_is_not(reader: Visitor, mixed: str, ada: Caller) -> None:
    paths = (f"/uploads/{mixed}/files.csv", "/jobs/export?format=csv")
    for path in paths:
        assert reader.client.get(path).data.startswith(codecs.BOM_UTF8)
        assert not ada.get(path).data.startswith(codecs.BOM_UTF8)
    assert not reader.client.get("/jobs/export?format=json").data.startswith(codecs.BOM_UTF8)


def test_a_duplicate_names_the_item_that_it_is_the_same_as(reader: Visitor, mixed: str) -> None:
    page = reader.get(f"/jobs/{mixed}?status=duplicate")
    (link,) = [a for a in page.all("a") if "data-item" in a.attributes]
    assert link.text == "red.png"
    assert reader.get(str(link.attributes["href"])).one("h1").text.strip() == "red.png"


def test_a_job_of_another_kind_has_no_files(reader: Visitor, texts: str, notified: RecordingNotifier) -> None:
    reader.get(f"/collections/{texts}")
    reader.send(f"/collections/{texts}/index")
    (link,) = [
        a for a in reader.page.all("a") if (a.attributes["href"] or "").startswith("/jobs/") and a.text == "Indexing"
    ]  # type: ignore[union-attr]
    key = str(link.attributes["href"]).rpartition("/")[2]
    assert reader.client.get(f"/uploads/{key}/files.csv").status_code == 404


def test_rejected_files_are_tried_again_while_their_bytes_are_kept(
    reader: Visitor, script: Script, served: Services, outcomes: Outcomes
) -> None:
    upload = script.open()
    script.send(upload, red=RED)
    script.ask(upload, "close")
    with transaction(served.sessions) as session:
        key = session.scalar(sa.select(UploadFile.id).where(UploadFile.job_id == uuid.UUID(upload)))
        served.storage.put(f"uploads/{upload}/{key}", io.BytesIO(BLUE))
        values = {"status": FileStatus.REJECTED, "error_code": "too_large", "error": "too large", "item_id": None}
        kept = {"file_key": f"uploads/{upload}/{key}", "sha256": hashlib.sha256(BLUE).hexdigest()}
        session.execute(sa.update(UploadFile).where(UploadFile.id == key).values(**values, **kept))
        session.execute(sa.delete(Item).where(Item.id == key))
        session.execute(
            sa.update(Job)
            .where(Job.id == uuid.UUID(upload))
            .values(state=JobState.SUCCEEDED, finished_at=sa.func.now())
        )
    reader.get(f"/jobs/{upload}")
    page = reader.send(f"/uploads/{upload}/retry")
    assert outcomes(upload) == [("red.png", "added")]
    assert "Try rejected files again" not in page.text


def test_without_kept_bytes_nothing_can_be_tried_again(reader: Visitor, script: Script) -> None:
    upload = script.open()
    script.ask(upload, "unsent", {"name": "secret.png", "status": "rejected", "reason": "It can't be read."})
    script.ask(upload, "close")
    assert "Try rejected files again" not in reader.get(f"/jobs/{upload}").text
    answer = reader.client.post(f"/uploads/{upload}/retry", data={"csrf_token": script.token}, follow_redirects=True)
    assert "correct the files and send them again" in answer.get_data(as_text=True)


def test_the_history_counts_the_files_of_an_upload(reader: Visitor, mixed: str) -> None:
    assert "5 files, 2 rejected" in reader.get("/jobs").text


def test_the_state_of_an_upload_has_the_number_of_its_rejected_files(
    reader: Visitor, script: Script, mixed: str
) -> None:
    (badge,) = [a for a in reader.get(f"/jobs/{mixed}").all("a") if "data-rejected" in a.attributes]
    assert (badge.text.strip(), badge.attributes["href"]) == (
        "2 rejected",
        f"/jobs/{mixed}?status=rejected#files-title",
    )
    upload = script.open()
    script.send(upload, red=RED)
    script.ask(upload, "unsent", {"name": "secret.png", "status": "rejected", "reason": "It can't be read."})
    script.ask(upload, "close")
    assert "1 rejected (not sent)" in reader.get(f"/jobs/{upload}").text


def test_the_error_of_a_dead_unit_names_its_file(
    reader: Visitor, script: Script, served: Services, notified: RecordingNotifier
) -> None:
    notified.context = None
    upload = script.open()
    script.send(upload, red=RED)
    with transaction(served.sessions) as session:
        job = lifecycle.lock_job(session, uuid.UUID(upload))
        assert job is not None
        unit = session.scalars(sa.select(Unit).where(Unit.job_id == job.id)).one()
        lifecycle.mark_dead(session, job, unit, "the decoder died", split=True)
    page = reader.get(f"/jobs/{upload}")
    assert "red.png: the decoder died" in page.text
    assert _names(page) == ["red.png"]
