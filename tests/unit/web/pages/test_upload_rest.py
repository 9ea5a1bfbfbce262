"""Pages and command line follow what an upload lacks until later uploads brought it and its rows count."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.web.commands import Run, lines
from tests.unit.web.commands import empty as empty
from tests.unit.web.commands import folder as folder
from tests.unit.web.commands import run as run
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Visitor
from tests.unit.web.pages.upload_script import Script
from tests.unit.web.test_command_line import stop_in
from tests.unit.web.uploads import BLUE, RED, begin, send

from retllm.cli import jobs, upload

SHEET = b"file,caption\nred.png,a red wall\nblue.png,a blue wall\n"


@pytest.fixture
def first(ada: Caller, script: Script) -> str:
    """An upload of a sheet and one of its two pictures."""
    job = begin(ada, script.collection)
    ada.post(f"/uploads/{job}/expected", json={"first": 0, "names": ["list.csv", "red.png", "blue.png"]})
    send(ada, job, list_csv=SHEET, red_png=RED)
    ada.post(f"/uploads/{job}/close")
    return job


def bring(ada: Caller, collection: str, **files: bytes) -> str:
    job = begin(ada, collection)
    send(ada, job, **files)
    ada.post(f"/uploads/{job}/close")
    return job


def told(page: Page) -> str:
    marks = {"data-rest", "data-rows", "data-earlier-rows"}
    return " ".join(
        " ".join(part.text.split()).replace(" .", ".") for part in page.all("p") if marks & part.attributes.keys()
    )


def test_both_pages_say_which_rows_wait_for_a_retry_until_it_was_made(
    reader: Visitor, ada: Caller, script: Script, first: str
) -> None:
    later = bring(ada, script.collection, blue_png=BLUE)
    here = f"/jobs/{first}#retry-files"
    page = reader.get(f"/jobs/{first}")
    waits = "1 file came with a later upload, but 1 row or sidecar has no effect yet: retry this upload."
    assert told(page) == waits
    assert page.one("form", id="retry-files")
    assert page.all("a", href=here)
    other = (
        "This upload brought files of an earlier one, of which 1 row or sidecar has no effect yet: retry that upload."
    )
    for path in (f"/jobs/{later}", f"/collections/{script.collection}"):
        assert told(reader.get(path)) == other
        assert reader.get(path).all("a", href=here)
    reader.get(f"/jobs/{first}")
    reader.send(f"/uploads/{first}/retry")
    assert told(reader.get(f"/jobs/{first}")) == "The file that was not sent came with a later upload."
    assert told(reader.get(f"/jobs/{later}")) == ""


def test_history_overview_and_command_line_forget_what_came(
    reader: Visitor, ada: Caller, run: Run, script: Script, first: str
) -> None:
    lacks = "succeeded, 2 not sent (1 file, 1 row)"
    assert lacks in reader.get("/").text
    assert lacks in reader.get("/jobs").text
    assert lacks in run(jobs.jobs).stdout
    bring(ada, script.collection, list_csv=SHEET, red_png=RED, blue_png=BLUE)
    assert "No job failed, and no upload lacks files." in reader.get("/").text
    page = reader.get("/jobs")
    assert "not sent" not in " ".join(cell.text for cell in page.all("td"))
    shown = lines(run(jobs.jobs, "show", first).stdout)
    assert shown == [f"upload {first}: succeeded, 100%", "1 added, 1 updated, 2 ignored"]


def test_uploads_are_found_by_their_outcomes_everywhere(
    reader: Visitor, ada: Caller, run: Run, script: Script, first: str
) -> None:
    refused = bring(ada, script.collection, broken_png=RED[:40])

    def found(query: str) -> list[str]:
        rows = [row.attributes["data-key"] for row in reader.get(f"/jobs?{query}").all("tr") if row.attributes]
        assert [job["id"] for job in ada.get(f"/jobs?{query}").json["jobs"]] == rows
        options = [f"--{part.replace('=', ' ')}" for part in query.split("&")]
        printed = run(jobs.jobs, *" ".join(options).split()).stdout
        assert [line.split()[0] for line in lines(printed)[1:]] == rows
        exported = ada.get(f"/jobs/export?{query}").json
        assert [row["job_id"] for row in exported] == rows
        return [str(row) for row in rows]

    assert found("outcome=not_sent") == [first]
    assert found("outcome=rejected") == [refused]
    assert found("outcome=rejected&outcome=not_sent&state=succeeded") == [refused, first]
    assert found("outcome=rejected&kind=search") == []
    page = reader.get("/jobs?outcome=not_sent")
    assert "checked" in page.one("input", id="f-outcome-not_sent").attributes
    assert "checked" not in page.one("input", id="f-outcome-rejected").attributes
    assert "1 that match the filter" in page.text
    bring(ada, script.collection, list_csv=SHEET, red_png=RED, blue_png=BLUE)
    assert found("outcome=not_sent") == []
    assert ada.get("/jobs?outcome=lost").status_code == 422


def test_a_command_that_was_stopped_and_run_again_leaves_nothing_missing(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, script: Script, folder: Path
) -> None:
    rows = "".join(f"{number}.png,picture {number}\n" for number in range(6))
    (folder / "list.csv").write_text(f"file,caption\n{rows}")
    with monkeypatch.context() as patch:
        stop_in(patch, 2)
        assert run(upload.upload, script.collection, "--no-index", folder).exit_code == 130
    (stopped,) = ada.get(f"/jobs?collection={script.collection}&outcome=not_sent").json["jobs"]
    assert stopped["files"]["parts"]["not_sent"]["row"] > 0
    assert run(upload.upload, script.collection, "--no-index", folder).exit_code == 0
    assert "not sent" not in run(jobs.jobs).stdout
    shown = run(jobs.jobs, "show", stopped["id"]).stdout
    assert "run the command again" not in shown
    assert "not sent" not in shown
