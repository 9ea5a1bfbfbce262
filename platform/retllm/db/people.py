"""Tables of members, links, the audit log and saved views."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from retllm.db.base import Base, Keyed
from retllm.db.deletion import InCollection
from retllm.db.enums import MemberRole


class CollectionMember(Base):
    """A member of a collection of another owner."""

    __tablename__ = "collection_members"
    __table_args__ = (sa.Index("ix_collection_members_user_id", "user_id"),)

    collection_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[MemberRole]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class ShareLink(Keyed, InCollection, Base):
    """An address that opens a collection, or the result of a search, without an account; only its digest is stored.

    ``search_id`` is null for a collection; ``collection_id`` is null for a search of several. The link has the rights
    of its maker at the moment of each request. A revoked link has no row. ``uses`` counts how often it was opened.
    """

    __tablename__ = "share_links"
    __table_args__ = (
        sa.CheckConstraint("num_nonnulls(collection_id, search_id) > 0", name="opens_something"),
        sa.Index("ix_share_links_collection_id_id", "collection_id", "id"),
        sa.Index("ix_share_links_search_id_id", "search_id", "id", postgresql_where=sa.text("search_id IS NOT NULL")),
        sa.Index("ix_share_links_user_id", "user_id"),
    )

    collection_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("collections.id", ondelete="CASCADE"))
    search_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("searches.id", ondelete="CASCADE"))
    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    downloads: Mapped[bool]
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    uses: Mapped[int] = mapped_column(default=0, server_default=sa.text("0"))


class AuditEntry(Keyed, Base):
    """An entry of the audit log. It has no foreign keys, so that it stays when its target is deleted.

    ``user_name`` is the name at that time; null if the account is unknown (a wrong password).
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        sa.Index("ix_audit_log_user_name_id", "user_name", "id"),
        sa.Index("ix_audit_log_action_id", "action", "id"),
        sa.Index("ix_audit_log_collection_id_id", "collection_id", "id"),
    )

    user_name: Mapped[str | None]
    action: Mapped[str]
    target: Mapped[str | None]
    target_id: Mapped[uuid.UUID | None]
    collection_id: Mapped[uuid.UUID | None]
    address: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=sa.text("'{}'::jsonb"))


class SavedView(Keyed, Base):
    """Named filters of the history of one account; ``address`` is the query string without ``?``."""

    __tablename__ = "saved_views"
    __table_args__ = (sa.UniqueConstraint("user_id", "name"),)

    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    address: Mapped[str]
