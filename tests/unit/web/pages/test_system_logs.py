"""The page of log lines, which only administrators read."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller, start_session
from tests.unit.web.pages.conftest import Page, Visitor

from retllm.operations.log_sender import PROCESSES, lines_key
from retllm_web.http.services import Services
from retllm_web.pages import system_logs

SCRIPT = {"X-Requested-With": "fetch"}


@pytest.fixture
def administrator(app: OpenAPI, root: Caller) -> Visitor:
    """An administrator in a browser."""
    visitor = Visitor(app.test_client())
    start_session(app, visitor.client, root.user)
    return visitor


@pytest.fixture
def process() -> str:
    """The name of a process that no other test has."""
    return f"web@host-{uuid.uuid4().hex}:7"


@pytest.fixture
def log(served: Services, process: str) -> Callable[..., None]:
    """Gives a line of the process to Redis."""
    client = redis.Redis.from_url(str(served.settings.redis_url))

    def send(event: str, **values: Any) -> None:
        line = {"event": event, "level": "info", "logger": "ours", "timestamp": datetime.now(UTC).isoformat(), **values}
        client.xadd(lines_key(process), {"line": json.dumps(line)})
        client.zadd(PROCESSES, {process: time.time()})

    return send


def _lines(page: Page) -> list[str]:
    return [cell.text for cell in page.all("td", data_label="Line")]


def test_lines_are_shown_newest_first_with_their_level_and_traceback(
    administrator: Visitor, log: Callable[..., None], process: str
) -> None:
    log("unit.started")
    log("<b>unit</b>.failed", level="error", exception="Traceback\nOSError: disk")
    page = administrator.get(f"/system/logs?process={process}")
    newest, oldest = _lines(page)
    assert newest.startswith("<b>unit</b>.failed")
    assert "OSError: disk" in newest
    assert oldest == "unit.started"
    assert [cell.text for cell in page.all("td", data_label="Level")] == ["error", "info"]
    assert page.all("option", value=process, selected=None)  # type: ignore[arg-type]
    assert _lines(administrator.get(f"/system/logs?process={process}&level=error"))[0].startswith("<b>unit")
    assert "No lines match" in administrator.get(f"/system/logs?process={process}&text=nowhere").text


def test_filters_stay_in_the_address_of_the_live_part_and_of_older_lines(
    administrator: Visitor, log: Callable[..., None], process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_logs, "_LINES", 1)
    log("first line")
    log("second line")
    since = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    page = administrator.get(f"/system/logs?process={process}&text=line&since={since}")
    assert _lines(page) == ["second line"]
    live = next(e.attributes for e in page.elements if "data-live" in e.attributes)
    assert live["data-over"] == "false"
    for part in (process, "text=line", f"since={since}"):
        assert part in str(live["data-live"])
    (older,) = page.all("a", rel="next")
    page = administrator.get(str(older.attributes["href"]))
    assert _lines(page) == ["first line"]
    # an older page stays as it is
    assert next(e.attributes for e in page.elements if "data-live" in e.attributes)["data-over"] == "true"
    assert not page.all("a", rel="next")


def test_the_live_part_is_sent_only_if_there_are_new_lines(
    administrator: Visitor, log: Callable[..., None], process: str
) -> None:
    address = f"/system/logs/live?process={process}"
    log("first line")
    first = administrator.client.get(address, headers=SCRIPT)
    known = {**SCRIPT, "If-None-Match": first.headers["ETag"]}
    assert administrator.client.get(address, headers=known).status_code == 304
    log("second line")
    fresh = administrator.client.get(address, headers=known)
    assert fresh.status_code == 200
    assert _lines(Page(fresh)) == ["second line", "first line"]


def test_a_line_about_a_job_leads_to_it(administrator: Visitor, log: Callable[..., None], process: str) -> None:
    job = str(uuid.uuid4())
    log("unit.done", job_id=job)
    assert administrator.get(f"/system/logs?process={process}").all("a", href=f"/jobs/{job}")


def test_the_page_says_when_redis_is_away(
    administrator: Visitor, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.settings, "redis_url", "redis://127.0.0.1:1/0")
    assert "Redis does not answer" in administrator.get("/system/logs").text


def test_a_malformed_place_is_not_found(administrator: Visitor) -> None:
    assert administrator.get("/system/logs?after=x").status == 404


def test_only_administrators_are_led_there(administrator: Visitor, reader: Visitor) -> None:
    assert administrator.get("/system").all("a", href="/system/logs")
    assert not reader.get("/system").all("a", href="/system/logs")
    assert reader.get("/system/logs").status == 403


def test_the_api_lists_lines_in_pages(root: Caller, ada: Caller, log: Callable[..., None], process: str) -> None:
    for number in range(3):
        log(f"line {number}", level="warning")
    first = root.get(f"/system/logs?process={process}&level=warning&limit=2").json
    assert [line["text"] for line in first["lines"]] == ["line 2", "line 1"]
    assert first["reached"] is True
    assert process in first["processes"]
    rest = root.get(f"/system/logs?process={process}&limit=2&after={first['next']}").json
    assert ([line["text"] for line in rest["lines"]], rest["next"]) == (["line 0"], None)
    assert ada.get("/system/logs").status_code == 403
    for query in ("level=loud", "after=x", "since=yesterday", "limit=0", "more=1"):
        assert root.get(f"/system/logs?{query}").status_code == 422, query
