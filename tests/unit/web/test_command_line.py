"""`retllm upload` and `retllm jobs` tell what became of every file, also of an upload that was stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result
from flask_openapi import OpenAPI
from tests.unit.media.samples import zipped
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture

from retllm.cli import jobs, sending, upload
from retllm.cli.client import Api
from retllm.cli.patience import PatientApi, Unreachable
from retllm_web.http.services import Services

STOPPED = "Not sent: the upload was stopped; run the command again to send the rest."
Run = Callable[..., Result]


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Command line"}).json["id"])


@pytest.fixture
def run(app: OpenAPI, ada: Caller, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command as ada."""
    http = httpx.Client(
        transport=httpx.WSGITransport(app),
        base_url="http://retllm.test/api/v1/",
        headers={"Authorization": f"Bearer {ada.token}"},
    )
    for module in (upload, jobs):
        monkeypatch.setattr(module, "connect", lambda: Api(http))

    def invoke(command: click.Command, *arguments: object) -> Result:
        return CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)

    return invoke


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def folder(empty: Path) -> Path:
    """A folder of six pictures."""
    for number in range(6):
        (empty / f"{number}.png").write_bytes(picture(f"rgb({number * 20}, 9, 9)"))
    return empty


def lines(output: str) -> list[str]:
    """Return what a command printed; the server logs to the same output."""
    return [line for line in output.splitlines() if not re.match(r"\d{4}-", line)]


def the_job(ada: Caller, collection: str) -> str:
    (job,) = ada.get(f"/jobs?collection={collection}").json["jobs"]
    return str(job["id"])


def files(ada: Caller, job: str) -> list[tuple[str, str, str | None]]:
    rows = ada.get(f"/uploads/{job}/files").json["files"]
    return sorted((row["name"], row["status"], row["error"] and row["error"]["message"]) for row in rows)


def stop_in(monkeypatch: pytest.MonkeyPatch, request: int) -> None:
    """Press Ctrl-C while the command waits for the answer to this request with files."""
    monkeypatch.setattr(sending, "_REQUEST_FILES", 2)
    once = PatientApi.once
    sent = 0

    def stopped(api: PatientApi, method: str, path: str, **options: Any) -> Any:
        nonlocal sent
        answer = once(api, method, path, **options)
        sent += path.endswith("/files")
        if path.endswith("/files") and sent == request:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(PatientApi, "once", stopped)


def test_an_upload_that_is_stopped_lists_what_was_not_sent_and_counts_what_arrived(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    stop_in(monkeypatch, 2)
    done = run(upload.upload, collection, "--no-index", folder)
    job = the_job(ada, collection)
    assert done.exit_code == 130
    # the answer to the second request was lost, and its files arrived
    assert f"Stopped: 4 of 6 files arrived; they stay, and job {job} goes on with them. Run the same" in done.stderr
    assert files(ada, job) == [
        *((f"{number}.png", "added", None) for number in range(4)),
        *((f"{number}.png", "rejected", STOPPED) for number in (4, 5)),
    ]
    state = ada.get(f"/uploads/{job}").json
    assert (state["arrived"], state["processed"]) == (4, True)
    shown = run(jobs.jobs, "show", job)
    assert "4 added, 2 rejected" in shown.stdout
    assert f"  4.png: {STOPPED}" in shown.stdout


def test_an_upload_that_is_stopped_before_its_first_file_says_so(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upload, "walk", stopped)
        done = run(upload.upload, collection, folder)
    assert (done.exit_code, lines(done.stderr)) == (130, ["Stopped: nothing was sent."])
    assert ada.get(f"/jobs?collection={collection}").json["jobs"] == []
    monkeypatch.setattr(sending.Sender, "_send_lot", stopped)
    done = run(upload.upload, collection, folder)
    job = the_job(ada, collection)
    assert f"Stopped: nothing was sent, as job {job} lists." in done.stderr
    assert files(ada, job) == [(f"{number}.png", "rejected", STOPPED) for number in range(6)]


def test_a_server_that_does_not_answer_keeps_nobody_who_stops(
    monkeypatch: pytest.MonkeyPatch, run: Run, collection: str, folder: Path
) -> None:
    stop_in(monkeypatch, 2)
    asked: list[float] = []
    once = PatientApi.once

    def away(api: PatientApi, method: str, path: str, **options: Any) -> Any:
        if "timeout" in options:
            asked.append(options["timeout"])
            raise Unreachable("away")
        return once(api, method, path, **options)

    monkeypatch.setattr(PatientApi, "once", away)
    done = run(upload.upload, collection, "--no-index", folder)
    assert "Stopped: at least 2 of 6 files arrived. The server did not answer in time" in done.stderr
    assert len(asked) == 2
    assert max(asked) <= 20


def test_a_second_stop_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    stop_in(monkeypatch, 1)

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sending.Sender, "_before", stopped)
    done = run(upload.upload, collection, "--no-index", folder)
    assert done.exit_code == 130
    assert f"Left at once; job {the_job(ada, collection)} lists what arrived, and nothing else." in done.stderr


def test_the_command_names_the_job_and_its_page(run: Run, ada: Caller, collection: str, folder: Path) -> None:
    done = run(upload.upload, collection, "--no-index", folder)
    job = the_job(ada, collection)
    assert f"Upload {job}: http://retllm.test/jobs/{job}\n" in done.stderr


def test_jobs_show_lists_the_first_rejected_files_and_counts_the_others(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, empty: Path
) -> None:
    monkeypatch.setattr(jobs, "SHOWN_FILES", 2)
    (empty / "all.zip").write_bytes(zipped({f"{number}.png": b"" for number in range(5)} | {"a.txt": b"a wren"}))
    assert run(upload.upload, collection, "--no-index", empty).exit_code == 1
    job = the_job(ada, collection)
    shown = run(jobs.jobs, "show", job)
    assert lines(shown.stdout) == [
        f"upload {job}: succeeded, 100%",
        "1 added, 1 read, 5 rejected",
        "  0.png in all.zip: The file is empty.",
        "  1.png in all.zip: The file is empty.",
        f"  and 3 more rejected; http://retllm.test/jobs/{job} lists all.",
    ]
    answer = json.loads(lines(run(jobs.jobs, "show", job, "--json").stdout)[0])
    assert (answer["id"], answer["counts"]) == (job, {"added": 1, "rejected": 5, "read": 1})
    assert [file["name"] for file in answer["rejected"]] == ["0.png", "1.png"]


def test_jobs_retry_tries_the_rejected_files_again_that_are_kept(
    run: Run, ada: Caller, served: Services, collection: str, empty: Path
) -> None:
    (empty / "long.txt").write_text("a wren in a hedge")
    served.settings.max_text_chars = 5
    assert run(upload.upload, collection, "--no-index", empty).exit_code == 1
    served.settings.max_text_chars = 100
    job = the_job(ada, collection)
    assert run(jobs.jobs, "retry", job).exit_code == 0
    assert files(ada, job) == [("long.txt", "added", None)]


def test_every_file_has_one_entry_also_those_that_hold_others(
    run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    captions = b"file,caption\n0.png,dark\n"
    content = zipped({"0.png": picture("red"), "captions.csv": captions})
    (folder / "all.zip").write_bytes(content)
    (folder / "captions.csv").write_bytes(captions)
    done = run(upload.upload, collection, "--no-index", "--json", folder)
    told = json.loads(lines(done.stdout)[0])["files"]
    assert {(file["within"], file["name"]): file["status"] for file in told} == {
        **{(None, f"{number}.png"): "added" for number in range(6)},
        (None, "all.zip"): "read",
        (None, "captions.csv"): "read",
        ("captions.csv", "captions.csv, row 2"): "updated",
        ("all.zip", "0.png"): "added",
        ("all.zip", "captions.csv"): "read",
        ("all.zip/captions.csv", "captions.csv, row 2"): "updated",
    }
    assert len(told) == 12
