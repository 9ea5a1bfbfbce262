"""Jobs: submit an index job, list, read, cancel, retry, delete, export."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any
from uuid import UUID

from flask import Response
from flask_openapi.models.data_type import DataType
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.response import Response as DocumentedResponse
from flask_openapi.models.schema import Schema
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from retllm.db.enums import FileStatus, JobKind, JobState
from retllm.db.session import transaction
from retllm.history import listing
from retllm.history.job_views import JobView, RetriedJobView, job_view, job_views
from retllm.history.listing import JobFilters
from retllm.identity.access import job_for
from retllm.search.export import Rows
from retllm_web.actions import bulk, submissions
from retllm_web.actions.job_pauses import pauses_of
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import PREFIX, api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.api.system import PauseView
from retllm_web.http import downloads
from retllm_web.http.auth import current_actor
from retllm_web.http.downloads import Format
from retllm_web.http.paging import PageQuery, optional
from retllm_web.http.services import services

TAGS = tags("jobs")


class JobPause(PauseView):
    """The pause of a queue in which a job has open units."""

    queue: str


class WatchedJob(JobView):
    """A job, and what else it waits for."""

    pauses: list[JobPause] = Field(description="pauses of the queues in which it has open units")


Key = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class IdempotencyHeader(BaseModel):
    """A key chosen by the caller; the same key with the same request gives the same job."""

    model_config = ConfigDict(populate_by_name=True)

    idempotency_key: Key | None = optional(
        "repeated requests with the same key return the job of the first one", alias="Idempotency-Key"
    )


class JobPath(BaseModel):
    """The key of a job."""

    job_id: UUID


def _day(value: Any) -> Any:
    # pydantic would also accept a number as a timestamp
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("write a day like 2026-01-31")
    return value


Day = Annotated[date, BeforeValidator(_day)]
# more than there are states, since one may be repeated
_MAX_STATES = 20


class JobFilterQuery(BaseModel):
    """Filters of jobs, all optional."""

    model_config = ConfigDict(extra="forbid")

    kind: JobKind | None = optional("only jobs of this kind")
    state: list[JobState] = Field(
        default=[], max_length=_MAX_STATES, description="only jobs in this state; several may be given"
    )
    collection: UUID | None = optional("only jobs on this collection")
    person: str | None = optional("only jobs of the account of this name", max_length=200)
    since: Day | None = optional("only jobs of this day (UTC) or later")
    until: Day | None = optional("only jobs of this day (UTC) or earlier")
    text: str | None = optional("only searches whose text contains this, ignoring case", max_length=200)
    outcome: list[FileStatus] = Field(
        default=[],
        max_length=_MAX_STATES,
        description="only uploads of which a file or row has this outcome; several may be given",
    )

    run: UUID | None = optional("only the searches of this evaluation run")

    def filters(self) -> JobFilters:
        """Return the filters for the job core."""
        return JobFilters(
            kind=self.kind,
            states=tuple(self.state),
            collection_id=self.collection,
            person=self.person,
            since=self.since,
            until=self.until,
            text=self.text or "",
            outcomes=tuple(self.outcome),
            run_id=self.run,
        )


class JobQuery(JobFilterQuery, PageQuery):
    """Which jobs to list."""


class ExportQuery(JobFilterQuery):
    """Which jobs to export, and the format."""

    rows: Rows = Field(default=Rows.JOBS, description="one row for each job, or for each result of the searches")
    format: Format = Field(default=Format.JSON, description="an array of objects, or CSV with a header line")


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next: UUID | None = Field(
        description="pass as `after` to get the next page; null on the last page. With `text`, a page may have few "
        "jobs or none although there are more pages"
    )


_ROWS = Schema(type=DataType.ARRAY, items=Schema(type=DataType.OBJECT))
_EXPORT = DocumentedResponse(
    description="The rows.",
    content={
        "application/json": MediaType(schema=_ROWS),
        "text/csv": MediaType(schema=Schema(type=DataType.STRING)),
    },
)


def accepted(view: JobView) -> Response:
    """Return 202 with the stored job; the header Location has its address."""
    return answer(view, 202, location=f"{PREFIX}/jobs/{view.id}")


@api.post("/collections/<uuid:collection_id>/index", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def submit_index(path: CollectionPath, header: IdempotencyHeader) -> Response:
    """Embed every item of the collection that has no up-to-date vector."""
    return accepted(submissions.index(current_actor(), path.collection_id, idempotency_key=header.idempotency_key))


@api.get("/jobs", tags=TAGS, responses={200: JobList})
def list_jobs(query: JobQuery) -> Response:
    """List the jobs that the caller may see, newest first."""
    with transaction(services().sessions) as session:
        page, following = listing.page(session, current_actor(), query.filters(), after=query.after, limit=query.limit)
        return answer(JobList(jobs=job_views(session, page), next=following))


@api.get("/jobs/export", tags=TAGS, responses={200: _EXPORT})
def export_jobs(query: ExportQuery) -> Response:
    """Export the matching jobs, newest first, or the results of their searches, as one file."""
    return downloads.history(current_actor(), query.filters(), query.rows, query.format)


@api.get("/jobs/<uuid:job_id>", tags=TAGS, responses={200: WatchedJob})
def get_job(path: JobPath) -> Response:
    """Return one job with its progress, its stages, the errors of its units, and the pauses that it waits for."""
    with transaction(services().sessions) as session:
        view = job_view(session, job_for(session, current_actor(), path.job_id))
        pauses = [JobPause.model_validate(asdict(pause)) for pause in pauses_of(session, view)]
    return answer(WatchedJob(**dict(view), pauses=pauses))


@api.post("/jobs/<uuid:job_id>/cancel", tags=TAGS, responses={200: JobView, 409: ErrorBody})
def cancel_job(path: JobPath) -> Response:
    """Cancel a job: ready units are cancelled at once, leased ones end soon; existing results stay."""
    return answer(submissions.cancel(current_actor(), path.job_id))


@api.post("/jobs/<uuid:job_id>/retry", tags=TAGS, responses={202: RetriedJobView, 409: ErrorBody})
def retry_job(path: JobPath) -> Response:
    """Retry the dead and cancelled units of a job that is over; done units stay done.

    Of an upload without such units, the rejected files and rows of sheets are tried again that are kept.
    """
    return accepted(submissions.retry(current_actor(), path.job_id))


@api.delete("/jobs/<uuid:job_id>", tags=TAGS, responses={204: None, 409: ErrorBody})
def delete_job(path: JobPath) -> Response:
    """Delete a job that is over, with its results and its query picture; the collection and the marks stay."""
    bulk.delete(current_actor(), path.job_id)
    return nothing()
