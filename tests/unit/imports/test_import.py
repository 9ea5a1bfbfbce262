"""A folder is imported by uploads, each file once, whatever happens in between; what changes is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.unit.deleting import delete_collection
from tests.unit.imports.conftest import Imports
from tests.unit.uploads.conftest import packed, picture

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.errors import Conflict, InvalidInput
from retllm.history import control
from retllm.imports import sending
from retllm.imports.allowing import allowed
from retllm.imports.folders import LINK_OUT
from retllm.imports.scanning import alone
from retllm.uploads.removal import remove_deleted


def test_a_folder_is_imported_as_an_upload_takes_it(imports: Imports) -> None:
    imports.write(
        a_png=picture(1),
        inner__b_png=picture(2),
        inner__all_zip=packed({"c.png": picture(3)}),
        captions_csv=b"file,caption\na.png,a cat\n",
        words_txt=b"some words",
        bad_png=picture(1)[:40],
        _DS_Store=b"x",
    )
    found = imports.run()
    assert (found.files, found.new, found.changed, found.gone) == (6, 6, 0, 0)
    statuses = imports.statuses()
    assert statuses["Pictures/a.png"] is FileStatus.ADDED
    assert statuses["Pictures/bad.png"] is FileStatus.REJECTED
    assert statuses["Pictures/.DS.Store"] is FileStatus.IGNORED
    assert imports.names() == ["Pictures/a.png", "Pictures/inner/b.png", "Pictures/words.txt", "c.png"]
    assert imports.uploads.items()["Pictures/a.png"].text == "a cat"
    imports.uploads.check()


def test_a_second_run_finds_nothing_and_makes_no_job(imports: Imports) -> None:
    imports.write(a_png=picture(1), bad_png=b"\x89PNG\r\n\x1a\n and no more")
    (imports.path / "out").symlink_to("/")
    imports.run()
    assert not imports.run().has_news
    assert len(imports.jobs) == 1


def test_new_files_are_taken_alone(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    imports.run()
    imports.write(inner__b_png=picture(2))
    assert imports.run().new == 1
    assert imports.statuses() == {"Pictures/inner/b.png": FileStatus.ADDED}


def test_a_file_with_another_content_is_taken_and_one_with_the_same_is_not(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2))
    imports.run()
    imports.write(a_png=picture(3))
    os.utime(imports.at("a_png"), ns=(0, 1))
    os.utime(imports.at("b_png"), ns=(0, 1))
    found = imports.run()
    assert (found.new, found.changed) == (0, 1)
    assert imports.statuses() == {"Pictures/a.png": FileStatus.ADDED}
    assert imports.known()[b"b.png"].changed_ns == 1
    assert imports.names() == ["Pictures/a.png", "Pictures/a.png", "Pictures/b.png"]


def test_what_is_gone_is_told_and_forgotten_by_nobody(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2))
    imports.run()
    content = imports.at("a_png").read_bytes()
    imports.at("a_png").unlink()
    assert imports.run().gone == 1
    assert imports.run().gone == 1
    assert imports.names() == ["Pictures/a.png", "Pictures/b.png"]
    imports.write(a_png=content)
    found = imports.run()
    assert (found.gone, found.changed) == (0, 0)


def test_a_link_out_of_the_folder_is_told_once_and_nothing_behind_it_is_read(imports: Imports, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(9))
    imports.write(a_png=picture(1))
    (imports.path / "secret.png").symlink_to(tmp_path / "secret.png")
    found = imports.run()
    assert (found.files, found.left_out) == (1, 1)
    row = imports.uploads.rows(imports.jobs[0])["Pictures/secret.png"]
    assert (row.status, row.remark, row.sha256) == (FileStatus.IGNORED, LINK_OUT, None)
    assert imports.names() == ["Pictures/a.png"]


def test_a_file_that_can_not_be_read_is_told_once_and_taken_when_it_can(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports.write(a_png=picture(1), b_png=picture(2))
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if path == b"a.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        imports.run()
        row = imports.uploads.rows(imports.jobs[0])["Pictures/a.png"]
        assert (row.status, "Permission denied" in str(row.error)) == (FileStatus.REJECTED, True)
        assert not imports.run().has_news
    assert imports.run().new == 1
    assert imports.names() == ["Pictures/a.png", "Pictures/b.png"]


def test_a_file_that_changes_while_it_is_read_is_refused_alone_and_taken_later(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports.write(a_png=picture(1), b_png=picture(2))
    receive = sending.receive

    def write(storage: Any, job_id: Any, file: Any, settings: Any, **options: Any) -> Any:
        received = receive(storage, job_id, file, settings, **options)
        if file.name.endswith("a.png"):
            imports.write(a_png=picture(3))
            os.utime(imports.at("a_png"), ns=(0, 5))
        return received

    with monkeypatch.context() as patch:
        patch.setattr(sending, "receive", write)
        imports.run()
    assert imports.statuses() == {"Pictures/a.png": FileStatus.REJECTED, "Pictures/b.png": FileStatus.ADDED}
    assert imports.uploads.stored("uploads") == []
    imports.run()
    assert imports.names() == ["Pictures/a.png", "Pictures/b.png"]
    imports.uploads.check()


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def dies() -> Callable[[int], Any]:
    """Kills this process at the n-th commit from now on, before or after it."""

    def at(number: int, moment: str) -> Callable[[], None]:
        commits = [0]

        def die(_: Session) -> None:
            commits[0] += 1
            if commits[0] == number:
                raise Killed

        sa.event.listen(Session, moment, die)
        return lambda: sa.event.remove(Session, moment, die)

    return at


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_a_command_that_is_killed_at_any_point_loses_nothing_and_doubles_nothing(
    imports: Imports, dies: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(sending, "_BATCH_FILES", 2)
    imports.write(**{f"p{n}_png": picture(n) for n in range(5)})
    (imports.path / "out").symlink_to("/")
    for number in range(1, 40):
        stop = dies(number, moment)
        try:
            imports.run()
        except Killed:
            pass
        finally:
            stop()
        end_all(imports)
    imports.run()
    assert imports.names() == [f"Pictures/p{n}.png" for n in range(5)]
    came = [row for job_id in jobs(imports) for row in imports.uploads.rows(job_id).values() if row.sha256]
    assert sorted(row.name for row in came) == imports.names()
    assert {row.status for row in came} == {FileStatus.ADDED}
    imports.uploads.check(left=lambda key: key.startswith("uploads/"))


def jobs(imports: Imports) -> list[UUID]:
    with imports.uploads.world.sessions() as session:
        return list(session.scalars(sa.select(Job.id)))


def end_all(imports: Imports) -> None:
    """Close all uploads, as the server does with those that are left open, and process what came."""
    for job_id in jobs(imports):
        imports.uploads.close(job_id)
        imports.uploads.run(job_id)


def test_what_an_upload_takes_no_more_is_left_for_the_next_one(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    found = imports.scan()
    closed = imports.uploads.open()
    imports.uploads.close(closed)
    with pytest.raises(Conflict, match="takes no more files"):
        imports.sending(found).send(closed, lambda _: None)
    assert imports.uploads.stored("uploads") == []
    assert imports.run().new == 1
    assert imports.names() == ["Pictures/a.png"]


def test_what_a_cancelled_job_did_not_process_is_taken_again(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    job_id = imports.send(imports.scan())
    with transaction(imports.uploads.world.sessions) as session:
        control.cancel_job(session, imports.uploads.world.user, job_id)
    assert imports.statuses() == {"Pictures/a.png": FileStatus.UNPROCESSED}
    assert imports.run().changed == 1
    assert imports.names() == ["Pictures/a.png"]


def test_rejected_files_are_taken_again_if_that_is_asked_for(imports: Imports) -> None:
    imports.write(a_png=picture(1)[:40])
    imports.run()
    assert not imports.run().has_news
    assert imports.run(rejected=True).changed == 1
    assert imports.statuses() == {"Pictures/a.png": FileStatus.REJECTED}


def test_a_file_that_is_too_large_has_the_reason_and_is_not_read(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = imports.uploads.context
    imports.uploads.context = replace(context, settings=context.settings.model_copy(update={"max_file_bytes": 10}))
    imports.write(a_png=picture(1))
    imports.run()
    row = imports.uploads.rows(imports.jobs[0])["Pictures/a.png"]
    assert (row.status, row.error_code, row.file_key) == (FileStatus.REJECTED, "too_large", None)


def test_a_folder_that_became_empty_is_not_believed(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    imports.run()
    imports.at("a_png").unlink()
    with pytest.raises(InvalidInput, match="is its drive mounted"):
        imports.run()
    imports.write(b_png=picture(2))
    assert imports.run().gone == 1


def test_files_in_a_folder_that_can_not_be_read_are_not_gone(imports: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    imports.write(a_png=picture(1), inner__b_png=picture(2), inner__deep__c_png=picture(3), inner2__d_png=picture(4))
    imports.run()
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if path == b"inner":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    imports.at("inner2__d_png").unlink()
    monkeypatch.setattr(os, "open", refuse)
    found = imports.run()
    assert (found.gone, found.rejected) == (1, 1)
    assert imports.statuses() == {"Pictures/inner": FileStatus.REJECTED}


def test_one_command_imports_a_folder_at_a_time(imports: Imports, tmp_path: Path) -> None:
    sessions, collection_id = imports.uploads.world.sessions, imports.uploads.world.collection_id
    (tmp_path / "other").mkdir()
    with alone(sessions, collection_id, imports.folder), allowed(str(tmp_path / "other"), [str(tmp_path)]) as other:
        with pytest.raises(Conflict, match="Another command"), alone(sessions, collection_id, imports.folder):
            pass
        with alone(sessions, collection_id, other):
            pass
    with alone(sessions, collection_id, imports.folder):
        pass


def test_a_collection_is_deleted_with_what_is_known_of_its_folders(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    imports.run()
    world = imports.uploads.world
    delete_collection(world.sessions, imports.uploads.context.storage, world.collection_id)
    remove_deleted(world.sessions, imports.uploads.context.storage)
    assert imports.known() == {}
    assert imports.at("a_png").exists()


def test_a_large_folder_is_listed_in_pieces(imports: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retllm.imports.scanning._BATCH", 3)
    imports.write(**{f"{folder}__{n}_txt": f"{folder} {n}".encode() for folder in "abc" for n in range(4)})
    assert imports.run().new == 12
    assert len(imports.names()) == 12
    assert not imports.run().has_news


def test_an_open_upload_stays_open_while_a_large_file_is_read(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_ALIVE_SECONDS", -1.0)
    job_id = imports.uploads.open()
    with transaction(imports.uploads.world.sessions) as session:
        session.execute(sa.text("UPDATE uploads SET active_at = '2020-01-01'"))
    sending._KeptOpen(imports.uploads.world.sessions, job_id).note(1)
    with imports.uploads.world.sessions() as session:
        assert session.scalar(sa.text("SELECT active_at > now() - interval '1 hour' FROM uploads"))
