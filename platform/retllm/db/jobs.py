"""Tables of jobs, their units, and the attempts at them."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base, Keyed, new_id
from retllm.db.deletion import InCollection, InJob
from retllm.db.enums import AttemptOutcome, JobKind, JobState, Stage, UnitState
from retllm.db.reviews import EvaluationRun
from retllm.db.tables import Collection, User
from retllm.errors import NotFound


class Job(Keyed, InCollection, Base):
    """Accepted work.

    Attributes:
        collection_id: null for a search of several collections, which ``searches.SearchCollection`` names.
        params: the request as it was accepted.
        idle_seconds: how long it lay between an end and a retry, all retries together.
        run_id: the evaluation run that a search is a part of; the history lists a run as one line.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        sa.UniqueConstraint("user_id", "idempotency_key"),
        sa.Index("ix_jobs_user_id_id", "user_id", "id"),
        sa.Index("ix_jobs_collection_id_id", "collection_id", "id"),
        sa.Index("ix_jobs_collection_id_state_id", "collection_id", "state", "id"),
        sa.Index("ix_jobs_user_id_state_id", "user_id", "state", "id"),
        sa.Index("ix_jobs_state_id", "state", "id"),
        sa.Index("ix_jobs_kind_state_id", "kind", "state", "id"),
        # the jobs of a run, and the others, which the history lists one by one
        sa.Index("ix_jobs_run_id_state_id", "run_id", "state", "id", postgresql_where=sa.text("run_id IS NOT NULL")),
        sa.Index("ix_jobs_single", "id", postgresql_where=sa.text("run_id IS NULL")),
        sa.Index("ix_jobs_single_of_user", "user_id", "id", postgresql_where=sa.text("run_id IS NULL")),
        sa.Index("ix_jobs_single_of_collection", "collection_id", "id", postgresql_where=sa.text("run_id IS NULL")),
        sa.Index("ix_jobs_duplicates", "collection_id", "id", postgresql_where=sa.text("kind = 'duplicates'")),
        sa.Index("ix_jobs_maps", "collection_id", "id", postgresql_where=sa.text("kind = 'map'")),
        sa.Index("ix_jobs_ocr", "collection_id", "id", postgresql_where=sa.text("kind = 'ocr'")),
        # covers the statistics of ended jobs
        sa.Index(
            "ix_jobs_finished_at",
            "finished_at",
            postgresql_include=["id", "kind", "state", "collection_id", "created_at", "idle_seconds"],
        ),
    )

    kind: Mapped[JobKind]
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED)
    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(User.id))
    collection_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey(Collection.id, ondelete="CASCADE"))
    idempotency_key: Mapped[str | None]
    params: Mapped[dict[str, Any]]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    idle_seconds: Mapped[float] = mapped_column(default=0.0, server_default=sa.text("0"))
    run_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey(EvaluationRun.id, ondelete="SET NULL"))

    @property
    def one_collection(self) -> uuid.UUID:
        """The key of its collection.

        Raises:
            NotFound: it is a search of several.
        """
        if self.collection_id is None:
            raise NotFound("This is a search of several collections.")
        return self.collection_id

    @hybrid_property
    def seconds(self) -> float | None:
        """How long it took from its creation to its end, without the time in which it lay; None before its end."""
        if self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.created_at).total_seconds() - self.idle_seconds)

    @seconds.inplace.expression
    @classmethod
    def _seconds(cls) -> sa.ColumnElement[float]:
        lasted = sa.cast(sa.extract("epoch", cls.finished_at - cls.created_at), sa.Float)
        # greatest() ignores null
        return sa.case((cls.finished_at.is_not(None), sa.func.greatest(0.0, lasted - cls.idle_seconds)))


class Unit(Keyed, InJob, Base):
    """The piece of a job that one worker does in one go; claimed with a token and a lease (design: jobs).

    ``user_id`` is that of its job, whose units take turns with those of other accounts; a worker of an older release
    leaves it zero.
    ``scorer`` is the public name of the scorer of its search, for the fine stage, and empty for other stages.
    ``error`` is the message of the last failure for users, ``traceback`` that for developers.
    ``waits_until`` is set while it waits for a server (:mod:`retllm.queue.patience`). ``final``: no retry can help.
    """

    __tablename__ = "units"
    __table_args__ = (
        sa.UniqueConstraint("job_id", "stage", "seq"),
        # tells whether a job has an open unit, from its last one on, since those of the beginning end first
        sa.Index("ix_units_open", "job_id", "seq", postgresql_where=sa.text("state IN ('ready', 'leased')")),
        sa.Index("ix_units_ready", "stage", "scorer", "run_after", "id", postgresql_where=sa.text("state = 'ready'")),
        sa.Index(
            "ix_units_untried",
            "stage",
            "scorer",
            "user_id",
            "job_id",
            "seq",
            postgresql_where=sa.text("state = 'ready' AND attempt = 0 AND waits_until IS NULL"),
        ),
        sa.Index(
            "ix_units_waiting",
            "stage",
            "scorer",
            "user_id",
            "run_after",
            "id",
            postgresql_where=sa.text("state = 'ready' AND attempt = 0 AND waits_until IS NOT NULL"),
        ),
        sa.Index(
            "ix_units_tried",
            "stage",
            "scorer",
            "user_id",
            "run_after",
            "id",
            postgresql_where=sa.text("state = 'ready' AND attempt > 0"),
        ),
        sa.Index("ix_units_leased", "lease_until", postgresql_where=sa.text("state = 'leased'")),
        sa.Index("ix_units_error", "job_id", "stage", "seq", postgresql_where=sa.text("error IS NOT NULL")),
        sa.Index("ix_units_pass", "job_id", "id", postgresql_where=sa.text("payload ? 'pass'")),
        sa.Index("ix_units_dead", "finished_at", postgresql_where=sa.text("state = 'dead'")),
        sa.Index("ix_units_final", "job_id", postgresql_where=sa.text("final")),
        sa.Index("ix_units_done", "stage", "finished_at", postgresql_where=sa.text("state = 'done'")),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"))
    user_id: Mapped[uuid.UUID] = mapped_column(server_default=sa.text("'00000000-0000-0000-0000-000000000000'"))
    stage: Mapped[Stage]
    scorer: Mapped[str] = mapped_column(default="", server_default=sa.text("''"))
    seq: Mapped[int]
    state: Mapped[UnitState] = mapped_column(default=UnitState.READY)
    payload: Mapped[dict[str, Any]]
    attempt: Mapped[int] = mapped_column(default=0)
    token: Mapped[uuid.UUID | None]
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    run_after: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    announced_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]
    traceback: Mapped[str | None] = mapped_column(deferred=True)
    waits_until: Mapped[datetime | None]
    final: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class Attempt(Base):
    """One worker's attempt at a unit, from claim to end; all its results carry its token.

    Tokens are UUID v7, so that a unit's attempts sort by start time. ``number`` is the unit's ``attempt`` at the claim,
    which a retry resets. ``outcome`` is null while the attempt runs.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        sa.Index("ix_attempts_unit_id_token", "unit_id", "token"),
        # at most one committed attempt for each unit
        sa.Index("uq_attempts_committed", "unit_id", unique=True, postgresql_where=sa.text("outcome = 'committed'")),
        sa.Index("ix_attempts_open", "unit_id", postgresql_where=sa.text("outcome IS NULL")),
    )

    token: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    unit_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("units.id", ondelete="CASCADE"))
    number: Mapped[int]
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[AttemptOutcome | None]
    error: Mapped[str | None]
