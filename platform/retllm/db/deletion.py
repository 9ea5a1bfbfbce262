"""What is deleted with a collection is left out of every query from that moment, although its rows are removed later.

A class inherits one of the mixins below; every SELECT and UPDATE of it gets the condition, whoever writes it. Rules of
``retllm.queue.audit``, which are SQL, have their own. A statement that is about the deleted rows has the execution
options ``WITH_DELETED``.

A deletion does not wait for the transactions that have locked the collection (``db.locks``). These go on as if it came
after them: they see what they have locked (``hold``), and nothing of it is removed before they end.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, ORMExecuteState, Session, mapped_column, with_loader_criteria

from retllm.db.base import Keyed

WITH_DELETED = {"with_deleted": True}
"""Execution options of a statement that sees what is deleted."""

_HELD = "held_collections"
_deleted = sa.table("collections", sa.column("id"), sa.column("deleted_at")).alias("deleted_collections")
_jobs = sa.table("jobs", sa.column("id"), sa.column("collection_id")).alias("their_jobs")


class Deletable(Keyed):
    """A collection; ``deleted_at`` is null until it is deleted."""

    deleted_at: Mapped[datetime | None] = mapped_column()


class InCollection:
    """Something in a collection; null: in none."""

    collection_id: Mapped[Any] = mapped_column()


class InJob:
    """Something of a job."""

    job_id: Mapped[uuid.UUID] = mapped_column()


_theirs = sa.select(_deleted.c.id).where(_deleted.c.deleted_at.is_not(None)).correlate(None)


def _is_none_of(key: Any, keys: Any) -> Any:
    """Return the condition that a key, which may be null, is none of those that a query finds.

    The planner would turn NOT EXISTS into a join, which loses the order of an index, and expect NOT IN to hold for half
    of the rows. Two numbers it expects to differ in nearly all of them.
    """
    return sa.cast(key.in_(keys), sa.Integer).is_distinct_from(sa.literal_column("1"))


def _collection_of(cls: Any) -> Any:
    """Return the collection of something in a job.

    It is looked up for each row: deleted collections may have any number of jobs, which a list of these would read.
    """
    of_job = sa.select(_jobs.c.collection_id).where(_jobs.c.id == cls.job_id)
    return of_job.correlate_except(_jobs).scalar_subquery()


def _options(*criteria: tuple[type, Callable[[Any], Any]]) -> tuple[Any, ...]:
    return tuple(with_loader_criteria(mixin, cast(Any, is_there), include_aliases=True) for mixin, is_there in criteria)


_LEAVE_OUT = _options(
    (Deletable, lambda cls: cls.deleted_at.is_(None)),
    (InCollection, lambda cls: _is_none_of(cls.collection_id, _theirs)),
    (InJob, lambda cls: _is_none_of(_collection_of(cls), _theirs)),
)


def _leave_out_but(held: list[uuid.UUID]) -> tuple[Any, ...]:
    return _options(
        (Deletable, lambda cls: sa.or_(cls.deleted_at.is_(None), cls.id.in_(held))),
        (InCollection, lambda cls: _is_none_of(cls.collection_id, _theirs.where(_deleted.c.id.not_in(held)))),
        (InJob, lambda cls: _is_none_of(_collection_of(cls), _theirs.where(_deleted.c.id.not_in(held)))),
    )


def hold(session: Session, collection_ids: Iterable[uuid.UUID]) -> None:
    """Let the transaction see these collections until it ends, which it has locked before they were deleted."""
    if held := {*_held(session)[0], *collection_ids}:
        session.info[_HELD] = session.get_transaction(), held, _leave_out_but(list(held))


def _held(session: Session) -> tuple[set[uuid.UUID], tuple[Any, ...]]:
    transaction, held, criteria = session.info.get(_HELD, (None, set(), _LEAVE_OUT))
    return (held, criteria) if transaction is session.get_transaction() else (set(), _LEAVE_OUT)


@sa.event.listens_for(Session, "do_orm_execute")
def _leave_out_deleted(state: ORMExecuteState) -> None:
    if (state.is_select or state.is_update) and not state.execution_options.get("with_deleted"):
        criteria = _held(state.session)[1]
        state.statement = cast("sa.Select[Any]", state.statement).options(*criteria)
