"""The outcome of a large file of which only a part came says why, as far as its sender knew."""

from __future__ import annotations

import pytest
from tests.unit.uploads.conftest import Uploads

from retllm.db.enums import FileStatus
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.db.uploads import FilePart, LargeFile
from retllm.errors import NotSent, Unsendable
from retllm.media.outcomes import FileOutcome, not_sent, rejected
from retllm.uploads import unsent

NAME = "big.zip"


@pytest.mark.parametrize("parts", [0, 1])
@pytest.mark.parametrize(
    ("noted", "status", "reason"),
    [
        (rejected(NAME, Unsendable("It was changed meanwhile.")), FileStatus.REJECTED, "It was changed meanwhile."),
        (not_sent(NAME, NotSent("Not sent: Stopped.")), FileStatus.NOT_SENT, None),
        (None, FileStatus.NOT_SENT, None),
    ],
    ids=["could not be read", "stopped", "left"],
)
def test_a_file_that_its_sender_could_not_read_to_its_end_is_rejected(
    uploads: Uploads, noted: FileOutcome | None, status: FileStatus, reason: str | None, parts: int
) -> None:
    job_id = uploads.open(index=False)
    with transaction(uploads.world.sessions) as session:
        unsent.expect(session, job_id, 0, [NAME])
        key, collection = new_id(), uploads.world.collection_id
        large = LargeFile(id=key, job_id=job_id, collection_id=collection, name=NAME, size_bytes=9 << 20, sha256="0")
        session.add(large)
        session.flush()
        for _ in range(parts):
            session.add(FilePart(large_file_id=key, start=0, size_bytes=4 << 20, file_key="parts/0"))
        if noted is not None:
            unsent.note(session, job_id, [noted])
    uploads.close(job_id)
    (row,) = uploads.rows(job_id).values()
    assert row.status is status
    came = "only 4.2 MB of 9.4 MB arrived" if parts else "Not sent: "
    assert reason == row.error if reason else came in str(row.error)
