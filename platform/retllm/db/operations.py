"""Tables of the running system: workers, paused queues, metric totals of all processes."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base


class Worker(Base):
    """A worker process, as of its last heartbeat; units refer to it by ``name`` (host:pid).

    ``usage`` is what it uses of its host and GPU (:mod:`retllm.operations.usage`); null if it does not report it.
    ``models`` has an entry for each model that it serves: name, revision, whether it is loaded, and the load error.
    ``stopped_at`` is set on a clean stop; a killed worker only stops updating ``seen_at``.
    """

    __tablename__ = "workers"
    __table_args__ = (sa.Index("ix_workers_seen_at", "seen_at"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    queues: Mapped[list[str]]
    device: Mapped[str]
    release: Mapped[str]
    models: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=sa.text("'[]'::jsonb"))
    usage: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    stopped_at: Mapped[datetime | None]


class PausedQueue(Base):
    """A paused queue: workers claim no unit of it until the row is deleted."""

    __tablename__ = "paused_queues"

    queue: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"))
    reason: Mapped[str] = mapped_column(default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class MetricTotal(Base):
    """A counter summed over all processes; ``name`` and ``labels`` (sorted JSON) identify the Prometheus sample."""

    __tablename__ = "metric_totals"

    name: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]
