"""The text in the pictures of a collection: let a job read it, and tell how far it is. Shared by API and pages."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from retllm.history.job_views import JobView
from retllm.identity.actor import Actor
from retllm.ocr.reader import INSTALL, is_installed
from retllm.ocr.submit import submit_ocr
from retllm.ocr.views import COUNTED, State
from retllm_web.actions import submissions


class OcrView(BaseModel):
    """How far the text in the pictures of a collection is read."""

    chosen_at: datetime | None = Field(description="when somebody first asked for it; null if nobody did")
    job_id: UUID | None = Field(description="the newest job that reads it; null if there is none (any more)")
    unread: int = Field(description="how many pictures nobody has read, also those that can't be read")
    unread_is_exact: bool = Field(description=f"false if `unread` is {COUNTED:,} because there are more")
    notice: str | None = Field(description="what keeps pictures from being read, as far as this server knows")


def read(actor: Actor, collection_id: UUID, *, again: bool = False, idempotency_key: str | None = None) -> JobView:
    """Submit a job that reads the text in the pictures of a collection.

    Raises:
        NotFound, Forbidden: ``actor`` may not change the collection.
        Conflict: it is empty, such a job is not over yet, or the idempotency key belongs to another request.
    """
    return submissions.submit(
        actor,
        lambda session: submit_ocr(session, actor, collection_id, again=again, idempotency_key=idempotency_key),
    )


def ocr_view(state: State) -> OcrView:
    """Return a state as the API and the pages show it."""
    return OcrView(
        chosen_at=state.chosen_at,
        job_id=state.job.id if state.job else None,
        unread=min(state.unread, COUNTED),
        unread_is_exact=state.unread <= COUNTED,
        notice=None if is_installed() else _NOT_INSTALLED,
    )


_NOT_INSTALLED = (
    f"The packages that read text are not installed on this server: its operator runs {INSTALL} where the media "
    "workers run, and starts these again."
)
