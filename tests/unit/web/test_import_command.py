"""`retllm import` opens its upload through the API, with the rights of the token, and says what became of each file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller

from retllm.cli import folder_import
from retllm.db.session import Sessions
from retllm.errors import Conflict, Forbidden, NotFound
from retllm.history import control
from retllm.imports import sending
from retllm_web.http.services import Services

Import = Callable[..., Result]


@pytest.fixture
def imported(run: Run, served: Services, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Runs `retllm import` of a folder of six pictures into the collection `album`, in this process."""

    @contextmanager
    def database(_: Any) -> Iterator[Sessions]:
        yield served.sessions

    settings = served.settings.model_copy(update={"import_roots": (str(folder.parent),)})
    monkeypatch.setattr(folder_import, "database", database)
    monkeypatch.setattr(folder_import, "Settings", lambda: settings)
    monkeypatch.setattr(folder_import, "notifier", lambda _: served.notifier.notify)
    monkeypatch.setattr("retllm.private.keep_private", lambda _: None)
    return lambda *options: run(folder_import.import_folder, folder, "--to", "album", "--no-index", *options)


def told(done: Result) -> list[str]:
    return lines(done.stdout)


def names(ada: Caller) -> list[str]:
    (collection,) = (row for row in ada.get("/collections").json["collections"] if row["name"] == "album")
    return sorted(item["name"] for item in ada.get(f"/collections/{collection['id']}/items").json["items"])


def test_a_folder_is_imported_by_a_job_of_the_account_and_again_when_something_changed(
    imported: Import, folder: Path, ada: Caller
) -> None:
    done = imported()
    assert (done.exit_code, told(done)) == (0, ["album: 6 added."])
    (job,) = ada.get("/jobs").json["jobs"]
    assert (job["kind"], job["state"], job["user_name"]) == ("upload", "succeeded", "ada")
    assert job["files"]["first"] == "folder"
    assert told(imported()) == ["album: nothing new."]
    (folder / "0.png").rename(folder / "moved.png")
    (folder / "1.png").unlink()
    advice = "What came of them stays; --remove-missing deletes it."
    assert told(imported()) == ["album: 1 duplicate.", f"Gone: 2 files. {advice}"]
    assert len(names(ada)) == 6
    assert told(imported("--remove-missing")) == ["album: nothing new.", "Gone: 2 files.", "Deleted: 1 item."]
    assert names(ada) == [f"folder/{n}.png" for n in (0, 2, 3, 4, 5)]
    assert told(imported("--remove-missing")) == ["album: nothing new."]


def test_rejected_files_are_told_with_the_reason_and_once(imported: Import, folder: Path) -> None:
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:40])
    (folder / "out").symlink_to("/")
    done = imported()
    assert done.exit_code == 1
    assert told(done) == ["album: 6 added, 1 ignored, 1 rejected."]
    assert "folder/bad.png: " in done.stderr
    assert "folder/out: Left out: the link leads out of the folder." in done.stderr
    done = imported()
    assert (done.exit_code, told(done)) == (0, ["album: nothing new."])
    assert imported("--retry-rejected").exit_code == 1


def test_programs_get_what_was_found_and_what_became_of_it(imported: Import, folder: Path) -> None:
    (line,) = told(imported("--json"))
    answer = json.loads(line)
    assert answer["found"] == {"files": 6, "new": 6, "changed": 0, "gone": 0}
    assert (answer["counts"], answer["removed"], answer["left_out"]) == ({"added": 6}, 0, [])
    assert [job["state"] for job in answer["jobs"]] == ["succeeded"]


def test_a_collection_of_others_is_not_changed(
    imported: Import, ada: Caller, bob: Caller, run: Run, folder: Path
) -> None:
    album = bob.post("/collections", json={"name": "of bob"}).json["id"]
    with pytest.raises(NotFound, match="no collection with the id"):
        run(folder_import.import_folder, folder, "--to", album)
    with pytest.raises(Forbidden, match="may not be imported"):
        run(folder_import.import_folder, folder.parent.parent, "--to", "album")


def test_a_job_that_is_cancelled_ends_the_command_and_a_later_one_goes_on(
    imported: Import, ada: Caller, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sending.Import._store

    def cancel(self: sending.Import, job_id: Any, *arguments: Any) -> None:
        with served.sessions() as session, session.begin():
            control.cancel_job(session, ada.user, job_id)
        store(self, job_id, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sending.Import, "_store", cancel)
        with pytest.raises(folder_import.Unfinished, match="was cancelled"):
            imported()
    assert told(imported()) == ["album: 6 added."]


def test_an_upload_that_was_closed_meanwhile_is_followed_by_another(
    imported: Import, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce = sending.Import.announce
    closed = []

    def close(self: sending.Import, job_id: Any) -> None:
        announce(self, job_id)
        if not closed:
            closed.append(job_id)
            ada.post(f"/uploads/{job_id}/close")

    monkeypatch.setattr(sending.Import, "announce", close)
    done = imported()
    assert (done.exit_code, told(done)) == (0, ["album: 6 added."])
    assert len(ada.get("/jobs").json["jobs"]) == 2


def test_ctrl_c_leaves_the_rest_for_the_next_command(
    imported: Import, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sending, "_BATCH_FILES", 2)
        record, calls = sending._record, []

        def stop(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return record(*arguments, **options)

        patch.setattr(sending, "_record", stop)
        done = imported()
    assert done.exit_code == 130
    assert "Run the same command again" in done.stderr
    (job,) = ada.get("/jobs").json["jobs"]
    assert job["files"]["counts"] == {"added": 2, "not_sent": 4}
    assert told(imported()) == ["album: 4 added."]


def test_a_command_that_stays_imports_again_and_survives_a_failure(
    imported: Import, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            for file in folder.iterdir():
                file.rename(folder.parent / file.name)
        elif len(waited) == 2:
            (folder.parent / "0.png").rename(folder / "again.png")
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(folder_import.time, "sleep", sleep)
    done = imported("--every", "10m")
    assert (done.exit_code, waited) == (130, [600.0, 600.0, 600.0])
    assert told(done)[:2] == ["album: 6 added.", "album: 1 duplicate."]
    assert "is its drive mounted?" in done.stderr


@pytest.mark.parametrize(
    "error", [sa.exc.OperationalError("SELECT 1", {}, Exception("the server is away")), OSError("the server is away")]
)
def test_a_command_that_stays_survives_a_database_or_drive_that_is_away(
    imported: Import, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scan = folder_import._Command._scan
    runs: list[int] = []

    def second_fails(self: folder_import._Command) -> Any:
        runs.append(len(runs))
        if len(runs) == 2:
            raise error
        return scan(self)

    def sleep(_: float) -> None:
        if len(runs) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(folder_import._Command, "_scan", second_fails)
    monkeypatch.setattr(folder_import.time, "sleep", sleep)
    done = imported("--every", "10m")
    assert (done.exit_code, told(done)) == (130, ["album: 6 added.", "album: nothing new."])
    assert "the server is away" in done.stderr


@pytest.mark.parametrize("time", ["0s", "10", "m", "1.5h", "-1m"])
def test_a_time_has_a_number_and_a_unit(imported: Import, time: str) -> None:
    done = imported("--every", time)
    assert (done.exit_code, "write 90s, 10m, 2h or 1d" in done.stderr) == (2, True)


def test_a_folder_that_another_command_imports_is_left_to_it(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def taken(*_: Any) -> Iterator[None]:
        raise Conflict("Another command is importing it.")
        yield

    monkeypatch.setattr("retllm.imports.scanning.alone", taken)
    with pytest.raises(Conflict, match="Another command"):
        imported()
