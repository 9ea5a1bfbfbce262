"""`retllm upload` that ends before all files are sent says why in one sentence, and its exit status is 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.web.commands import Run, lines, the_job
from tests.unit.web.conftest import Caller

from retllm.cli import jobs, main, sending, upload
from retllm.cli.patience import PatientApi, Unreachable
from retllm.errors import StorageFull
from retllm_web.actions import uploads


@pytest.fixture
def collection(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Broken off"}).json["id"])


def break_off(monkeypatch: pytest.MonkeyPatch, ada: Caller, collection: str, how: str, after: int) -> None:
    """Let something go wrong when the command has sent so many requests of two files."""
    monkeypatch.setattr(sending, "_REQUEST_FILES", 2)
    once, sent = PatientApi.once, 0

    def full(*_: Any, **__: Any) -> None:
        raise StorageFull

    def broken(api: PatientApi, method: str, path: str, **options: Any) -> Any:
        nonlocal sent
        sent += path.endswith("/files")
        if sent > after and how == "the server is away":
            raise Unreachable("The network is away.")
        if sent > after and how == "the job is cancelled":
            ada.post(f"/jobs/{the_job(ada, collection)}/cancel")
        if sent > after and how == "the storage is full":
            monkeypatch.setattr(uploads, "receive_batch", full)
        return once(api, method, path, **options)

    monkeypatch.setattr(PatientApi, "once", broken)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("how", "after", "told"),
    [
        ("the server is away", 1, "The server was away for 0 seconds: The network is away. At least 2 of 6 files"),
        ("the server is away", 0, "The server was away for 0 seconds: The network is away. It confirmed none of 6"),
        ("the job is cancelled", 1, "Job {job} was cancelled: 2 of 6 files had arrived."),
        ("the job is cancelled", 0, "Job {job} was cancelled: 0 of 6 files had arrived."),
        ("the storage is full", 1, "The storage is full: ask the administrator to free space, then try again."),
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_exit_status_is_1_whatever_ended_the_upload(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    ada: Caller,
    collection: str,
    folder: Path,
    how: str,
    after: int,
    told: str,
    form: str,
) -> None:
    break_off(monkeypatch, ada, collection, how, after)
    options = ["--json"] if form == "json" else []
    with pytest.raises(SystemExit) as ended:
        main.main(["upload", collection, "--no-index", "--patience", "0", *options, str(folder)])
    assert ended.value.code == 1
    output = capfd.readouterr()
    sentence = told.format(job=the_job(ada, collection))
    assert f"retllm: {sentence}" in output.err
    if form == "json":
        error = json.loads(lines(output.out)[-1])["error"]
        assert error["message"].startswith(sentence)
        codes = {
            "the server is away": "gave_up",
            "the job is cancelled": "conflict",
            "the storage is full": "storage_full",
        }
        assert error["code"] == codes[how]


def test_a_cancelled_upload_says_how_to_go_on_and_a_retry_does(
    monkeypatch: pytest.MonkeyPatch, run: Run, ada: Caller, collection: str, folder: Path
) -> None:
    break_off(monkeypatch, ada, collection, "the job is cancelled", 1)
    with pytest.raises(upload.Unfinished) as ended:
        run(upload.upload, collection, "--no-index", folder)
    job = the_job(ada, collection)
    assert f"`retllm jobs retry {job}` goes on with those that arrived. Run the same command again" in str(ended.value)
    assert run(jobs.jobs, "retry", job).exit_code == 0
