"""What the job core asks of a kind of job. The core itself knows no kind: :mod:`retllm.job_kinds` names them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from retllm.db.enums import JobKind, Stage
from retllm.db.tables import Job, Unit

NextUnits = tuple[Stage, Sequence[dict[str, Any]]]
"""A stage, and the payload of each of its new units."""


@dataclass(frozen=True)
class JobHandler:
    """The four questions of the job core to a kind of job, each asked in a transaction that holds the job's lock.

    Attributes:
        next_units: the units that the job needs now that none is open; None when it is complete.
        on_dead: keeps the error of a dead unit with what the unit was about; ``at_fault`` is false where the failure
            was not that of its items.
        finish: stores what a job that has succeeded, in part or whole, comes to.
        reopen: takes back what ``on_dead`` kept of these units and, if the job was over, what ``finish`` stored.
    """

    next_units: Callable[[Session, Job], NextUnits | None]
    on_dead: Callable[[Session, Job, Unit, str, bool], None]
    finish: Callable[[Session, Job], None]
    reopen: Callable[[Session, Job, Sequence[Unit]], None]


_handlers: dict[JobKind, JobHandler] = {}


def register(handlers: Mapping[JobKind, JobHandler]) -> None:
    """Name the handler of every kind of job; each process does so once, when it starts.

    Raises:
        ValueError: a kind of job has none.
    """
    missing = [kind.value for kind in JobKind if kind not in handlers]
    if missing:
        raise ValueError(f"no handler for jobs of the kind {', '.join(missing)}")
    _handlers.update(handlers)


def handler_of(kind: JobKind) -> JobHandler:
    """The handler of a kind of job.

    Raises:
        LookupError: this process has registered none (:func:`retllm.job_kinds.register_handlers`).
    """
    try:
        return _handlers[kind]
    except KeyError:
        raise LookupError(
            f"no handler for jobs of the kind {kind}: call retllm.job_kinds.register_handlers() first"
        ) from None
