"""The units of a job with their attempts and errors."""

from __future__ import annotations

from uuid import UUID

from flask import render_template, request
from flask.typing import ResponseReturnValue

from retllm.db.enums import UnitState
from retllm.db.session import transaction
from retllm.history.attempts import attempts, name_of, position_of
from retllm.history.job_views import job_view
from retllm.identity.access import job_for
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages

# a unit's traceback may have 20 kB
_PAGE = 50


@pages.get("/jobs/<uuid:job_id>/attempts")
def job_attempts(job_id: UUID) -> ResponseReturnValue:
    """Show a page of the units of a job; the address may name a state."""
    state = next((state for state in UnitState if state.value == request.args.get("state")), None)
    position = request.args.get("after")
    after = position_of(position) if position else None
    with transaction(services().sessions) as session:
        found = job_for(session, current_actor(), job_id)
        rows = attempts(session, current_actor(), job_id, state=state, after=after, limit=_PAGE + 1, traced=True)
        job = job_view(session, found)
    counts = {each: sum(stage.units.get(each, 0) for stage in job.stages) for each in UnitState}
    following = name_of(rows[_PAGE - 1]) if len(rows) > _PAGE else None
    return render_template(
        "attempts.html",
        job=job,
        attempts=rows[:_PAGE],
        counts=counts,
        state=state,
        after=after,
        next=following,
    )
