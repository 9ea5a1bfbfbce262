"""What pages say of the state of an upload, besides how its job ended."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pages.upload_script import BLUE, BROKEN, RED, Script

from retllm.db.enums import JobState
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm_web.http.services import Services


@pytest.fixture
def abandoned(script: Script) -> str:
    """An open upload, of which 2 of 60 files arrived."""
    upload = script.open(files=60)
    script.send(upload, red=RED, blue=BLUE)
    return upload


@pytest.fixture
def incomplete(script: Script, served: Services) -> str:
    """An upload that succeeded with a rejected file, and others that were not sent."""
    upload = script.open(files=5)
    script.send(upload, red=RED, broken=BROKEN)
    script.ask(upload, "close")
    with transaction(served.sessions) as session:
        values = {"state": JobState.SUCCEEDED, "finished_at": sa.func.now()}
        session.execute(sa.update(Job).where(Job.id == uuid.UUID(upload)).values(**values))
    return upload


def _row(reader: Visitor, job: str) -> str:
    """Return the row of a job in the history."""
    return next(row.text for row in reader.get("/jobs").all("tr") if row.attributes.get("data-key") == job)


def _said(page: Page) -> str:
    return " ".join(part.text for part in page.all("div", data_part="state"))


def test_an_open_upload_says_what_it_waits_for(reader: Visitor, script: Script, abandoned: str) -> None:
    collection = f"/collections/{script.collection}"
    for said in (_said(reader.get(f"/jobs/{abandoned}")), _row(reader, abandoned)):
        assert "open: waiting for files" in said
        assert "2 of 60 files arrived" in said
        assert "queued" not in said
    assert "Current job: upload, open: waiting for files" in reader.get("/collections").text
    page = reader.get(collection)
    assert "2 of 60 files arrived. Continue or close it on the page of its job." in page.text


def test_an_upload_that_got_no_file_does_not_wait_for_workers(reader: Visitor, script: Script) -> None:
    upload = script.open(files=60)
    page = reader.get(f"/jobs/{upload}")
    assert "0 of 60 files arrived" in _said(page)
    assert "No worker has started" not in page.text
    assert "Nothing has been processed yet." in page.text
    unnamed = script.open()
    assert "no files arrived yet" in _said(reader.get(f"/jobs/{unnamed}"))


def test_an_open_upload_is_closed_on_its_page(reader: Visitor, script: Script, abandoned: str) -> None:
    page = reader.get(f"/jobs/{abandoned}")
    again = f"/collections/{script.collection}#upload-title"
    assert again in {a.attributes["href"] for a in page.all("a") if "again" in a.text}
    page = reader.send(f"/uploads/{abandoned}/end")
    assert page.path == f"/jobs/{abandoned}"
    assert "2 added, 58 not sent." in page.text
    assert "the upload was closed on the page of its job" in page.text
    assert "Close the upload" not in page.text


def test_an_upload_without_some_of_its_files_does_not_just_succeed(
    reader: Visitor, script: Script, incomplete: str
) -> None:
    assert "1 rejected, 3 not sent" in _row(reader, incomplete)
    for path in ("/jobs", "/collections", "/"):
        assert "succeeded, 1 rejected, 3 not sent" in reader.get(path).text
    badges = [span for span in reader.get("/jobs").all("span", class_="badge") if "1 rejected" in span.text]
    assert ["bg-warning-subtle" in str(badge.attributes["class"]) for badge in badges] == [True]


def test_a_cancelled_upload_is_nowhere_done_to_a_share(
    reader: Visitor, script: Script, abandoned: str, ada: Caller
) -> None:
    ada.post(f"/jobs/{abandoned}/cancel")
    for said in (_said(reader.get(f"/jobs/{abandoned}")), _row(reader, abandoned)):
        assert "cancelled" in said
        assert "58 not sent" in said
        assert "%" not in said
