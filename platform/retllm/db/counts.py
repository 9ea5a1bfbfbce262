"""Counts by collection and by job, written by triggers in the transaction that changes what they count.

A trigger adds rows with differences and changes none, so that workers do not wait for each other; a count is the sum
of its rows. Dispatchers replace the rows of a collection or a job by their sums (:func:`merge`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from retllm.db.base import Base
from retllm.db.deletion import InCollection, InJob
from retllm.db.enums import FileStatus, ItemKind, Stage, UnitState
from retllm.db.jobs import Job
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import Collection

MERGE_SECONDS = 5.0
"""How often a dispatcher merges counts."""
# of one table: owners that one merge looks at, and rows that one transaction merges
_OWNERS, _ROWS = 1_000, 10_000


class _Difference:
    """A row of counts; ``merged`` tells whether it is the sum of earlier rows."""

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    merged: Mapped[bool] = mapped_column(server_default=sa.false())


def _indexes(table: str, owner: str) -> tuple[sa.Index, ...]:
    unmerged = sa.text("NOT merged")
    return sa.Index(f"ix_{table}_{owner}", owner), sa.Index(f"ix_{table}_unmerged", owner, postgresql_where=unmerged)


class CollectionCount(_Difference, InCollection, Base):
    """How many more ready items a collection has, or how many more vectors of a model; negative: how many fewer.

    Attributes:
        model_id: null for items.
        failed: whether the items have an error.
        fresh: whether the vectors were made from the current version of a ready item; true for items.
        image_weight: that of the vectors of captioned pictures; null for others.
    """

    __tablename__ = "collection_counts"
    __table_args__ = _indexes("collection_counts", "collection_id")

    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    model_id: Mapped[uuid.UUID | None]
    kind: Mapped[ItemKind]
    failed: Mapped[bool]
    fresh: Mapped[bool]
    image_weight: Mapped[float | None]
    count: Mapped[int] = mapped_column(sa.BigInteger)


class UnitCount(_Difference, InJob, Base):
    """How many more or fewer units of a job are in a state.

    Attributes:
        again: whether they are of a further pass, whose items are counted already.
        hour: the hour in UTC in which the vectors of done units were stored; null for others.
        items, attempts: sums over these units.
        changes: how many changes of units the row is about; its sum only grows.
        started_at, finished_at: of the first and the last one.
    """

    __tablename__ = "unit_counts"
    __table_args__ = (
        *_indexes("unit_counts", "job_id"),
        sa.Index("ix_unit_counts_hour", "hour", postgresql_where=sa.text("hour IS NOT NULL")),
    )

    job_id: Mapped[uuid.UUID]
    stage: Mapped[Stage]
    state: Mapped[UnitState]
    again: Mapped[bool]
    hour: Mapped[datetime | None]
    units: Mapped[int] = mapped_column(sa.BigInteger)
    items: Mapped[int] = mapped_column(sa.BigInteger)
    attempts: Mapped[int] = mapped_column(sa.BigInteger)
    changes: Mapped[int] = mapped_column(sa.BigInteger)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class FileCount(_Difference, InJob, Base):
    """How many more or fewer files of an upload have an outcome, also of those that are listed together.

    Attributes:
        part: whether they are rows of a sheet or pages of a document.
        come: whether they are files that the client counts, which are no longer to come.
        arrived: whether they are files that came whole, and no clutter.
    """

    __tablename__ = "file_counts"
    __table_args__ = _indexes("file_counts", "job_id")

    job_id: Mapped[uuid.UUID]
    status: Mapped[FileStatus]
    part: Mapped[bool]
    come: Mapped[bool]
    arrived: Mapped[bool]
    count: Mapped[int] = mapped_column(sa.BigInteger)


@dataclass(frozen=True)
class Counted:
    """What a table of counts is about.

    Attributes:
        owner: the column with the key of the collection or job.
        of: the columns that tell what is counted.
        sums: the columns with what is counted; rows whose first sum is zero are no longer needed.
        others: further columns, each with the function that merges it.
        real: the query of what the counts should be.
    """

    table: type[Any]
    owner: str
    of: str
    sums: Sequence[str]
    others: Sequence[tuple[str, str]]
    real: str

    @property
    def merge(self) -> sa.TextClause:
        """The statement that replaces the rows of an owner by their sums, and returns how many it replaced."""
        table, (first, *_) = self.table.__tablename__, self.sums
        merged = {name: f"sum({name})" for name in self.sums} | {name: f"{how}({name})" for name, how in self.others}
        return sa.text(f"""
            WITH gone AS (
                DELETE FROM {table} WHERE id = ANY (ARRAY(
                    SELECT id FROM {table} WHERE {self.owner} = :owner ORDER BY merged DESC LIMIT {_ROWS}
                    FOR UPDATE SKIP LOCKED
                )) RETURNING *
            ), kept AS (
                INSERT INTO {table} ({self.of}, {", ".join(merged)}, merged)
                SELECT {self.of}, {", ".join(merged.values())}, true FROM gone GROUP BY {self.of}
                HAVING sum({first}) <> 0
            ) SELECT count(*) FROM gone
        """)  # noqa: S608 - constants


OF_COLLECTIONS = Counted(
    CollectionCount,
    "collection_id",
    "collection_id, model_id, kind, failed, fresh, image_weight",
    ["count"],
    [],
    """
    SELECT collection_id, NULL::uuid AS model_id, kind, error IS NOT NULL AS failed, true AS fresh,
        NULL::double precision AS image_weight, count(*) AS count
    FROM items WHERE state = 'ready' GROUP BY collection_id, kind, error IS NOT NULL
    UNION ALL
    SELECT e.collection_id, e.model_id, i.kind, i.error IS NOT NULL, i.state = 'ready' AND i.version = e.item_version,
        CASE WHEN i.kind = 'image+text' THEN e.image_weight END, count(*)
    FROM embeddings e JOIN items i ON i.id = e.item_id GROUP BY 1, 2, 3, 4, 5, 6
    """,
)
OF_UNITS = Counted(
    UnitCount,
    "job_id",
    "job_id, stage, state, again, hour",
    ["units", "items", "attempts", "changes"],
    [("started_at", "min"), ("finished_at", "max")],
    """
    SELECT job_id, stage, state, payload ? 'pass' AS again,
        CASE WHEN state = 'done' AND stage = 'embed' THEN date_trunc('hour', finished_at, 'UTC') END AS hour,
        count(*) AS units, sum(coalesce(jsonb_array_length(payload->'items'), 0)) AS items, sum(attempt) AS attempts,
        count(*) AS changes, min(started_at) AS started_at, max(finished_at) AS finished_at
    FROM units GROUP BY 1, 2, 3, 4, 5
    """,
)
OF_FILES = Counted(
    FileCount,
    "job_id",
    "job_id, status, part, come, arrived",
    ["count"],
    [],
    """
    SELECT job_id, status, parent_id IS NOT NULL AND entry IS NULL AS part,
        parent_id IS NULL AND NOT (status = 'ignored' AND size_bytes IS NULL) AS come,
        parent_id IS NULL AND NOT (status = 'ignored' AND content IS NULL)
            AND coalesce(error_code, '') NOT IN ('incomplete', 'not_sent', 'unsendable') AS arrived,
        sum(count) AS count
    FROM upload_files GROUP BY 1, 2, 3, 4, 5
    """,
)


def merge(sessions: Sessions) -> int:
    """Replace the rows of everything whose counts changed by their sums; return the number of replaced rows."""
    return sum(
        _merge_all(sessions, counted, owned)
        for counted, owned in ((OF_COLLECTIONS, Collection), (OF_UNITS, Job), (OF_FILES, Job))
    )


def _merge_all(sessions: Sessions, counted: Counted, owned: type[Collection | Job]) -> int:
    key = getattr(counted.table, counted.owner)
    with transaction(sessions) as session:
        owners = session.scalars(sa.select(key).where(~counted.table.merged).distinct().limit(_OWNERS)).all()

    def merge_one(owner: uuid.UUID, session: Session) -> int:
        # before its counts, in the order of locks; who has it alone removes or changes it
        kept = sa.select(owned.id).where(owned.id == owner)
        if session.scalar(kept.with_for_update(read=True, key_share=True, skip_locked=True)) is None:
            return 0
        return session.scalar(counted.merge, {"owner": owner}) or 0

    merges: list[Callable[[Session], int]] = [partial(merge_one, owner) for owner in owners]
    return sum(run_transaction(sessions, one) for one in merges)
