"""`retllm jobs` tells what a job has done and what it does again."""

from __future__ import annotations

import codecs
import csv
import json
import re
from functools import partialmethod
from pathlib import Path

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller
from tests.unit.web.uploads import BLUE, RED, begin, send

from retllm.cli import jobs
from retllm.cli.client import RequestRejected
from retllm.cli.patience import Patience

NOT_SENT = "Not sent: the upload was stopped."


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Command line"}).json["id"])


@pytest.fixture
def mixed(ada: Caller, collection: str) -> str:
    """An upload of a picture, a copy of it, a broken one, and one that was not sent."""
    job = begin(ada, collection)
    send(ada, job, red_png=RED)
    send(ada, job, copy_png=RED, broken_png=RED[:40])
    ada.post(f"/uploads/{job}/unsent", json={"files": [{"name": "lost.png", "status": "not_sent", "reason": NOT_SENT}]})
    ada.post(f"/uploads/{job}/close")
    return job


def test_a_list_of_jobs_says_how_many_files_were_rejected_and_not_sent(run: Run, mixed: str) -> None:
    (line,) = [line for line in lines(run(jobs.jobs).stdout) if mixed in line]
    assert re.search(r"upload +succeeded, 1 rejected, 1 not sent +100%", line)
    shown = lines(run(jobs.jobs, "show", mixed).stdout)
    assert shown[:2] == [
        f"upload {mixed}: succeeded, 1 rejected, 1 not sent, 100%",
        "1 added, 1 duplicate, 1 rejected, 1 not sent",
    ]
    assert shown[-1] == f"  lost.png: {NOT_SENT}"
    (job,) = json.loads(lines(run(jobs.jobs, "--json").stdout)[0])["jobs"]
    counts = {"added": 1, "duplicate": 1, "rejected": 1, "not_sent": 1}
    assert job["files"] == {
        "counts": counts,
        "parts": {},
        "open": False,
        "expected": 0,
        "to_come": 0,
        "first": "red.png",
    }


def test_an_upload_without_rejected_files_has_only_its_state(run: Run, ada: Caller, collection: str) -> None:
    job = begin(ada, collection)
    ada.post(f"/uploads/{job}/close")
    assert ada.get(f"/jobs/{job}").json["files"] == {
        "counts": {},
        "parts": {},
        "open": False,
        "expected": 0,
        "to_come": 0,
        "first": None,
    }
    assert lines(run(jobs.jobs, "watch", job).stdout) == [f"upload {job}: succeeded, 100%"]


def test_jobs_files_lists_the_outcome_of_every_file(run: Run, ada: Caller, mixed: str) -> None:
    (red,) = ada.get(f"/uploads/{mixed}/files?status=added").json["files"]
    listed = lines(run(jobs.jobs, "files", mixed).stdout)
    assert listed[:2] == ["added      red.png", "duplicate  copy.png: the same as red.png"]
    assert listed[2].startswith("rejected   broken.png: ")
    assert listed[3] == f"not sent   lost.png: {NOT_SENT}"
    assert lines(run(jobs.jobs, "files", mixed, "--status", "not_sent").stdout) == listed[3:]
    several = run(jobs.jobs, "files", mixed, "--json", "--status", "rejected", "--status", "duplicate")
    told = json.loads(lines(several.stdout)[0])["files"]
    assert [file["name"] for file in told] == ["copy.png", "broken.png"]
    assert (told[0]["item_id"], told[0]["item_name"]) == (red["item_id"], "red.png")


def test_jobs_files_writes_csv_for_excel(run: Run, ada: Caller, mixed: str, tmp_path: Path) -> None:
    target = tmp_path / "files.csv"
    assert run(jobs.jobs, "files", mixed, "--csv", "--status", "duplicate", "--output", target).exit_code == 0
    # the bytes that the page has
    assert target.read_bytes() == codecs.BOM_UTF8 + ada.get(f"/uploads/{mixed}/files.csv?status=duplicate").data
    (row,) = csv.DictReader(target.read_text("utf-8-sig").splitlines())
    assert (row["name"], row["status"], row["item_name"]) == ("copy.png", "duplicate", "red.png")
    assert run(jobs.jobs, "files", mixed, "--csv", "--json").exit_code == 2


def test_the_export_of_jobs_is_for_excel_as_csv_only(run: Run, ada: Caller, mixed: str, tmp_path: Path) -> None:
    target = tmp_path / "jobs"
    for format, mark in (("csv", codecs.BOM_UTF8), ("json", b"")):
        options = ["--csv"] if format == "csv" else []
        assert run(jobs.jobs, "export", *options, "--output", target).exit_code == 0
        assert target.read_bytes() == mark + ada.get(f"/jobs/export?format={format}").data


def test_jobs_files_of_another_job_says_that_it_is_no_upload(run: Run, ada: Caller, collection: str) -> None:
    ada.post(f"/collections/{collection}/items?index=false", json={"items": [{"text": "a robin"}]})
    job = ada.post(f"/collections/{collection}/index").json["id"]
    with pytest.raises(RequestRejected, match="This job is no upload"):
        run(jobs.jobs, "files", job)


def test_a_retry_says_what_it_tries_again(run: Run, ada: Caller, collection: str) -> None:
    ada.post(f"/collections/{collection}/items?index=false", json={"items": [{"text": "a robin"}, {"text": "a wren"}]})
    job = ada.post(f"/collections/{collection}/index").json["id"]
    run(jobs.jobs, "cancel", job)
    assert lines(run(jobs.jobs, "retry", job).stdout) == [f"index {job}: queued, 0%", "Trying again: 1 unit."]
    run(jobs.jobs, "cancel", job)
    answer = json.loads(lines(run(jobs.jobs, "retry", job, "--json").stdout)[0])
    assert answer["again"] == {"units": 1, "files": 0, "read_again": 0, "not_kept": 0}


def test_an_open_upload_says_what_is_still_to_come(run: Run, ada: Caller, collection: str) -> None:
    job = begin(ada, collection, files=3)
    assert lines(run(jobs.jobs, "show", job).stdout)[1:] == ["No files have arrived yet.", "3 files are still to come."]
    send(ada, job, red_png=RED, blue_png=BLUE)
    # the client does not count what it leaves out
    note = {"name": "@eaDir", "status": "ignored", "reason": "Left out: previews.", "count": 40}
    ada.post(f"/uploads/{job}/unsent", json={"files": [note]})
    shown = lines(run(jobs.jobs, "show", job).stdout)
    assert shown[1:] == ["2 added, 40 ignored", "1 file is still to come."]
    assert json.loads(lines(run(jobs.jobs, "show", job, "--json").stdout)[0])["to_come"] == 1
    ada.post(f"/uploads/{job}/close")
    assert lines(run(jobs.jobs, "show", job).stdout)[1] == "2 added, 40 ignored, 1 not sent"


def test_a_cancelled_upload_says_how_far_it_came(run: Run, ada: Caller, collection: str) -> None:
    job = begin(ada, collection, files=4)
    send(ada, job, red_png=RED)
    send(ada, job, **{"captions.csv": b"file,caption\nred.png,red\n"})
    cancelled = lines(run(jobs.jobs, "cancel", job).stdout)
    told = "1 not processed, 2 not sent, 33%"
    assert cancelled == [f"upload {job}: cancelled, {told}"]
    shown = lines(run(jobs.jobs, "show", job).stdout)
    assert shown[:2] == [f"upload {job}: cancelled, {told}", "1 added, 1 not processed, 2 not sent"]
    assert "rejected" not in "".join(shown)
    assert ada.get(f"/jobs/{job}").json["progress"] == pytest.approx(1 / 3, abs=0.001)


def test_an_export_waits_until_the_server_makes_no_others(
    app: OpenAPI, run: Run, ada: Caller, mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, target, waited = app.extensions["retllm_exports"], tmp_path / "jobs", []
    while places.take(ada.user.id):
        pass

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        places.leave(ada.user.id)

    monkeypatch.setattr(Patience, "__init__", partialmethod(Patience.__init__, sleep=sleep))
    done = run(jobs.jobs, "export", "--output", target)
    assert done.exit_code == 0
    assert "Other exports are still being made" in done.stderr
    assert waited == [5]
    assert {row["job_id"] for row in json.loads(target.read_bytes())} == {mixed}
