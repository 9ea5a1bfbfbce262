"""The page of workers and queues: workers, queues, dead units, and the actions on them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Page, Visitor

from retllm.db.enums import JobState, Stage, UnitState, Visibility
from retllm.db.jobs import Job, Unit
from retllm.db.operations import PausedQueue, Worker
from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.identity.audit import Action
from retllm.operations import workers
from retllm.operations.workers import WorkerReport
from retllm_web.http.services import Services

SCRIPT = {"X-Requested-With": "fetch"}


@pytest.fixture
def admin(app: OpenAPI, root: Caller) -> Visitor:
    """An administrator in a browser."""
    visitor = Visitor(app.test_client())
    visitor.log_in("root")
    return visitor


@pytest.fixture
def guest(app: OpenAPI, bob: Caller) -> Visitor:
    """Bob in his browser."""
    visitor = Visitor(app.test_client())
    visitor.log_in("bob")
    return visitor


@pytest.fixture
def dead(texts: str, ada: Caller, served: Services) -> list[str]:
    """The keys of three dead units of an ended index job of ada's."""
    job_id = ada.post(f"/collections/{texts}/index").json["id"]
    with transaction(served.sessions) as session:
        first = session.scalars(sa.select(Unit).where(Unit.job_id == job_id)).one()
        others = [Unit(job_id=first.job_id, stage=Stage.EMBED, seq=seq, payload=first.payload) for seq in (1, 2)]
        session.add_all(others)
        session.flush()
        for unit in (first, *others):
            unit.state, unit.attempt, unit.finished_at = UnitState.DEAD, 4, sa.func.clock_timestamp()
            unit.error, unit.traceback = f"OSError: disk {unit.seq}", "Traceback: line 1"
            session.flush()
        job = session.get_one(Job, first.job_id)
        job.state, job.finished_at = JobState.FAILED, sa.func.now()
        return [str(one.id) for one in (first, *others)]


def _report(served: Services, name: str, queues: list[str], **model: Any) -> None:
    told = {"name": "clip", "revision": "abcdef", "loaded": True, "error": None, **model}
    with transaction(served.sessions) as session:
        workers.record(session, WorkerReport(name, queues, "cuda: H200", "0.1.0", [told]))


def _audit_entries(served: Services) -> list[tuple[str, str | None]]:
    with transaction(served.sessions) as session:
        entries = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id)).all()
        wanted = {Action.QUEUE_PAUSED, Action.QUEUE_RESUMED, Action.UNITS_REQUEUED}
        return [(one.action, one.target) for one in entries if one.action in wanted]


def _dead_units(page: Page) -> list[str]:
    return [e.text for e in page.all("li", class_="dead-unit")]


def test_a_queue_is_served_if_a_worker_has_its_model(reader: Visitor, served: Services) -> None:
    _report(served, "gpu1:1", ["score"], loaded=False, error="It is not on this machine.")

    def state() -> str:
        queues = {e.text.split()[0]: e.text for e in reader.get("/system").all("tr") if "stage of searches" in e.text}
        return queues["score"]

    assert "not ready" in state()
    assert "It is not on this machine." in state()
    _report(served, "gpu2:2", ["score"])
    assert "not ready" not in state()
    assert "served" in state()
    _report(served, "gpu3:3", ["score"], loaded=False, error="It is not on this machine.")
    assert "served" in state()


def test_workers_are_shown_with_their_state_and_model_errors(reader: Visitor, served: Services) -> None:
    assert "No worker was seen" in reader.get("/system").text
    _report(served, "gpu1:1", ["query", "embed"])
    _report(served, "gpu2:2", ["score"], loaded=False, error="It is not on this machine.")
    with transaction(served.sessions) as session:
        ago = sa.func.now() - sa.text("interval '5 minutes'")
        session.execute(sa.update(Worker).where(Worker.name == "gpu2:2").values(seen_at=ago))
    page = reader.get("/system")
    first, second = (e.text for e in page.all("tr") if "gpu" in e.text)
    assert "alive" in first
    assert "clip loaded, revision abcdef" in first
    assert "cuda: H200" in first
    assert "silent" in second
    assert "failed to load: It is not on this machine." in second
    queues = {e.text.split()[0]: e.text for e in page.all("tr") if "stage of searches" in e.text}
    assert "served" in queues["query"]
    assert "no worker" in queues["score"], "a silent worker serves nothing"
    away = {"name": "openai:org/judge", "revision": None, "loaded": False, "error": "The server is away."}
    with transaction(served.sessions) as session:
        workers.record(session, WorkerReport("gpu3:3", ["score"], "server", "0.1.0", [away]))
    for address, told in (("/system", "not ready: The server is away."), ("/", "openai:org/judge (not ready)")):
        assert told in reader.get(address).text


def test_an_administrator_pauses_a_queue_with_a_reason_and_resumes_it(
    admin: Visitor, texts: str, ada: Caller, served: Services, notified: RecordingNotifier
) -> None:
    ada.post(f"/collections/{texts}/index")
    notified.units.clear()
    admin.get("/system")
    page = admin.send("/system/queues/embed/pause", reason=" a new GPU ")
    assert "Queue embed paused." in page.text
    assert re.search(r"paused by root just now ?: a new GPU", page.text)
    assert "root paused the queue embed" in admin.get("/").text
    admin.get("/system")
    assert "Queue embed resumed." in admin.send("/system/queues/embed/resume").text
    assert [unit.stage for unit in notified.units] == [Stage.EMBED], "workers are notified of the waiting units"
    assert _audit_entries(served) == [(Action.QUEUE_PAUSED, "embed"), (Action.QUEUE_RESUMED, "embed")]


def test_only_administrators_can_pause_and_resume_queues(reader: Visitor, served: Services) -> None:
    page = reader.get("/system")
    assert [e for e in page.all("form") if "queues" in (e.attributes.get("action") or "")] == []
    reader.get("/account")
    data = {"csrf_token": reader.token()}
    for deed in ("pause", "resume"):
        answer = Page(reader.client.post(f"/system/queues/embed/{deed}", data=data, follow_redirects=True))
        assert answer.status == 403
        assert "needs the role admin" in answer.one("p", role="alert").text
    with transaction(served.sessions) as session:
        assert session.scalars(sa.select(PausedQueue)).all() == []


def test_pausing_an_unknown_queue_returns_404(admin: Visitor) -> None:
    admin.get("/system")
    assert admin.client.post("/system/queues/pictures/pause", data={"csrf_token": admin.token()}).status_code == 404


def test_selected_dead_units_are_retried(
    reader: Visitor, dead: list[str], served: Services, notified: RecordingNotifier
) -> None:
    notified.units.clear()
    page = reader.get("/system")
    assert [text.split("OSError: ")[1].split()[1] for text in _dead_units(page)] == ["2", "1", "0"]
    assert len(page.all("details", id=f"trace-{dead[0]}")) == 1
    page = reader.send("/system/dead-units/requeue", unit=dead[:2])
    assert "Retrying 2 units." in page.text
    assert len(_dead_units(page)) == 1
    assert sorted(str(unit.unit_id) for unit in notified.units) == sorted(dead[:2])
    assert _audit_entries(served) == [(Action.UNITS_REQUEUED, None)]
    assert "Select the units to retry" in reader.send("/system/dead-units/requeue").text


def test_all_matching_dead_units_and_no_others_are_retried(reader: Visitor, dead: list[str]) -> None:
    page = reader.get("/system?text=disk 1")
    assert len(_dead_units(page)) == 1
    page = reader.get("/system?text=DISK&queue=embed")
    assert "Retry all 3 matching units" in page.text
    page = reader.send("/system/dead-units/requeue", all="1", text="disk 1", queue="embed")
    assert "Retrying 1 unit." in page.text
    assert len(_dead_units(reader.get("/system"))) == 2


def test_accounts_without_editing_rights_see_dead_units_but_cannot_retry_them(
    guest: Visitor, dead: list[str], texts: str, served: Services
) -> None:
    assert _dead_units(guest.get("/system")) == []
    with transaction(served.sessions) as session:
        session.execute(sa.update(Collection).values(visibility=Visibility.EVERYONE))
    page = guest.get("/system")
    assert len(_dead_units(page)) == 3
    assert "Traceback" not in page.text
    assert page.all("input", name="unit") == []
    assert [e for e in page.all("button") if "Retry" in e.text] == []
    data = {"csrf_token": guest.token(), "unit": dead[0]}
    answer = Page(guest.client.post("/system/dead-units/requeue", data=data, follow_redirects=True))
    assert "Retrying 0 units. 1 skipped: of another account" in answer.text


def test_invalid_filters_are_ignored_and_invalid_keys_return_404(reader: Visitor, dead: list[str]) -> None:
    assert len(_dead_units(reader.get("/system?queue=x&text=%00"))) == 3
    assert reader.get("/system?after=x").status == 404
    assert reader.get("/system?collection=x").status == 404


def test_paging_of_dead_units_keeps_the_filter(reader: Visitor, dead: list[str], served: Services) -> None:
    with transaction(served.sessions) as session:
        one = session.get_one(Unit, dead[0])
        session.add_all(
            Unit(
                job_id=one.job_id,
                stage=one.stage,
                seq=seq,
                payload={},
                state=UnitState.DEAD,
                error="disk",
                finished_at=sa.func.now(),
            )
            for seq in range(3, 40)
        )
    page = reader.get("/system?text=disk")
    (link,) = [e.attributes["href"] or "" for e in page.all("a") if e.text == "Older units"]
    assert "text=disk" in link
    assert (len(_dead_units(page)), len(_dead_units(reader.get(link)))) == (30, 10)


@pytest.mark.parametrize("path", ["/system/live", "/overview/live?window=7d"])
def test_unchanged_fragments_are_not_sent_again(reader: Visitor, served: Services, path: str) -> None:
    def ask(tag: str) -> Any:
        return reader.client.get(path, headers={**SCRIPT, "If-None-Match": tag})

    _report(served, "gpu1:1", ["score"])
    tag = ask("").headers["ETag"]
    # the ETag contains the minute, which may change between two requests
    assert 304 in (ask(tag).status_code, ask(ask("").headers["ETag"]).status_code)
    _report(served, "gpu1:1", ["score"], loaded=False)
    answer = ask(tag)
    assert answer.status_code == 200
    assert "not loaded yet" in answer.get_data(as_text=True)
