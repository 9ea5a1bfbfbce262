"""Tables of the running system: workers that are alive, queues that somebody paused, what all processes counted."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base


class Worker(Base):
    """A worker process, as it last told of itself; ``name`` is what units call it (host:pid).

    ``models`` has an entry for each model it serves: name, revision, whether it is loaded, and why not if it can't be.
    ``stopped_at`` is set when it ended in order; one that was killed just falls silent.
    """

    __tablename__ = "workers"
    __table_args__ = (sa.Index("ix_workers_seen_at", "seen_at"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    queues: Mapped[list[str]]
    device: Mapped[str]
    release: Mapped[str]
    models: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=sa.text("'[]'::jsonb"))
    started_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    stopped_at: Mapped[datetime | None]


class PausedQueue(Base):
    """A queue from which no unit is claimed until somebody resumes it; the row is the pause."""

    __tablename__ = "paused_queues"

    queue: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"))
    reason: Mapped[str] = mapped_column(default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class MetricTotal(Base):
    """What all processes together have counted; ``name`` and ``labels`` (JSON, sorted) are a sample's of Prometheus."""

    __tablename__ = "metric_totals"

    name: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]
