"""What is said of an upload while its files are processed."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy.orm import Session
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.enums import FileStatus
from retllm.history.file_counts import FileCounts, file_counts
from retllm.history.job_views import job_view
from retllm.uploads import views


def test_an_upload_is_processed_only_with_its_final_counts(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = uploads.open(index=False)
    uploads.send(job_id, {"a.png": picture(1)})
    uploads.close(job_id)

    def then_processed(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, FileCounts]:
        counts = file_counts(session, job_ids)
        uploads.run(job_id)
        return counts

    monkeypatch.setattr(views, "file_counts", then_processed)
    with uploads.world.sessions() as session:
        state = views.upload_state(session, job_id)
        assert state is not None
        assert (state.processed, state.counts) == (False, {FileStatus.WAITING: 1})
        state = views.upload_state(session, job_id)
        assert state is not None
        assert (state.processed, state.counts) == (True, {FileStatus.ADDED: 1})


@pytest.mark.parametrize("index", [False, True])
def test_files_to_come_count_as_work(uploads: Uploads, index: bool) -> None:
    job_id = uploads.open(index=index, expected=4)

    def seen() -> tuple[float, int]:
        with uploads.world.sessions() as session:
            view = job_view(session, uploads.world.job(job_id))
        assert view.files is not None
        return view.progress, view.files.to_come

    assert seen() == (0.0, 4)
    uploads.send(job_id, {"a.png": picture(1)})
    uploads.run(job_id)
    assert seen() == (0.25, 3)
    uploads.send(job_id, {"b.png": picture(2), "notes.zip": packed({f"{n}.png": picture(n) for n in range(3, 6)})})
    assert seen()[1] == 1
    uploads.close(job_id)
    uploads.run(job_id)
    assert seen() == (1.0, 0)
