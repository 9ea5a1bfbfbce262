"""What is said of an upload while its files are processed."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy.orm import Session
from tests.unit.uploads.conftest import Uploads, picture

from retllm.db.enums import FileStatus
from retllm.history.file_counts import FileCounts, file_counts
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
