"""One job: an index job with its progress, a search with its result, and what may be done with it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from retllm.access import job_for
from retllm.db.enums import JobKind
from retllm.db.session import transaction
from retllm.errors import RetllmError
from retllm.jobs import views
from retllm.jobs.stamps import job_stamp
from retllm_web import live, submissions
from retllm_web.auth import current_user
from retllm_web.pages.asking import form_of
from retllm_web.pages.blueprint import pages, refused
from retllm_web.services import services


def _shown(job_id: UUID) -> dict[str, Any]:
    """What the templates of a job need: ``job``, and ``search`` if it is one."""
    with transaction(services().sessions) as session:
        found = job_for(session, current_user(), job_id)
        if found.kind is JobKind.SEARCH:
            search = views.search_view(session, job_id, user=current_user())
            return {"job": search.job, "search": search}
        return {"job": views.job_view(session, found), "search": None}


@pages.get("/jobs/<uuid:job_id>")
def job(job_id: UUID) -> ResponseReturnValue:
    """One job."""
    shown = _shown(job_id)
    form = form_of(shown["search"]) if shown["search"] else None
    return render_template("job.html", **shown, again=form, settings=services().settings)


@pages.get("/jobs/<uuid:job_id>/live")
def job_live(job_id: UUID) -> ResponseReturnValue:
    """The part of a job's page that changes while it is at work; 304 if nothing did."""
    with transaction(services().sessions) as session:
        stamp = job_stamp(session, current_user(), job_id)
    if (same := live.unchanged(*stamp)) is not None:
        return same
    return render_template("_job_live.html", **_shown(job_id))


@pages.post("/jobs/<uuid:job_id>/cancel")
def cancel_job(job_id: UUID) -> ResponseReturnValue:
    """Ask for the end of a job."""
    here = url_for("pages.job", job_id=job_id)
    try:
        submissions.cancel(current_user(), job_id)
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)


@pages.post("/jobs/<uuid:job_id>/retry")
def retry_job(job_id: UUID) -> ResponseReturnValue:
    """Give what failed of a job new attempts."""
    here = url_for("pages.job", job_id=job_id)
    try:
        submissions.retry(current_user(), job_id)
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)
