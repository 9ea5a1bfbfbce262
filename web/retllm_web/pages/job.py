"""One job: an index job with its progress, or a search with its result, and the actions on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask import session as browser_session
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus, JobKind
from retllm.db.jobs import Job
from retllm.db.session import snapshot, transaction
from retllm.db.state_words import again_words
from retllm.db.tables import Collection
from retllm.errors import Forbidden, RetllmError
from retllm.history.attempts import attempts, may_change
from retllm.history.job_etag import job_etag
from retllm.history.job_views import job_view
from retllm.identity.access import Right, job_for, right_in
from retllm.identity.links import search_target
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
from retllm_web.actions.job_pauses import pauses_of
from retllm_web.http import conditional
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.link_list import LinkFeedback, links_shown
from retllm_web.pages.search_form import form_of
from retllm_web.render.timeline import timeline

# the session keeps how an account last looked at results
_VIEW = "results"
# units on the page of a job; another page shows all of them
_ATTEMPTS = 10
# files on one page of an upload
_FILES = 100


class ResultView(StrEnum):
    """How the results of a search are shown."""

    SMALL = "s"
    MEDIUM = "m"
    LARGE = "l"
    TABLE = "table"  # a row for each, with all numbers


def _view() -> ResultView:
    """Return the view that the address names, else the one that this browser had last."""
    asked = request.args.get("view", "")
    if asked in set(ResultView) and asked != browser_session.get(_VIEW):
        browser_session[_VIEW] = asked
    kept = browser_session.get(_VIEW, "")
    return ResultView(kept) if kept in set(ResultView) else ResultView.MEDIUM


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
            "view": _view(),
            "views": ResultView,
            "archives": same_names.archives((row.item_id, row.name, row.archive) for row in search.candidates)
            if search
            else {},
            "upload": upload,
            "steps": timeline(job, search, receiving=upload is not None and upload.state.closed_at is None),
            "attempts": attempts(session, current_actor(), job_id, limit=_ATTEMPTS + 1),
            "attempts_shown": _ATTEMPTS,
            "may_change": may_change(session, current_actor(), found),
            "pauses": pauses_of(session, job),
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
    collection = session.get_one(Collection, job.one_collection)
    right = right_in(session, current_actor(), collection)
    may_retry = right is not None and right >= Right.CHANGE and has_kept_rejected(session, job.id)
    rest = rest_of(session, job.id, state.counts)
    return UploadPage(state, rest, earlier_rows(session, job), status, files, after, following, may_retry)


@pages.get("/jobs/<uuid:job_id>")
def job(job_id: UUID) -> ResponseReturnValue:
    """Show one job."""
    return job_page(job_id)


def job_page(job_id: UUID, feedback: LinkFeedback | None = None) -> ResponseReturnValue:
    """Return the page of a job, of a search with the result of the form of links.

    Raises:
        NotFound: there is no such job that this account may see.
    """
    feedback, shown = feedback or LinkFeedback(), _shown(job_id)
    if shown["search"]:
        shown |= {"again": form_of(shown["search"]), **_links(job_id, feedback)}
    return render_template("job.html", **shown, settings=services().settings), feedback.status


def _links(job_id: UUID, feedback: LinkFeedback) -> dict[str, Any]:
    """Return the links to a result; nothing if this account may not share it."""
    with transaction(services().sessions) as session:
        try:
            target = search_target(session, current_actor(), job_id)
        except Forbidden:
            return {}
        return links_shown(session, target, feedback)


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
