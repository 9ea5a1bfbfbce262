"""Archives of which the whole has to be read are read once, and kept in a form that is read with less work."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from tests.unit.media.handmade_tars import tarred
from tests.unit.media.samples import picture as noisy
from tests.unit.media.test_cut_archives import streamed
from tests.unit.uploads.conftest import Uploads, packed, picture
from tests.unit.uploads.test_retry import retry

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.errors import JobCancelled
from retllm.history.file_counts import file_counts
from retllm.media import tars
from retllm.media.storage import Storage
from retllm.queue.audit_files import orphans, wrong_files
from retllm.queue.claim import Lease
from retllm.uploads.kept import drop_old
from retllm.uploads.views import has_kept_rejected

PICTURES = {f"{n}.png": picture(n) for n in range(6)}
FILES = {**PICTURES, "captions.csv": b"file,caption\n0.png,first\n5.png,last\n", "0.txt": b"not used"}


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retllm.uploads.archive_files.UNIT_ENTRIES", 2)


@pytest.fixture
def unpackings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """Counts how often a compressed tar is unpacked."""
    counted = Mock(side_effect=tars._decompressed)
    monkeypatch.setattr(tars, "_decompressed", counted)
    return counted


@pytest.mark.usefixtures("small_units")
def test_a_compressed_tar_is_unpacked_once(uploads: Uploads, unpackings: Mock) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.tar.gz": gzip.compress(tarred(FILES))})
    uploads.close(job_id)
    (unit,) = uploads.ready(job_id)
    assert uploads.do(unit)
    (key,) = uploads.stored("uploads/")
    row = uploads.rows(job_id)["a.tar.gz"]
    assert row.file_key == key
    with uploads.context.storage.open(key) as stream:
        assert stream.read() == tarred(FILES)
    _check_files(uploads)
    uploads.run(job_id)
    assert unpackings.call_count == 1
    assert len(uploads.world.units(job_id)) > 4
    texts = {name: item.text for name, item in uploads.items().items()}
    assert texts == dict.fromkeys(PICTURES) | {"0.png": "first", "5.png": "last"}
    assert uploads.stored("uploads/") == []
    uploads.check()


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "ZIP", "streamed ZIP"])
@pytest.mark.usefixtures("small_units")
def test_the_whole_files_of_a_cut_archive_go_in(kind: str, uploads: Uploads) -> None:
    noise = {f"{n}.png": noisy(n) for n in range(4)}
    data = {
        "tar.gz": lambda: gzip.compress(tarred(noise)),
        "tar": lambda: tarred(noise),
        "ZIP": lambda: packed(noise),
        "streamed ZIP": lambda: streamed(noise),
    }[kind]()
    job_id = uploads.upload({"a": data[: len(data) * 3 // 4]}, index=False)
    added = list(uploads.items())
    assert added == list(noise)[: len(added)]
    assert 0 < len(added) < 4
    rest = uploads.rows(job_id)["a, the rest"]
    files = "1 whole file was" if len(added) == 1 else f"{len(added)} whole files were"
    assert (rest.status, rest.error) == (
        FileStatus.REJECTED,
        f"The archive was cut off or is damaged: {files} read, up to '{added[-1]}'; what follows is missing. Send it "
        "again complete.",
    )
    with uploads.world.sessions() as session:
        counts = file_counts(session, [job_id])[job_id]
        assert not has_kept_rejected(session, job_id)
    assert (counts.counts, counts.parts) == ({"added": len(added), "read": 1, "rejected": 1}, {})
    uploads.check()
    assert uploads.stored("uploads/") == []


def test_a_refused_file_of_a_compressed_tar_is_read_again_from_the_kept_form(
    uploads: Uploads, unpackings: Mock
) -> None:
    files = {**PICTURES, "b.png": b"\x89PNG\r\n\x1a\n..."}
    job_id = uploads.upload({"a.tgz": gzip.compress(tarred(files))}, index=False)
    assert uploads.statuses(job_id)["b.png"] is FileStatus.REJECTED
    assert [key[-9:] for key in uploads.stored("uploads/")] == [".unpacked"]
    retry(uploads, job_id)
    assert unpackings.call_count == 1
    assert uploads.statuses(job_id)["b.png"] is FileStatus.REJECTED
    uploads.check()
    _drop(uploads, job_id)
    assert uploads.stored("uploads/") == []


def test_what_a_cancelled_attempt_unpacked_goes_with_the_archive(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.tgz": gzip.compress(tarred(PICTURES))})
    (unit,) = uploads.ready(job_id)

    def cancelled(*_: Any) -> None:
        raise JobCancelled

    with monkeypatch.context() as patched:
        patched.setattr("retllm.uploads.archive_files.complete", cancelled)
        uploads.do(unit)
    assert len(uploads.stored("uploads/")) == 2
    _check_files(uploads)
    _drop(uploads, job_id)
    assert uploads.stored("uploads/") == []


def test_the_storing_of_the_other_form_can_be_ended(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.tgz": gzip.compress(tarred(PICTURES))})
    (unit,) = uploads.ready(job_id)
    put = Storage.put

    def ended(storage: Storage, key: str, stream: Any) -> int:
        monkeypatch.setattr(Lease, "check", Mock(side_effect=JobCancelled))
        return put(storage, key, stream)

    monkeypatch.setattr(Storage, "put", ended)
    uploads.do(unit)
    assert len(uploads.stored("uploads/")) == 1


def _check_files(uploads: Uploads) -> None:
    with uploads.world.sessions() as session:
        assert list(wrong_files(session, uploads.context.storage, None)) == []
        assert orphans(session, uploads.context.storage) == []


def _drop(uploads: Uploads, job_id: Any) -> None:
    with transaction(uploads.world.sessions) as session:
        ended = sa.update(Job).where(Job.id == job_id).values(finished_at=sa.func.now() - timedelta(days=9))
        session.execute(ended)
    assert drop_old(uploads.world.sessions, uploads.context.storage, timedelta(days=8)) == 1
