"""The units of a job."""

from __future__ import annotations

from typing import Annotated

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.db.enums import UnitState
from retllm.db.session import transaction
from retllm.history.attempts import UNIT_POSITION, AttemptView, attempts, name_of, position_of
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api
from retllm_web.api.jobs import TAGS, JobPath
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import LIMIT, MAX, optional
from retllm_web.http.services import services


class AttemptQuery(BaseModel):
    """Which units of a job to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=LIMIT, ge=1, le=MAX, description="maximum of units per page")
    after: Annotated[str, StringConstraints(pattern=UNIT_POSITION)] | None = optional("`next` of the previous page")
    state: UnitState | None = optional("only units in this state")


class AttemptList(BaseModel):
    """A page of the units of a job, by stage and number."""

    attempts: list[AttemptView]
    next: str | None = Field(description="pass as `after` to get the next page; null on the last page")


@api.get("/jobs/<uuid:job_id>/attempts", tags=TAGS, responses={200: AttemptList})
def list_attempts(path: JobPath, query: AttemptQuery) -> Response:
    """List the units of a job with their workers, attempts and errors. Only editors get tracebacks."""
    after = position_of(query.after) if query.after else None
    with transaction(services().sessions) as session:
        rows = attempts(
            session, current_actor(), path.job_id, state=query.state, after=after, limit=query.limit + 1, traced=True
        )
    shown = rows[: query.limit]
    return answer(AttemptList(attempts=shown, next=name_of(shown[-1]) if len(rows) > query.limit else None))
