"""Wherever a failure is shown, the item or file that failed is named, with a link to it."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.factories import make_job, store
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Visitor

from retllm.db.enums import FileStatus, JobKind, JobState, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.session import transaction
from retllm.db.tables import Item, new_id
from retllm.db.uploads import Upload, UploadFile
from retllm_web.http.services import Services

_ERROR = "robin: OSError: disk"
_PAGES = ["/", "/jobs", "/jobs/{job}", "/jobs/{job}/attempts", "/system"]


@pytest.fixture
def robin(texts: str, served: Services) -> UUID:
    """The key of the first text."""
    with transaction(served.sessions) as session:
        return session.scalars(sa.select(Item.id).where(Item.name == "robin")).one()


@pytest.fixture
def failed(ada: Caller, texts: str, robin: UUID, served: Services) -> str:
    """An index job that failed because of the first text."""
    job = str(ada.post(f"/collections/{texts}/index").json["id"])
    with transaction(served.sessions) as session:
        unit = session.scalars(sa.select(Unit).where(Unit.job_id == job)).one()
        unit.state, unit.attempt, unit.error, unit.finished_at = UnitState.DEAD, 4, _ERROR, sa.func.now()
        unit.payload = unit.payload | {"items": [str(robin)]}
        found = session.get_one(Job, unit.job_id)
        found.state, found.error, found.finished_at = JobState.FAILED, _ERROR, sa.func.now()
    return job


def _named(page: Page) -> set[str]:
    return {element.text for element in page.elements if "data-about" in element.attributes}


@pytest.mark.parametrize("address", _PAGES)
def test_a_failed_item_is_named_with_a_link_wherever_its_job_is_shown(
    reader: Visitor, failed: str, robin: UUID, address: str
) -> None:
    page = reader.get(address.format(job=failed))
    assert _named(page) == {"robin"}
    assert {link.text for link in page.all("a", href=f"/items/{robin}")} == {"robin"}
    # the name is not repeated
    assert "OSError: disk" in page.text
    assert _ERROR not in page.text


def test_the_api_tells_which_items_failed(ada: Caller, failed: str, robin: UUID) -> None:
    about = [{"name": "robin", "item_id": str(robin), "status": None}]
    (error,) = ada.get(f"/jobs/{failed}").json["errors"]
    assert (error["error"], error["items"], error["about"]) == (_ERROR, 1, about)
    assert ada.get(f"/jobs/{failed}/attempts").json["attempts"][0]["about"] == about
    assert ada.get("/system/dead-units").json["units"][0]["about"] == about


def test_a_deleted_item_is_named_without_a_link(reader: Visitor, ada: Caller, failed: str, robin: UUID) -> None:
    assert ada.delete(f"/items/{robin}").status_code == 204
    page = reader.get(f"/jobs/{failed}")
    assert not page.all("a", href=f"/items/{robin}")
    assert _named(page) == {"robin (deleted)"}


def test_a_rejected_file_is_named_with_a_link_to_the_outcomes_of_its_upload(
    reader: Visitor, ada: Caller, texts: str, served: Services
) -> None:
    job = make_job(ada.user.id, UUID(texts), JobKind.UPLOAD, state=JobState.SUCCEEDED, finished_at=sa.func.now())
    file = UploadFile(
        id=new_id(), job_id=job.id, name="torn.jpg", status=FileStatus.REJECTED, error_code="x", error="It is torn."
    )
    with transaction(served.sessions) as session:
        store(session, job, Upload(id=job.id, closed_at=sa.func.now()), file)
        key = job.id
    for address in ("/", "/jobs"):
        page = reader.get(address)
        assert _named(page) == {"torn.jpg"}
        (link,) = page.all("a", href=f"/jobs/{key}?status=rejected#files-title")
        assert link.text == "torn.jpg"
    assert "It is torn." in reader.get(f"/jobs/{key}?status=rejected").text
