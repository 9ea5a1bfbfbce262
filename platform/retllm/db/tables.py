"""The tables of collections and jobs (design: data); other tables have their own modules.

Keys are UUID v7, timestamps have a time zone, states are enums of ``enums.py``.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects.postgresql import REGCONFIG, TSVECTOR
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base, Keyed, new_id
from retllm.db.deletion import Deletable, InCollection, InJob
from retllm.db.enums import (
    AttemptOutcome,
    ItemKind,
    ItemState,
    JobKind,
    JobState,
    Positions,
    Role,
    Stage,
    TokenScope,
    UnitState,
    Visibility,
)
from retllm.db.facts import ItemFacts, fact_indexes
from retllm.db.ocr import ItemOcr, ocr_indexes
from retllm.db.reviews import EvaluationRun
from retllm.db.trash import ItemTrash, is_trashed, trash_indexes
from retllm.errors import NotFound

__all__ = [
    "DEFAULT_LANGUAGE",
    "ITEM_WORDS",
    "ApiToken",
    "Attempt",
    "Base",
    "Collection",
    "Embedding",
    "EmbeddingClaim",
    "EmbeddingModel",
    "Item",
    "Job",
    "Login",
    "Unit",
    "User",
    "has_searched_text",
    "in_trash",
    "is_kept",
    "new_id",
    "searched_text",
    "words_of",
]

DEFAULT_LANGUAGE = "english"
"""Language of the words of a collection that does not set it."""


class User(Keyed, Base):
    """An account."""

    __tablename__ = "users"
    # names are unique regardless of case
    __table_args__ = (sa.Index("uq_users_lower_name", sa.text("lower(name)"), unique=True),)

    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[Role]
    disabled_at: Mapped[datetime | None]
    last_login_at: Mapped[datetime | None]


class ApiToken(Keyed, Base):
    """A bearer token; only its digest is stored. It is valid until ``expires_at`` (null: no limit) or until revoked."""

    __tablename__ = "api_tokens"

    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    scope: Mapped[TokenScope]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Login(Keyed, Base):
    """A login session of a browser; the cookie holds its key.

    ``address`` and ``agent`` (the browser) at log-in help its owner recognize it.
    """

    __tablename__ = "logins"

    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    address: Mapped[str | None]
    agent: Mapped[str | None]
    seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    ended_at: Mapped[datetime | None]


class Collection(Deletable, Base):
    """A named set of items with one owner; ``people.CollectionMember`` holds its members.

    ``embedder`` is the main embedder of its searches; null: the first one of the settings. ``language`` is the text
    search configuration of its items' words. Since ``deleted_at`` nobody sees it and what is in it (``deletion``).
    Until ``kept_until`` it can be restored; if that is null, ``uploads.removal`` removes it. Items that were in its
    trash at ``trash_emptied_at`` can't be restored, and are deleted for good. ``ocr_chosen_at`` is when somebody first
    asked for the text in its pictures; null: nobody did.
    """

    __tablename__ = "collections"
    __table_args__ = (
        # the name of a deleted one can be used again
        sa.Index(
            "uq_collections_owner_id_name",
            "owner_id",
            "name",
            unique=True,
            postgresql_where=sa.text("deleted_at IS NULL"),
        ),
        sa.Index("ix_collections_deleted_at", "deleted_at", postgresql_where=sa.text("deleted_at IS NOT NULL")),
        sa.Index(
            "ix_collections_trash_emptied_at",
            "trash_emptied_at",
            postgresql_where=sa.text("trash_emptied_at IS NOT NULL"),
        ),
        sa.Index("ix_collections_without_positions", "id", postgresql_where=sa.text("positions = 'nobody'")),
    )

    owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("users.id"))
    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    visibility: Mapped[Visibility] = mapped_column(
        default=Visibility.PRIVATE, server_default=sa.text(f"'{Visibility.PRIVATE}'")
    )
    positions: Mapped[Positions] = mapped_column(
        default=Positions.EVERYONE, server_default=sa.text(f"'{Positions.EVERYONE}'")
    )
    embedder: Mapped[str | None]
    language: Mapped[str] = mapped_column(default=DEFAULT_LANGUAGE, server_default=sa.text(f"'{DEFAULT_LANGUAGE}'"))
    deleted_by: Mapped[uuid.UUID | None]
    kept_until: Mapped[datetime | None]
    trash_emptied_at: Mapped[datetime | None]
    ocr_chosen_at: Mapped[datetime | None]


class Referenced:
    """Columns that say where an original lies that is not copied; null for one that is stored (``media.references``).

    ``original_root`` is the folder or prefix of a bucket that was allowed, ``original_path`` the path or key from there
    on, with the bytes that the file system has.
    """

    original_root: Mapped[str | None]
    original_path: Mapped[bytes | None]


class Source(Referenced, Keyed, InCollection, Base):
    """A whole file whose parts are items: pages of a document, frames of a film. It goes with the last of its items."""

    __tablename__ = "sources"
    __table_args__ = (sa.UniqueConstraint("collection_id", "content_sha256"),)

    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    name: Mapped[str]
    media_type: Mapped[str]
    content_sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    file_key: Mapped[str]


class Item(ItemFacts, ItemOcr, ItemTrash, Referenced, Keyed, InCollection, Base):
    """A picture, a text, or a picture with its caption.

    ``content_sha256`` (of the picture's bytes, or of a text in UTF-8) is unique within a collection; that of a part of
    a file follows from the file's and the part.
    ``source_id`` is the file that it is a part of, and ``part`` which one (``media.sources``); null for others.
    ``version`` counts changes of the caption, so that embeddings of an older one count as stale.
    ``caption_file_id`` is the received file that gave the caption, or that a text is from (a row of ``upload_files``
    while its upload is kept), and tells when it came; null for a caption of the picture's own file, and a typed text.
    ``copy_key`` names the working copy of a picture; null while there is none, or if the picture needs none.
    ``error`` is the error of the last failed embedding; null after a success.
    """

    __tablename__ = "items"
    __table_args__ = (
        sa.Index(
            "uq_items_collection_content",
            "collection_id",
            "content_sha256",
            unique=True,
            postgresql_where=sa.text("state = 'ready'"),
        ),
        sa.Index("ix_items_collection_id_id", "collection_id", "id"),
        # covers counting and listing by state, so that neither reads the rows
        sa.Index(
            "ix_items_ready",
            "collection_id",
            "id",
            postgresql_include=["kind", "version"],
            postgresql_where=sa.text("state = 'ready'"),
        ),
        sa.Index("ix_items_source_id", "source_id", postgresql_where=sa.text("source_id IS NOT NULL")),
        # tells where referenced originals lie
        sa.Index("ix_items_original_root", "original_root", postgresql_where=sa.text("original_root IS NOT NULL")),
        sa.Index("ix_items_failed", "collection_id", "id", postgresql_where=sa.text("error IS NOT NULL")),
        *fact_indexes(),
        *ocr_indexes(),
        *trash_indexes(),
    )

    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    kind: Mapped[ItemKind]
    state: Mapped[ItemState] = mapped_column(default=ItemState.READY)
    name: Mapped[str]
    content_sha256: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    text: Mapped[str | None]
    media_type: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    picture_key: Mapped[str | None]
    thumbnail_key: Mapped[str | None]
    copy_key: Mapped[str | None]
    source_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("sources.id", ondelete="SET NULL"))
    part: Mapped[dict[str, Any] | None]
    caption_file_id: Mapped[uuid.UUID | None]
    error: Mapped[str | None]

    @hybrid_property
    def shown_text(self) -> str | None:
        """Its text, where earlier results still name it; None if it is in the trash."""
        return self.text if self.state is ItemState.READY else None

    @shown_text.inplace.expression
    @classmethod
    def _shown_text(cls) -> sa.ColumnElement[str | None]:
        return sa.case((cls.state == ItemState.READY, cls.text))

    @hybrid_property
    def shown_ocr_text(self) -> str | None:
        """The text in its picture, where earlier results still name it; None if it is in the trash."""
        return self.ocr_text if self.state is ItemState.READY else None

    @shown_ocr_text.inplace.expression
    @classmethod
    def _shown_ocr_text(cls) -> sa.ColumnElement[str | None]:
        return sa.case((cls.state == ItemState.READY, cls.ocr_text))

    @hybrid_property
    def shows_picture(self) -> bool:
        """Whether it has a picture that its viewers may see; false if it is in the trash."""
        return self.thumbnail_key is not None and self.state is ItemState.READY

    @shows_picture.inplace.expression
    @classmethod
    def _shows_picture(cls) -> sa.ColumnElement[bool]:
        return sa.and_(cls.thumbnail_key.is_not(None), cls.state == ItemState.READY)


def in_trash(collection_id: Any) -> sa.ColumnElement[bool]:
    """Return the condition for items in the trash of a collection that can be restored: it was not emptied since.

    The key of the collection is a value, so that its row is read once; a column of items, for few of them.
    """
    emptied = sa.select(Collection.trash_emptied_at).where(Collection.id == collection_id).correlate(Item)
    came_later = Item.trashed_at > sa.func.coalesce(emptied.scalar_subquery(), sa.text("'-infinity'"))
    return sa.and_(is_trashed(Item), Item.collection_id == collection_id, came_later)


def is_kept() -> sa.ColumnElement[bool]:
    """Return the condition for collections in the trash that can be restored."""
    return sa.and_(Collection.deleted_at.is_not(None), Collection.kept_until > sa.func.now())


ITEM_WORDS = sa.Column("words", TSVECTOR, nullable=True)
"""The words of an item's text and of the text in its picture, stemmed in the language of its collection.

A trigger (migrations 0014 and 0040) sets them with these; never loaded with an item.
"""
cast(sa.Table, Item.__table__).append_column(ITEM_WORDS)
sa.Index("ix_items_words", ITEM_WORDS, postgresql_using="gin")


def words_of(language: str, text: Any) -> sa.ColumnElement[Any]:
    """Return the words of a text in a language, as the column ``items.words`` has them."""
    return sa.func.to_tsvector(sa.cast(sa.literal(language), REGCONFIG), text)


def searched_text() -> sa.ColumnElement[str]:
    """Return what the words of an item are of: its text, and the text in its picture."""
    return sa.func.concat_ws("\n", Item.text, Item.ocr_text, type_=sa.Text)


def has_searched_text() -> sa.ColumnElement[bool]:
    """Return the condition for items that have a text, or one in their picture; none of the two is joined for it."""
    return sa.or_(Item.text.is_not(None), Item.ocr_text != "")


class EmbeddingModel(Keyed, Base):
    """One embedder with revision and preprocessing; vectors of different rows are never compared."""

    __tablename__ = "embedding_models"
    __table_args__ = (sa.UniqueConstraint("name", "revision", "preprocessing_hash"),)

    name: Mapped[str]
    revision: Mapped[str]
    dimension: Mapped[int]
    preprocessing_hash: Mapped[str]


class Embedding(Base):
    """The vector of an item by a model; a large collection has an index of each model's vectors (``vectors.py``).

    ``image_weight`` is the weight of the picture in the vector of a captioned picture; ``token`` is that of the attempt
    that wrote it, and stays when the attempt is deleted with its job.
    """

    __tablename__ = "embeddings"
    __table_args__ = (
        # covers the check whether an item is indexed, without the vectors
        sa.Index(
            "ix_embeddings_fresh",
            "collection_id",
            "model_id",
            "item_id",
            postgresql_include=["item_version", "image_weight"],
        ),
    )

    item_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("embedding_models.id", ondelete="CASCADE"), primary_key=True
    )
    collection_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    item_version: Mapped[int]
    image_weight: Mapped[float]
    vector: Mapped[Any] = mapped_column(Vector())
    token: Mapped[uuid.UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class EmbeddingClaim(Base):
    """An item that an attempt embeds with a model just now; void when the attempt's lease has run out."""

    __tablename__ = "embedding_claims"

    item_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("items.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("embedding_models.id", ondelete="CASCADE"), primary_key=True
    )
    token: Mapped[uuid.UUID]


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
    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("users.id"))
    collection_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
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
