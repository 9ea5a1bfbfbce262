"""Jobs: the list, an index job with its progress, a search with its result."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.access import collection_for, job_for
from retllm.db.enums import JobKind, JobState
from retllm.db.session import transaction
from retllm.errors import RetllmError
from retllm.jobs import views
from retllm_web import catalog, submissions
from retllm_web.api.paging import cut
from retllm_web.auth import current_user
from retllm_web.pages.asking import form_of
from retllm_web.pages.blueprint import key_or_none, pages, refused
from retllm_web.services import services

_JOBS = 30
# collections that the filter of the list offers
_OFFERED = 200

Choice = TypeVar("Choice", bound=StrEnum)


def _choice(kind: type[Choice], text: str | None) -> Choice | None:
    """A member by its value; anything else filters nothing."""
    return next((one for one in kind if one.value == text), None)


@pages.get("/jobs")
def jobs() -> ResponseReturnValue:
    """The jobs that this account may see; the filters are in the address."""
    kind = _choice(JobKind, request.args.get("kind"))
    state = _choice(JobState, request.args.get("state"))
    collection_id = key_or_none(request.args.get("collection"), "collection")
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        rows = views.list_jobs(
            session, current_user(), kind=kind, state=state, collection_id=collection_id, after=after, limit=_JOBS + 1
        )
        page, following = cut(rows, _JOBS)
        shown = views.job_views(session, page)
        offered = catalog.page(session, current_user(), after=None, limit=_OFFERED)
        if collection_id is not None and all(one.id != collection_id for one in offered):
            offered.append(collection_for(session, current_user(), collection_id))
    chosen = {"kind": kind, "state": state, "collection": collection_id}
    return render_template(
        "jobs.html",
        jobs=shown,
        next=following,
        after=after,
        collections=offered,
        chosen=chosen,
        address={name: str(value) for name, value in chosen.items() if value},
    )


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
    """The part of a job's page that changes while it is at work."""
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
