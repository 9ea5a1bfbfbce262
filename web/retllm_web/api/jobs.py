"""Jobs: submit an index job, list, read, cancel, retry."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.access import job_for
from retllm.db.enums import JobKind, JobState
from retllm.db.session import transaction
from retllm.jobs import views
from retllm.jobs.schemas import JobView
from retllm_web import submissions
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import PREFIX, api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.paging import PageQuery, cut, optional
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.auth import current_user
from retllm_web.services import services

TAGS = tags("jobs")

Key = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class IdempotencyHeader(BaseModel):
    """A key of the caller's making: the same key with the same request gives the same job."""

    model_config = ConfigDict(populate_by_name=True)

    idempotency_key: Key | None = optional(
        "repeats of a request with the same key get the job that the first one made", alias="Idempotency-Key"
    )


class JobPath(BaseModel):
    """The key of a job."""

    job_id: UUID


class JobQuery(PageQuery):
    """Which jobs to list."""

    kind: JobKind | None = optional("only jobs of this kind")
    state: JobState | None = optional("only jobs in this state")
    collection: UUID | None = optional("only jobs on this collection")


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next: UUID | None = Field(description="send as `after` for the next page; null at the end")


def accepted(view: JobView) -> Response:
    """202: the job is stored and will be done; its address is in Location."""
    return answer(view, 202, location=f"{PREFIX}/jobs/{view.id}")


@api.post("/collections/<uuid:collection_id>/index", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def submit_index(path: CollectionPath, header: IdempotencyHeader) -> Response:
    """Embed every item of the collection that has no up-to-date vector yet."""
    return accepted(submissions.index(current_user(), path.collection_id, idempotency_key=header.idempotency_key))


@api.get("/jobs", tags=TAGS, responses={200: JobList})
def list_jobs(query: JobQuery) -> Response:
    """The jobs that the caller may see, newest first."""
    with transaction(services().sessions) as session:
        rows = views.list_jobs(
            session,
            current_user(),
            kind=query.kind,
            state=query.state,
            collection_id=query.collection,
            after=query.after,
            limit=query.limit + 1,
        )
        page, following = cut(rows, query.limit)
        return answer(JobList(jobs=views.job_views(session, page), next=following))


@api.get("/jobs/<uuid:job_id>", tags=TAGS, responses={200: JobView})
def get_job(path: JobPath) -> Response:
    """One job with its progress, its stages and the errors of its units."""
    with transaction(services().sessions) as session:
        return answer(views.job_view(session, job_for(session, current_user(), path.job_id)))


@api.post("/jobs/<uuid:job_id>/cancel", tags=TAGS, responses={200: JobView, 409: ErrorBody})
def cancel_job(path: JobPath) -> Response:
    """Ask for the end of a job: what waits is dropped, what is at work ends soon; results so far stay."""
    return answer(submissions.cancel(current_user(), path.job_id))


@api.post("/jobs/<uuid:job_id>/retry", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def retry_job(path: JobPath) -> Response:
    """Give the failed and cancelled parts of a job that is over new attempts; what is done is kept."""
    return accepted(submissions.retry(current_user(), path.job_id))
