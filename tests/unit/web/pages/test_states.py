"""The glossary lists the states of database and API; pages, charts and the command line show its words."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from flask_openapi import OpenAPI
from tests.factories import make_job, make_unit, store
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Element, Visitor

from retllm.cli import jobs as command
from retllm.cli.client import Api
from retllm.db.enums import OVER_JOBS, AttemptOutcome, FileStatus, JobKind, JobState, Stage, UnitState
from retllm.db.jobs import Attempt
from retllm.db.session import transaction
from retllm.db.state_words import ATTEMPT_OUTCOMES, JOB_STATES, TONES, UNIT_STATES
from retllm.operations.workers import WorkerStatus
from retllm_web.http.services import Services
from retllm_web.pages.states import COLOURS, FILE_STATUSES, STATES, STEPS, WORKER_STATES
from retllm_web.pages.states import OUTCOMES as OUTCOMES_SHOWN
from retllm_web.pages.states import UNITS as UNITS_SHOWN
from retllm_web.render.timeline import StepStatus

GLOSSARY = Path(__file__).parents[4] / "docs" / "glossary.md"


def _table(heading: str) -> dict[str, str]:
    """The words in a table of the glossary by their values in the API, in the order of the table."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", GLOSSARY.read_text(), re.DOTALL | re.MULTILINE)
    return {value: word for word, value in re.findall(r"^\| ([a-z ]+) \| `(\w+)` \|", section, re.MULTILINE)}


JOBS, UNITS, OUTCOMES = map(_table, ("States of a job", "States of a unit", "Outcomes of an attempt"))


@pytest.mark.parametrize(
    ("table", "enum", "words"),
    [
        (JOBS, JobState, JOB_STATES),
        (UNITS, UnitState, UNIT_STATES),
        (OUTCOMES, AttemptOutcome, ATTEMPT_OUTCOMES),
    ],
)
def test_the_database_and_the_api_have_the_values_of_the_glossary(
    app: OpenAPI, table: dict[str, str], enum: type[StrEnum], words: dict[StrEnum, str]
) -> None:
    assert list(table) == [state.value for state in enum]
    assert table == {state.value: word for state, word in words.items()}
    assert app.api_doc["components"]["schemas"][enum.__name__]["enum"] == list(table)


def test_pages_and_the_api_have_the_outcomes_of_files_of_the_glossary(app: OpenAPI) -> None:
    outcomes = _table("Outcomes of a file")
    schemas = app.api_doc["components"]["schemas"]
    assert schemas["FileStatus"]["enum"] == [status.value for status in FileStatus]
    words = {status.value: word for status, (word, *_) in FILE_STATUSES.items()}
    assert words == outcomes
    statuses = schemas["FileOutcome"]["properties"]["status"]["enum"]
    assert sorted([*statuses, "waiting"]) == sorted(outcomes), "an answer has only files that are processed"


@pytest.fixture
def jobs(served: Services, ada: Caller, texts: str) -> dict[JobState, UUID]:
    """An index job in each state."""
    made = {
        state: make_job(
            ada.user.id,
            UUID(texts),
            JobKind.INDEX,
            state=state,
            finished_at=sa.func.now() if state in OVER_JOBS else None,
        )
        for state in JobState
    }
    with transaction(served.sessions) as session:
        store(session, *made.values())
        return {state: job.id for state, job in made.items()}


@pytest.fixture
def job_with_units(served: Services, ada: Caller, texts: str) -> UUID:
    """A job with a unit in each state, the first of them with an attempt of each outcome."""
    job = make_job(ada.user.id, UUID(texts), JobKind.INDEX, state=JobState.RUNNING)
    units = [make_unit(job.id, Stage.EMBED, seq, state=state) for seq, state in enumerate(UnitState)]
    attempts = [
        Attempt(unit_id=units[0].id, number=number, worker="host:7", outcome=outcome, ended_at=sa.func.now())
        for number, outcome in enumerate(AttemptOutcome, start=1)
    ]
    with transaction(served.sessions) as session:
        store(session, job, *units, *attempts)
        return job.id


@pytest.mark.parametrize("state", JobState)
def test_pages_show_the_word_for_the_state_of_a_job(
    reader: Visitor, jobs: dict[JobState, UUID], state: JobState
) -> None:
    history = reader.get(f"/jobs?state={state.value}")
    (cell,) = history.all("td", data_label="State")
    assert re.sub(r"( \d+ %)+$", "", cell.text) == JOBS[state.value]
    (choice,) = history.all("label", for_=f"f-state-{state.value}")
    assert choice.text == f"{JOBS[state.value]} 1"
    assert reader.get(f"/jobs/{jobs[state]}").all("span", class_="badge")[0].text == JOBS[state.value]
    assert f"1 job {JOBS[state.value]}" in [item.text for item in reader.get("/").all("li")]


def test_charts_show_the_words_for_the_states_of_jobs(reader: Visitor, jobs: dict[JobState, UUID]) -> None:
    columns = [cell.text for cell in reader.get("/").all("th", scope="col")]
    failed = f"{JOBS['failed']} or {JOBS['partial']}"
    assert {JOBS["succeeded"], failed, JOBS["cancelled"]} <= set(columns)


@pytest.mark.parametrize("enum", [JobState, UnitState, AttemptOutcome, FileStatus])
def test_every_state_has_one_tone_and_pages_show_its_colour(enum: type[StrEnum]) -> None:
    tables = {JobState: STATES, UnitState: UNITS_SHOWN, AttemptOutcome: OUTCOMES_SHOWN, FileStatus: FILE_STATUSES}
    assert {state: sign.colour for state, sign in tables[enum].items()} == {
        state: COLOURS[TONES[state]] for state in enum
    }
    good = {"succeeded", "done", "committed", "added", "updated"}
    assert {state.value for state in enum if COLOURS[TONES[state]] == "success"} == good & {
        state.value for state in enum
    }


def test_steps_and_workers_have_the_colours_of_their_tones() -> None:
    assert set(STEPS) == set(StepStatus)
    assert {status for status, sign in STEPS.items() if sign.colour == "success"} == {StepStatus.SUCCEEDED}
    assert STEPS[StepStatus.CANCELLED].colour == STATES[JobState.CANCELLED].colour == "secondary"
    assert {status for status, sign in WORKER_STATES.items() if sign.colour == "success"} == {WorkerStatus.ALIVE}


def _is_green(element: Element) -> bool:
    return "success" in (element.attributes.get("class") or "")


def test_nothing_of_a_cancelled_job_is_green(reader: Visitor, jobs: dict[JobState, UUID]) -> None:
    job = jobs[JobState.CANCELLED]
    (row,) = reader.get("/jobs?state=cancelled").all("tr", data_key=str(job))
    assert "cancelled" in row.text
    for address in ("/jobs?state=cancelled", f"/jobs/{job}", f"/jobs/{job}/attempts"):
        green = [element for element in reader.get(address).elements if _is_green(element)]
        assert [element.text for element in green] == []


def test_the_chart_of_ended_jobs_has_the_colours_of_their_states(reader: Visitor, jobs: dict[JobState, UUID]) -> None:
    colours = {
        element.attributes["class"] for element in reader.get("/").all("rect") if "chart-bar" in str(element.attributes)
    }
    assert {"chart-bar chart-success", "chart-bar chart-danger", "chart-bar chart-secondary"} <= colours


@pytest.mark.parametrize("state", UnitState)
def test_pages_show_the_word_for_the_state_of_a_unit(reader: Visitor, job_with_units: UUID, state: UnitState) -> None:
    page = reader.get(f"/jobs/{job_with_units}/attempts?state={state.value}")
    assert page.one("td", data_label="State").text == UNITS[state.value]
    assert page.one("a", aria_current="true").text == f"{UNITS[state.value]} 1"
    counts = [cell.text.split(", ") for cell in reader.get(f"/jobs/{job_with_units}").all("td")]
    assert any(f"1 {UNITS[state.value]}" in cell for cell in counts)


def test_pages_show_the_words_for_the_outcomes_of_attempts(reader: Visitor, job_with_units: UUID) -> None:
    page = reader.get(f"/jobs/{job_with_units}/attempts?state={UnitState.READY}")
    (trail,) = [e for e in page.all("details") if (e.attributes.get("id") or "").startswith("trail-")]
    assert re.findall(r"\d: ([a-z ]+),", trail.text) == list(OUTCOMES.values())


@pytest.mark.parametrize("state", JobState)
def test_the_command_line_prints_the_word_for_the_state_of_a_job(
    app: OpenAPI, ada: Caller, jobs: dict[JobState, UUID], monkeypatch: pytest.MonkeyPatch, state: JobState
) -> None:
    http = httpx.Client(
        transport=httpx.WSGITransport(app),
        base_url="http://localhost/api/v1",
        headers={"Authorization": f"Bearer {ada.token}"},
    )
    monkeypatch.setattr(command, "connect", lambda: Api(http))
    listed = CliRunner().invoke(command.jobs, ["--state", state.value], catch_exceptions=False)
    (row,) = [line for line in listed.stdout.splitlines() if str(jobs[state]) in line]
    assert re.split(r"\s{2,}", row)[2] == JOBS[state.value]
    shown = CliRunner().invoke(command.jobs, ["show", str(jobs[state])], catch_exceptions=False)
    assert f"index {jobs[state]}: {JOBS[state.value]}, " in shown.stdout
