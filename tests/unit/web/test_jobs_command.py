"""`retllm jobs` tells what a job has done and what it does again."""

from __future__ import annotations

import json
import re

import pytest
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller
from tests.unit.web.test_uploads import note
from tests.unit.web.uploads import RED, begin, send

from retllm.cli import jobs


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
    note(ada, job, "lost.png")
    ada.post(f"/uploads/{job}/close")
    return job


def test_a_list_of_jobs_says_how_many_files_were_rejected_and_not_sent(run: Run, mixed: str) -> None:
    (line,) = [line for line in lines(run(jobs.jobs).stdout) if mixed in line]
    assert re.search(r"upload +succeeded, 2 rejected \(1 not sent\) +100%", line)
    assert lines(run(jobs.jobs, "show", mixed).stdout)[0] == f"upload {mixed}: succeeded, 2 rejected (1 not sent), 100%"
    (job,) = json.loads(lines(run(jobs.jobs, "--json").stdout)[0])["jobs"]
    assert job["files"] == {"counts": {"added": 1, "duplicate": 1, "rejected": 2}, "not_sent": 1}


def test_an_upload_without_rejected_files_has_only_its_state(run: Run, ada: Caller, collection: str) -> None:
    job = begin(ada, collection)
    ada.post(f"/uploads/{job}/close")
    assert ada.get(f"/jobs/{job}").json["files"] == {"counts": {}, "not_sent": 0}
    assert lines(run(jobs.jobs, "watch", job).stdout) == [f"upload {job}: succeeded, 100%"]


def test_a_retry_says_what_it_tries_again(run: Run, ada: Caller, collection: str) -> None:
    ada.post(f"/collections/{collection}/items?index=false", json={"items": [{"text": "a robin"}, {"text": "a wren"}]})
    job = ada.post(f"/collections/{collection}/index").json["id"]
    run(jobs.jobs, "cancel", job)
    assert lines(run(jobs.jobs, "retry", job).stdout) == [f"index {job}: queued, 0%", "Trying again: 1 unit."]
    run(jobs.jobs, "cancel", job)
    answer = json.loads(lines(run(jobs.jobs, "retry", job, "--json").stdout)[0])
    assert answer["again"] == {"units": 1, "files": 0}
