"""Submission of imports that a worker does: an upload with a unit that lists the place and gives its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import Role, Stage
from retllm.db.jobs import Unit
from retllm.errors import Conflict
from retllm.identity.access import require_role
from retllm.identity.actor import Actor
from retllm.imports.allowing import allowed
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted
from retllm.settings import Settings
from retllm.uploads.submit import IMPORT, open_upload


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        address: a folder of the machines of the platform, or ``s3://BUCKET/PREFIX/``.
        reference: whether originals stay where they lie, and are not copied.
        index, texts: as of an upload.
        retry_rejected: whether files that were rejected before and have not changed are taken too.
    """

    address: str
    reference: bool = False
    index: bool = True
    texts: bool = False
    retry_rejected: bool = False


def submit_import(
    session: Session,
    actor: Actor,
    collection_id: UUID,
    asked: ImportRequest,
    settings: Settings,
    idempotency_key: str | None = None,
) -> Submitted:
    """Submit an import into a collection; workers read the place, which they have to reach.

    Raises:
        NotFound: the collection does not exist.
        Forbidden: this account is no administrator's, or the place may not be imported.
        InvalidInput: it is neither a folder nor a prefix of a bucket.
        Conflict: the idempotency key belongs to a different request.
    """
    require_role(actor, Role.ADMIN)
    with allowed(asked.address, settings.import_roots):
        pass
    opened = open_upload(
        session,
        actor,
        collection_id,
        settings,
        index=asked.index,
        texts=asked.texts,
        idempotency_key=idempotency_key,
    )
    # in the unit and not in the job, which all who see the collection see
    wanted = {"address": asked.address, "reference": asked.reference, "retry_rejected": asked.retry_rejected}
    payload: dict[str, Any] = {"items": [], IMPORT: wanted}
    if opened.created:
        return Submitted(opened.job, lifecycle.append_units(session, opened.job, Stage.MEDIA, [payload]), created=True)
    earlier = sa.select(Unit.payload).where(Unit.job_id == opened.job.id, Unit.payload.has_key(IMPORT))
    if session.scalar(earlier) != payload:
        raise Conflict("This Idempotency-Key was used for a different request.", job_id=str(opened.job.id))
    return opened
