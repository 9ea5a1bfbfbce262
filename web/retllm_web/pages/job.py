"""One job: an index job with its progress, or a search with its result, and the actions on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import OPEN_UNITS, FileStatus, JobKind
from retllm.db.session import snapshot, transaction
from retllm.db.state_words import again_words
from retllm.db.tables import Collection, Job
from retllm.errors import RetllmError
from retllm.history.attempts import attempts, may_change
from retllm.history.job_etag import job_etag
from retllm.history.job_views import JobView, job_view
from retllm.identity.access import Right, job_for, right_in
from retllm.queue import pauses
from retllm.queue.pauses import Pause
from retllm.search.results import SearchView
from retllm.search.views import search_view
from retllm.uploads.rest import EarlierRows, Rest, earlier_rows, rest_of
from retllm.uploads.views import (
    FileView,
    UploadState,
    files_with_problems_first,
    has_kept_rejected,
    upload_files,
    upload_state,
)
from retllm_web.actions import same_names, submissions
from retllm_web.http import conditional
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.search_form import form_of
from retllm_web.render.timeline import timeline

# units on the page of a job; another page shows all of them
_ATTEMPTS = 10
# files on one page of an upload
_FILES = 100


def _shown(job_id: UUID) -> dict[str, Any]:
    """Return the template variables of a job; ``search`` and ``upload`` are None for jobs of another kind."""
    with snapshot(services().sessions) as session:
        found = job_for(session, current_actor(), job_id)
        search = (
            search_view(session, job_id, services().settings, actor=current_actor())
            if found.kind is JobKind.SEARCH
            else None
        )
        job = search.job if search else job_view(session, found)
        upload = _upload(session, found) if found.kind is JobKind.UPLOAD else None
        return {
            "job": job,
            "search": search,
            "archives": same_names.archives((row.item_id, row.name, row.archive) for row in search.candidates)
            if search
            else {},
            "upload": upload,
            "steps": timeline(job, search, receiving=upload is not None and upload.state.closed_at is None),
            "attempts": attempts(session, current_actor(), job_id, limit=_ATTEMPTS + 1),
            "attempts_shown": _ATTEMPTS,
            "may_change": may_change(session, current_actor(), found),
            "pauses": _pauses(session, job, search),
            "idle_minutes": max(1, round(services().settings.upload_idle_seconds / 60)),
        }


@dataclass(frozen=True)
class UploadPage:
    """The state of an upload, and a page of its files: of one status, or those with problems first."""

    state: UploadState
    rest: Rest
    earlier: Sequence[EarlierRows]
    status: FileStatus | None
    files: list[FileView]
    after: UUID | None
    next: UUID | None
    may_retry: bool

    @property
    def address(self) -> dict[str, Any]:
        """The filter and the page as arguments of the address."""
        return {"status": self.status, "after": self.after}


def _upload(session: Session, job: Job) -> UploadPage | None:
    state = upload_state(session, job.id)
    if state is None:
        return None
    status = next((status for status in FileStatus if status.value == request.args.get("status")), None)
    after = key_or_none(request.args.get("after"), "page")
    if status is None:
        rows = files_with_problems_first(session, job.id, after=after, limit=_FILES + 1)
    else:
        rows = upload_files(session, job.id, statuses=[status], after=after, limit=_FILES + 1)
    files, following = cut(rows, _FILES)
    collection = session.get_one(Collection, job.collection_id)
    right = right_in(session, current_actor(), collection)
    may_retry = right is not None and right >= Right.CHANGE and has_kept_rejected(session, job.id)
    rest = rest_of(session, job.id, state.counts)
    return UploadPage(state, rest, earlier_rows(session, job), status, files, after, following, may_retry)


def _pauses(session: Session, job: JobView, search: SearchView | None) -> list[Pause]:
    """Return the pauses of the queues that this job waits for."""
    stages = [stage.stage for stage in job.stages if any(stage.units.get(state) for state in OPEN_UNITS)]
    queues = {services().routing.queue_of(stage, search.scorer if search else None) for stage in stages}
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
    """Retry the dead and cancelled units of a job, or else the rejected files of an upload."""
    here = url_for("pages.job", job_id=job_id)
    try:
        again = submissions.retry(current_actor(), job_id).again
    except RetllmError as error:
        return refused(error, here)
    flash(again_words(**again.model_dump()), "info")
    return redirect(here)
