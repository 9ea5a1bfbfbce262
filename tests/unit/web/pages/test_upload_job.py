"""The page of the job of an upload."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import uuid

import pytest
import sqlalchemy as sa
from tests.unit.media.samples import zipped
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Page, Visitor, hidden_fields
from tests.unit.web.pages.upload_script import BLUE, BROKEN, RED, SCRIPT, Outcomes, Script

from retllm.db.enums import FileStatus, JobState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.db.uploads import UploadFile
from retllm.queue import lifecycle
from retllm_web.http.services import Services
from retllm_web.pages import job as job_page


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
        assert reader.client.get(path).data == codecs.BOM_UTF8 + ada.get(path).data
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


@pytest.fixture
def kept(reader: Visitor, script: Script, served: Services) -> str:
    """An upload that is over, with one rejected file whose bytes the server keeps."""
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
    return upload


def test_rejected_files_are_tried_again_while_their_bytes_are_kept(
    reader: Visitor, kept: str, outcomes: Outcomes
) -> None:
    reader.get(f"/jobs/{kept}")
    page = reader.send(f"/uploads/{kept}/retry")
    assert outcomes(kept) == [("red.png", "added")]
    assert "Retry rejected files" not in page.text


@pytest.mark.parametrize("selection", ["all=1&kind=upload", "of={kept}&of={mixed}"])
def test_a_retry_of_several_jobs_tries_rejected_files_again(
    reader: Visitor, kept: str, mixed: str, outcomes: Outcomes, selection: str
) -> None:
    page = reader.get("/jobs/confirm?deed=retry&" + selection.format(kept=kept, mixed=mixed))
    assert page.one("h1").text == "Retry 1 job?"
    assert "1 job was retried." in reader.send("/jobs/confirm", **hidden_fields(page, "/jobs/confirm")).text
    assert outcomes(kept) == [("red.png", "duplicate")], "the other upload has added this picture"


def test_without_kept_bytes_nothing_can_be_tried_again(reader: Visitor, script: Script) -> None:
    upload = script.open()
    script.ask(upload, "unsent", {"name": "secret.png", "status": "rejected", "reason": "It can't be read."})
    script.ask(upload, "close")
    assert "Retry rejected files" not in reader.get(f"/jobs/{upload}").text
    answer = reader.client.post(f"/uploads/{upload}/retry", data={"csrf_token": script.token}, follow_redirects=True)
    assert "upload the same files again, corrected where they were rejected" in answer.get_data(as_text=True)


def test_the_history_counts_the_outcomes_of_an_upload(reader: Visitor, mixed: str) -> None:
    assert "2 added, 1 duplicate, 2 rejected" in reader.get("/jobs").text


@pytest.mark.parametrize(
    ("first", "shown"),
    [
        ("Archiv/1923/b.png", "Upload: Archiv"),
        ("scans.zip", "Upload: scans.zip"),
        ("b.png", "Upload: b.png"),
        # sidecars are sent before what they describe
        ("film_gross.mp4.json", "Upload: a"),
        (None, "Upload"),
    ],
)
def test_an_upload_is_named_by_its_first_folder_archive_or_file(
    reader: Visitor, script: Script, ada: Caller, first: str | None, shown: str
) -> None:
    upload = script.open()
    content = zipped({"x/c.png": BROKEN}) if first == "scans.zip" else BROKEN
    for name in filter(None, [first, "a/later.png" if first else None]):
        part = {"file": [(io.BytesIO(content), name)]}
        ada.post(f"/uploads/{upload}/files", data=part, content_type="multipart/form-data")
    script.ask(upload, "close")
    page = reader.get(f"/jobs/{upload}")
    assert (page.one("h1").text, page.one("title").text.partition(" – ")[0].strip()) == (shown, shown)
    listed = [link.text for link in reader.get("/jobs").all("a") if link.attributes.get("href") == f"/jobs/{upload}"]
    assert listed[0] == shown
    problems = [link.text for link in reader.get("/").all("a") if link.attributes.get("href") == f"/jobs/{upload}"]
    assert set(problems) <= {shown}
    assert bool(problems) is bool(first)
    assert ada.get(f"/jobs/{upload}").json["files"]["first"] == (shown.partition(": ")[2] or None)


@pytest.fixture
def stopped(script: Script) -> str:
    """An upload of a picture and a broken one, of which 25 other files were not sent."""
    upload = script.open(files=27)
    script.send(upload, red=RED, broken=BROKEN)
    script.ask(upload, "unsent", {"name": "lost.png", "status": "not_sent", "reason": "Not sent: stopped."})
    script.ask(upload, "close")
    return upload


def test_what_was_not_sent_is_an_outcome_of_its_own(reader: Visitor, stopped: str) -> None:
    here = f"/jobs/{stopped}"
    page = reader.get(here)
    badges = [a for a in page.all("a") if "data-problem" in a.attributes]
    assert [(badge.text.strip(), badge.attributes["href"]) for badge in badges] == [
        ("1 rejected", f"{here}?status=rejected#files-title"),
        ("25 not sent", f"{here}?status=not_sent#files-title"),
    ]
    assert "1 added, 1 rejected, 25 not sent." in page.text
    assert _names(page) == ["broken.png", "lost.png", "24", "red.png"]
    missing = reader.get(f"{here}?status=not_sent")
    assert _names(missing) == ["lost.png", "24"]
    (chosen,) = [
        a for a in missing.all("a") if "aria-current" in a.attributes and "status=" in str(a.attributes["href"])
    ]
    assert chosen.text.strip() == "not sent 25"
    exported = reader.client.get(f"/uploads/{stopped}/files.csv?status=not_sent").get_data(as_text=True)
    assert exported.count(",not_sent,") == 4


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
    (about,) = {element.text for element in page.elements if "data-about" in element.attributes}
    assert about == "red.png"
    assert "the decoder died" in page.one("li", class_="problem").text
    assert _names(page) == ["red.png"]


@pytest.fixture
def parted(script: Script) -> str:
    """An upload of a picture, of which another was not sent."""
    upload = script.open(files=2)
    script.ask(upload, "unsent", {"name": "blue.png", "status": "not_sent", "reason": "Not sent: stopped."})
    script.send(upload, red=RED)
    script.ask(upload, "close")
    return upload


def _rest(page: Page) -> str:
    return " ".join(part.text for part in page.all("p") if "data-rest" in part.attributes)


def test_the_rest_is_offered_while_something_is_left_to_send(reader: Visitor, script: Script, parted: str) -> None:
    told = "1 file is still to be sent: choose the same files or folder again"
    assert told in _rest(reader.get(f"/jobs/{parted}"))
    for picture in ({"green": RED}, {"blue": BLUE}):
        assert told in _rest(reader.get(f"/jobs/{parted}"))
        upload = script.open()
        script.send(upload, **picture)
        script.ask(upload, "close")
    assert _rest(reader.get(f"/jobs/{parted}")).strip() == "The file that was not sent came with a later upload."
    assert "choose the same files" not in reader.get(f"/collections/{script.collection}").text


def test_an_upload_that_is_later_still_does_not_bring_what_an_earlier_one_had(reader: Visitor, script: Script) -> None:
    first = script.open()
    script.send(first, blue=BLUE)
    script.ask(first, "close")
    upload = script.open(files=1)
    script.ask(upload, "unsent", {"name": "blue.png", "status": "not_sent", "reason": "Not sent: stopped."})
    script.ask(upload, "close")
    assert "1 file is still to be sent" in _rest(reader.get(f"/jobs/{upload}"))


def test_pages_say_how_the_rest_is_sent_where_something_is_missing(
    reader: Visitor, script: Script, stopped: str
) -> None:
    here = f"/collections/{script.collection}#upload-title"
    for path in (f"/jobs/{stopped}", f"/collections/{script.collection}"):
        (link,) = [a for a in reader.get(path).all("a") if a.text == "choose the same files or folder again"]
        assert link.attributes["href"] == here
        assert reader.get(f"/collections/{script.collection}").one("h2", id="upload-title")
    upload = script.open()
    script.send(upload, blue=BLUE)
    script.ask(upload, "close")
    assert "choose the same" not in reader.get(f"/jobs/{upload}").text


def test_the_last_upload_leads_to_where_it_is_resumed(reader: Visitor, script: Script, ada: Caller) -> None:
    upload = script.open()
    script.send(upload, red=RED)
    assert "Retry it" not in reader.get(f"/collections/{script.collection}").text
    ada.post(f"/jobs/{upload}/cancel")
    page = reader.get(f"/collections/{script.collection}")
    (link,) = [a for a in page.all("a") if a.text.startswith("Retry it")]
    assert link.attributes["href"] == f"/jobs/{upload}#job"
    job = reader.get(f"/jobs/{upload}")
    assert "Retry" in [button.text.strip() for button in job.all("button")]
    assert "Trying again: " in reader.send(f"/jobs/{upload}/retry").text
