"""Tables of what people say of results, and of what evaluations measured."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base, Keyed
from retllm.db.enums import RunSource


class Judgment(Base):
    """Whether an item answers a question asked of its collection; the last mark counts.

    ``question`` is ``Search.question``: every search that asks the same shares its marks, and a search that is deleted
    takes none along. ``search_id`` tells where the mark was made.
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


class EvaluationRun(Keyed, Base):
    """What an evaluation measured.

    ``report`` of an uploaded run is the report of `retllm eval`; of a reviewed run its settings, its searches with the
    question of each, and its metrics once all of them are over. ``collection_id`` is null for a benchmark of its own.
    """

    __tablename__ = "evaluation_runs"
    __table_args__ = (sa.Index("ix_evaluation_runs_collection_id_id", "collection_id", "id"),)

    collection_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    user_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"))
    name: Mapped[str]
    source: Mapped[RunSource]
    report: Mapped[dict[str, Any]]
