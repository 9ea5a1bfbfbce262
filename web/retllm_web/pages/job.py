"""One job: an index job with its progress, or a search with its result, and the actions on it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import OPEN_UNITS, JobKind
from retllm.db.session import transaction
from retllm.errors import RetllmError
from retllm.history.attempts import attempts, may_change
from retllm.history.job_etag import job_etag
from retllm.history.job_views import JobView, job_view
from retllm.identity.access import job_for
from retllm.queue import pauses
from retllm.queue.notifications import QUEUE_OF
from retllm.queue.pauses import Pause
from retllm.search.views import search_view
from retllm_web.actions import submissions
from retllm_web.http import conditional
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.search_form import form_of
from retllm_web.render.timeline import timeline

# units on the page of a job; another page shows all of them
_ATTEMPTS = 10


def _shown(job_id: UUID) -> dict[str, Any]:
    """Return the template variables of a job; ``search`` is None for an index job."""
    with transaction(services().sessions) as session:
        found = job_for(session, current_actor(), job_id)
        search = (
            search_view(session, job_id, services().settings, actor=current_actor())
            if found.kind is JobKind.SEARCH
            else None
        )
        job = search.job if search else job_view(session, found)
        return {
            "job": job,
            "search": search,
            "steps": timeline(job, search),
            "attempts": attempts(session, current_actor(), job_id, limit=_ATTEMPTS + 1),
            "attempts_shown": _ATTEMPTS,
            "may_change": may_change(session, current_actor(), found),
            "pauses": _pauses(session, job),
        }


def _pauses(session: Session, job: JobView) -> list[Pause]:
    """Return the pauses of the queues that this job waits for."""
    queues = {QUEUE_OF[stage.stage] for stage in job.stages if any(stage.units.get(state) for state in OPEN_UNITS)}
    if not queues:
        return []
    return [pause for name, pause in pauses.paused(session).items() if name in queues]


@pages.get("/jobs/<uuid:job_id>")
def job(job_id: UUID) -> ResponseReturnValue:
    """Show one job."""
    shown = _shown(job_id)
    form = form_of(shown["search"]) if shown["search"] else None
    return render_template("job.html", **shown, again=form, settings=services().settings)


@pages.get("/jobs/<uuid:job_id>/live")
def job_live(job_id: UUID) -> ResponseReturnValue:
    """Return the live part of a job's page; 304 if nothing changed."""
    with transaction(services().sessions) as session:
        values = job_etag(session, current_actor(), job_id)
    if (same := conditional.unchanged(*values)) is not None:
        return same
    return render_template("_job_live.html", **_shown(job_id))


@pages.post("/jobs/<uuid:job_id>/cancel")
def cancel_job(job_id: UUID) -> ResponseReturnValue:
    """Request the cancellation of a job."""
    here = url_for("pages.job", job_id=job_id)
    try:
        submissions.cancel(current_actor(), job_id)
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)


@pages.post("/jobs/<uuid:job_id>/retry")
def retry_job(job_id: UUID) -> ResponseReturnValue:
    """Retry the dead and cancelled units of a job."""
    here = url_for("pages.job", job_id=job_id)
    try:
        submissions.retry(current_actor(), job_id)
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)
