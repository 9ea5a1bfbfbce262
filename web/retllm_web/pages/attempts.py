"""The units of a job one by one, with why they failed."""

from __future__ import annotations

from uuid import UUID

from flask import render_template, request
from flask.typing import ResponseReturnValue

from retllm.access import job_for
from retllm.db.enums import Stage, UnitState
from retllm.db.session import transaction
from retllm.errors import NotFound
from retllm.jobs import views
from retllm.jobs.attempts import AttemptView, Place, attempts
from retllm_web.auth import current_user
from retllm_web.pages.blueprint import pages
from retllm_web.pages.job import may_change
from retllm_web.services import services

# each may carry a traceback of 20 kB
_PAGE = 50
# a number of PostgreSQL's type integer
_LARGEST = 2**31 - 1


def _place(text: str | None) -> Place | None:
    """Where a page begins, out of an address such as ``fine.12``.

    Raises:
        NotFound: no unit can stand there.
    """
    if not text:
        return None
    stage, _, seq = text.partition(".")
    if stage not in {one.value for one in Stage} or not seq.isascii() or not seq.isdigit() or int(seq) > _LARGEST:
        raise NotFound("There is no such page.")
    return Stage(stage), int(seq)


def _named(unit: AttemptView) -> str:
    return f"{unit.stage}.{unit.seq}"


@pages.get("/jobs/<uuid:job_id>/attempts")
def job_attempts(job_id: UUID) -> ResponseReturnValue:
    """The units of a job, a page at a time; the state that is asked for is in the address."""
    state = next((one for one in UnitState if one.value == request.args.get("state")), None)
    after = _place(request.args.get("after"))
    with transaction(services().sessions) as session:
        found = job_for(session, current_user(), job_id)
        changes = may_change(session, found)
        rows = attempts(session, current_user(), job_id, state=state, after=after, limit=_PAGE + 1, traced=changes)
        job = views.job_view(session, found)
    counts = {one: sum(stage.units.get(one, 0) for stage in job.stages) for one in UnitState}
    following = _named(rows[_PAGE - 1]) if len(rows) > _PAGE else None
    return render_template(
        "attempts.html",
        job=job,
        attempts=rows[:_PAGE],
        counts=counts,
        state=state,
        after=after,
        next=following,
        may_change=changes,
    )
