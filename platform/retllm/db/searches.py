"""Tables of searches, their candidates and scores."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base
from retllm.db.deletion import InCollection
from retllm.db.enums import DecidedBy, ItemKind
from retllm.db.jobs import Job


class Search(Base):
    """The query of a search job and everything that can change its result; its key is that of the job.

    ``adaptive`` holds the settings of the waves, null for one pass over all k candidates; ``coarse`` those of a
    coarse stage with several sources and, after it, the result of each source (``retllm.search.coarse``);
    ``unit_candidates`` is the number of candidates in one unit of the fine stage. ``exact`` tells whether every
    vector was compared; otherwise an index found the nearest, and ``searched_items`` is an estimate.
    ``match_threshold`` (log-odds, null if it could not be estimated) and ``no_match`` (null if nothing was scored)
    are written with the final order. ``question`` is a hash of text and picture: searches of one collection with the
    same query share their marks (``retllm.review``). ``collections`` is how many collections a search of several was
    asked of (:class:`SearchCollection`); null for that of one.
    """

    __tablename__ = "searches"
    __table_args__ = (sa.Index("ix_searches_question", "question"),)

    id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    kind: Mapped[ItemKind]
    query_text: Mapped[str | None]
    query_picture_key: Mapped[str | None]
    query_picture_sha256: Mapped[str | None]
    question: Mapped[str] = mapped_column(server_default=sa.text("(gen_random_uuid())::text"))
    k: Mapped[int]
    item_kinds: Mapped[list[str]]
    filter: Mapped[str | None]
    query_image_weight: Mapped[float]
    embedder: Mapped[str]
    model_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("embedding_models.id"))
    scorer: Mapped[str]
    scorer_revision: Mapped[str | None]
    scorer_version: Mapped[str | None]
    prompt_version: Mapped[str | None]
    mode: Mapped[str]
    injection: Mapped[dict[str, Any]]
    tie_decimals: Mapped[int]
    adaptive: Mapped[dict[str, Any] | None]
    fusion_weight: Mapped[float] = mapped_column(default=0.0, server_default=sa.text("0"))
    trace: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    coarse: Mapped[dict[str, Any] | None]
    collections: Mapped[int | None]
    unit_candidates: Mapped[int] = mapped_column(default=8, server_default=sa.text("8"))
    searched_items: Mapped[int | None]
    exact: Mapped[bool | None]
    match_threshold: Mapped[float | None]
    no_match: Mapped[bool | None]
    coarse_at: Mapped[datetime | None]
    final_at: Mapped[datetime | None]


class SearchCollection(InCollection, Base):
    """One of the collections of a search of several, whose job names none.

    A deleted collection takes its row and its candidates along, the last one the search (``uploads.removal``).
    """

    __tablename__ = "search_collections"
    # for deleting a collection
    __table_args__ = (sa.Index("ix_search_collections_collection_id", "collection_id"),)

    # its job, whose row is the last that is removed
    search_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    collection_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )


class Candidate(Base):
    """A candidate of a search; ``final_rank`` is written once, at the end of the job.

    ``similarity`` is the cosine similarity to the query by the search's embedder; null if another source found the item
    and that embedder has no vector of it. ``sources`` holds its rank in each source of a fused coarse stage. ``error``
    is that of its dead unit; a pair that the scorer can't judge, whoever tries, has an error in its Score. ``token`` is
    that of the attempt that found it.
    """

    __tablename__ = "candidates"
    __table_args__ = (
        # for deleting the items of a collection
        sa.Index("ix_candidates_item_id", "item_id"),
        # the best candidate of each search, without reading all of them
        sa.Index("ix_candidates_first", "search_id", postgresql_where=sa.text("final_rank = 1")),
    )

    search_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    item_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    coarse_rank: Mapped[int]
    similarity: Mapped[float | None]
    sources: Mapped[dict[str, Any] | None]
    final_rank: Mapped[int | None]
    decided_by: Mapped[DecidedBy | None]
    error: Mapped[str | None]
    token: Mapped[uuid.UUID]


class _ScoreColumns:
    """The result of a scorer for a pair (``retllm.fine.PairScore``)."""

    score: Mapped[float | None]
    log_odds: Mapped[float | None]
    entropy: Mapped[float | None]
    injected_layer: Mapped[int | None]
    uncertainty: Mapped[float | None]
    tokens: Mapped[int]
    # what of the pair was changed for the model
    remark: Mapped[str | None]
    # large, and read for one pair at a time
    trace: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class Score(_ScoreColumns, Base):
    """The score of one candidate; its key prevents that a unit done twice counts twice.

    ``error`` says why the pair has no score; ``score`` is null exactly then. ``cached`` is true for a score from the
    cache. ``token`` is that of the attempt that stored it.
    """

    __tablename__ = "scores"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["search_id", "item_id"], ["candidates.search_id", "candidates.item_id"], ondelete="CASCADE"
        ),
    )

    search_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    item_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    scorer_version: Mapped[str] = mapped_column(primary_key=True)
    error: Mapped[str | None]
    cached: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    token: Mapped[uuid.UUID]


class CachedScore(_ScoreColumns, Base):
    """A cached score of a pair of contents for all searches; ``key`` is a hash of scorer version and both contents."""

    __tablename__ = "score_cache"
    # the oldest are evicted first
    __table_args__ = (sa.Index("ix_score_cache_created_at", "created_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)
