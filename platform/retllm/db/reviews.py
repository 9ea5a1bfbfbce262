"""Tables of marks and evaluation runs."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base, Keyed
from retllm.db.deletion import InCollection
from retllm.db.enums import RunSource


class Judgment(InCollection, Base):
    """A mark: whether an item is relevant to a query in its collection; the last mark counts.

    ``question`` is ``Search.question``: searches with the same query share their marks, and deleting a search deletes
    no mark. ``search_id`` is the search in which the mark was made.
    """

    __tablename__ = "judgments"
    __table_args__ = (
        sa.Index("ix_judgments_item_id", "item_id"),
        sa.Index("ix_judgments_search_id", "search_id"),
        sa.Index("ix_judgments_collection_id_updated_at", "collection_id", "updated_at"),
    )

    collection_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    question: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    relevant: Mapped[bool]
    user_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"))
    search_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("searches.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class EvaluationRun(Keyed, InCollection, Base):
    """An evaluation run.

    ``report`` of an uploaded run is the report of `retllm eval`; of a reviewed run its settings, its searches with
    their queries, and, when all of them have ended, its measures. ``collection_id`` is null for an uploaded report.
    """

    __tablename__ = "evaluation_runs"
    __table_args__ = (
        sa.Index("ix_evaluation_runs_collection_id_id", "collection_id", "id"),
        sa.Index("ix_evaluation_runs_user_id_id", "user_id", "id"),
    )

    collection_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    user_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"))
    name: Mapped[str]
    source: Mapped[RunSource]
    report: Mapped[dict[str, Any]]
