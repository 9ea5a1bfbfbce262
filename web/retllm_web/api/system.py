"""Workers, queues and dead units."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.db.enums import JobKind, Stage
from retllm.db.session import snapshot, transaction
from retllm.history.named_items import MAX_NAMED, NamedItem
from retllm.operations import failures, queues, workers
from retllm.operations.failures import FAILURE_CURSOR, FailureCursor, FailureFilters
from retllm.operations.workers import WorkerStatus
from retllm.queue.notifications import hints
from retllm_web.actions import operations
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api
from retllm_web.api.spec import tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import LIMIT, MAX, optional
from retllm_web.http.services import services

TAGS = tags("system")

QueueName = Annotated[str, Field(description="query, media, embed, score, or score:NAME for another scorer")]
Reason = Annotated[str, StringConstraints(max_length=500)]


class HeldModelView(BaseModel):
    """A model of a worker."""

    name: str
    revision: str | None
    loaded: bool
    error: str | None = Field(description="why loading failed")


class HeldUnitView(BaseModel):
    """A unit that a worker holds."""

    job_id: UUID | None = Field(description="null if the caller may not see the job")
    stage: Stage
    started_at: datetime | None


class UsageView(BaseModel):
    """What a worker uses, as of its last heartbeat; null is what is not known."""

    resident_bytes: int | None = Field(description="memory of the process")
    load: float | None = Field(description="processes of its host that run or wait to run, on average over a minute")
    cores: int | None = Field(description="of its host")
    gpu_used_bytes: int | None = Field(description="memory of its GPU that is used, by whatever process; null on a CPU")
    gpu_total_bytes: int | None
    gpu_utilization: float | None = Field(
        description="share of the time in which the GPU computes, 0 to 1; the worker needs the package nvidia-ml-py"
    )


class WorkerBody(BaseModel):
    """A worker process."""

    name: str = Field(description="host and process")
    queues: list[str]
    device: str
    release: str
    models: list[HeldModelView]
    usage: UsageView | None = Field(description="null for a worker that does not report it")
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    state: WorkerStatus = Field(description="silent: not seen lately and not stopped")
    units: list[HeldUnitView] = Field(description="the units that it holds")


class WorkerList(BaseModel):
    """The workers seen in the last day, alive ones first."""

    workers: list[WorkerBody]


class PauseView(BaseModel):
    """The pause of a queue."""

    since: datetime
    by: str | None = Field(description="who paused it; null if the account was deleted")
    reason: str


class QueueBody(BaseModel):
    """A queue."""

    name: QueueName
    meaning: str
    waiting: int = Field(description=f"units that may be claimed now, counted up to {queues.MAX_COUNTED}")
    later: int = Field(description="units that wait for a retry")
    at_work: int = Field(description="units that workers hold")
    oldest: datetime | None = Field(description="since when the oldest waiting unit may be claimed")
    hints: int | None = Field(description="messages in Redis, which only notify workers; null if Redis is unreachable")
    pause: PauseView | None
    awaited: str | None = Field(description="which server units of a scorer wait for, and why; null if they do not")


class QueueList(BaseModel):
    """Every queue."""

    queues: list[QueueBody]


class QueuePath(BaseModel):
    """The name of a queue."""

    queue: QueueName


class PauseRequest(BaseModel):
    """A pause."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason = Field(default="", description="shown to users whose jobs wait")


class DeadQuery(BaseModel):
    """Which dead units to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=LIMIT, ge=1, le=MAX, description="maximum of units per page")
    after: Annotated[str, StringConstraints(pattern=FAILURE_CURSOR)] | None = optional("`next` of the previous page")
    queue: QueueName | None = optional("only units of this queue")
    collection: UUID | None = optional("only units of jobs on this collection")
    text: str | None = optional("only units whose error contains this, ignoring case")


class DeadUnitView(BaseModel):
    """A dead unit."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    job_id: UUID
    kind: JobKind
    stage: Stage
    seq: int
    items: int
    attempt: int
    worker: str | None
    error: str | None
    traceback: str | None = Field(description="only for callers who may change the job")
    died_at: datetime
    collection_id: UUID | None = Field(description="null for a search of several collections")
    collection: str
    query: str | None = Field(description="the text of the search, if it has one")
    may: bool = Field(description="whether the caller may retry it")
    about: list[NamedItem] = Field(description=f"the first {MAX_NAMED} of its items or files, by name")


class DeadList(BaseModel):
    """A page of dead units, the latest first."""

    units: list[DeadUnitView]
    next: str | None = Field(description="pass as `after` to get the next page; null on the last page")


class RequeueRequest(BaseModel):
    """Dead units to retry."""

    model_config = ConfigDict(extra="forbid")

    units: list[UUID] = Field(min_length=1, max_length=MAX)


class RequeueBody(BaseModel):
    """The number of retried and skipped units."""

    requeued: int
    refused: dict[str, int] = Field(description="number of skipped units by reason")


@api.get("/system/workers", tags=TAGS, responses={200: WorkerList})
def list_workers() -> Response:
    """List the workers seen in the last day: alive, silent or stopped, with their models and units."""
    with transaction(services().sessions) as session:
        found = [WorkerBody.model_validate(asdict(worker)) for worker in workers.every(session, current_actor())]
    return answer(WorkerList(workers=found))


def _queues() -> list[QueueBody]:
    hint_counts = hints(services().settings.redis_url, services().routing.queues) or {}
    with snapshot(services().sessions) as session:
        depths = queues.depths(session, services().routing)
    return [QueueBody.model_validate(_queue(queue) | {"hints": hint_counts.get(queue.name)}) for queue in depths]


def _queue(queue: queues.Queue) -> dict[str, Any]:
    return asdict(queue) | {"meaning": queue.meaning}


@api.get("/system/queues", tags=TAGS, responses={200: QueueList})
def list_queues() -> Response:
    """List the queues with their waiting and leased units, and their pauses."""
    return answer(QueueList(queues=_queues()))


@api.post("/system/queues/<path:queue>/pause", tags=TAGS, responses={200: QueueList})
def pause_queue(path: QueuePath, body: PauseRequest) -> Response:
    """Pause a queue: workers finish the units that they hold, and claim no more. For administrators."""
    operations.pause(current_actor(), path.queue, body.reason)
    return answer(QueueList(queues=_queues()))


@api.post("/system/queues/<path:queue>/resume", tags=TAGS, responses={200: QueueList})
def resume_queue(path: QueuePath) -> Response:
    """Resume a paused queue. For administrators."""
    operations.resume(current_actor(), path.queue)
    return answer(QueueList(queues=_queues()))


@api.get("/system/dead-units", tags=TAGS, responses={200: DeadList})
def list_dead_units(query: DeadQuery) -> Response:
    """List the dead units of the jobs that the caller may see."""
    after = FailureCursor.parse(query.after) if query.after is not None else None
    routing = services().routing
    queue = None if query.queue is None else queues.require_queue(routing, query.queue)
    filters = FailureFilters(queue, query.collection, query.text or "", routing)
    with transaction(services().sessions) as session:
        rows = failures.page(session, current_actor(), filters, after=after, limit=query.limit + 1)
    page = rows[: query.limit]
    following = str(page[-1].place) if len(rows) > query.limit else None
    return answer(DeadList(units=[DeadUnitView.model_validate(row) for row in page], next=following))


@api.post("/system/dead-units/requeue", tags=TAGS, responses={200: RequeueBody})
def requeue_units(body: RequeueRequest) -> Response:
    """Retry dead units; a job that is over is reopened for them."""
    done = operations.requeue(current_actor(), body.units)
    return answer(RequeueBody(requeued=done.number, refused=dict(done.refused)))
