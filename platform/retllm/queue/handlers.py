"""The interface between the job core and a kind of job; :mod:`retllm.job_kinds` lists the implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, Stage
from retllm.db.jobs import Job, Unit
from retllm.errors import Conflict
from retllm.queue.routing import Notification

NextUnits = tuple[Stage, Sequence[dict[str, Any]]]
"""A stage and the payloads of its new units."""


def _nothing_left(_session: Session, _job: Job) -> list[Notification]:
    raise Conflict("Nothing in this job failed; there is nothing to retry.")


@dataclass(frozen=True)
class JobHandler:
    """The callbacks of a kind of job, each called in a transaction that holds the job's lock.

    Attributes:
        next_units: returns the next units when none is open; None if the job is complete. With an empty list the job
            stays open without a unit: further units come from elsewhere.
        ahead: returns units that need not wait for the open ones; asked when a unit has ended and others are open.
        on_dead: stores the error of a dead unit with its items; the last argument is false if the items did not cause
            the failure.
        finish: stores the result of a job that succeeded or partially succeeded.
        cancelled: stores what the cancellation left undone, when the job has ended with it.
        reopen: removes what ``on_dead`` stored for these units and, if the job was over, what ``finish`` or
            ``cancelled`` stored.
        again: tries again what was left undone although no unit failed, for a retry of a job that succeeded; returns
            the units to notify workers of, and raises Conflict if there is nothing.
        left: returns the condition that such a job has something for ``again``.
    """

    next_units: Callable[[Session, Job], NextUnits | None]
    on_dead: Callable[[Session, Job, Unit, str, bool], None]
    finish: Callable[[Session, Job], None]
    reopen: Callable[[Session, Job, Sequence[Unit]], None]
    ahead: Callable[[Session, Job], NextUnits | None] = lambda _session, _job: None
    cancelled: Callable[[Session, Job], None] = lambda _session, _job: None
    again: Callable[[Session, Job], list[Notification]] = _nothing_left
    left: Callable[[], sa.ColumnElement[bool]] = sa.false


_handlers: dict[JobKind, JobHandler] = {}


def register(handlers: Mapping[JobKind, JobHandler]) -> None:
    """Register a handler for every kind of job; each process calls this once at its start.

    Raises:
        ValueError: a kind of job has no handler.
    """
    missing = [kind.value for kind in JobKind if kind not in handlers]
    if missing:
        raise ValueError(f"no handler for jobs of the kind {', '.join(missing)}")
    _handlers.update(handlers)


def all_handlers() -> Mapping[JobKind, JobHandler]:
    """Return the registered handlers by their kind of job."""
    return _handlers


def handler_of(kind: JobKind) -> JobHandler:
    """Return the handler of a kind of job.

    Raises:
        LookupError: this process has not called :func:`retllm.job_kinds.register_handlers`.
    """
    try:
        return _handlers[kind]
    except KeyError:
        raise LookupError(
            f"no handler for jobs of the kind {kind}: call retllm.job_kinds.register_handlers() first"
        ) from None
