"""The tables of accounts, collections and vectors (design: data); other tables have their own modules.

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
from retllm.db.deletion import Deletable, InCollection
from retllm.db.enums import ItemKind, ItemState, Positions, Role, TokenScope, Visibility
from retllm.db.facts import ItemFacts, fact_indexes
from retllm.db.ocr import ItemOcr, ocr_indexes
from retllm.db.trash import ItemTrash, is_trashed, trash_indexes

__all__ = [
    "DEFAULT_LANGUAGE",
    "ITEM_WORDS",
    "ApiToken",
    "Base",
    "Collection",
    "Embedding",
    "EmbeddingClaim",
    "EmbeddingModel",
    "Item",
    "Login",
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
