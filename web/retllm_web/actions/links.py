"""Links that open a collection or a result without an account: make, list and revoke them, with audit entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from flask import url_for
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from retllm.db.people import ShareLink
from retllm.db.session import transaction
from retllm.identity import links
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.identity.links import Target
from retllm_web.actions.auditing import record
from retllm_web.http.auth import current_actor, link_key
from retllm_web.http.bodies import ONE_LINE
from retllm_web.http.services import services

FindTarget = Callable[[Session, Actor, UUID], Target]


class LinkRequest(BaseModel):
    """A link to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=ONE_LINE, description="what it is for")
    days: Annotated[int, Field(ge=1, le=3650)] | None = Field(
        default=None,
        description=f"days until it ends, at most `RETLLM_LINK_DAYS`; null: {links.DEFAULT_DAYS}, or as many as that",
    )
    downloads: bool = Field(
        default=False,
        description="whether visitors may download pictures: originals, and whole files of a collection, if everyone "
        "may see where its items were made, else copies that do not tell it",
    )


class LinkView(BaseModel):
    """A link that opens a collection or a result without an account."""

    id: UUID
    name: str = Field(description="what it is for")
    collection_id: UUID | None = Field(description="null for the result of a search of several collections")
    search_id: UUID | None = Field(description="the search whose result it opens; null if it opens the collection")
    made_by: str = Field(description="the account with whose rights it opens anything")
    downloads: bool
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    uses: int = Field(description="how often it was opened")


@dataclass(frozen=True)
class Made:
    """A new link with its address, which is known only now."""

    link: LinkView
    address: str


def make(find: FindTarget, key: UUID, asked: LinkRequest) -> Made:
    """Make a link to what ``find`` returns for the account of this request.

    Raises:
        NotFound, Forbidden: there is no such thing that this account may share.
        Forbidden, InvalidInput, Conflict: see :func:`retllm.identity.links.make`.
    """
    actor, longest = current_actor(), services().settings.link_days
    days = asked.days or min(links.DEFAULT_DAYS, max(1, longest))
    with transaction(services().sessions) as session:
        target = find(session, actor, key)
        link, secret = links.make(
            session, link_key(), actor, target, asked.name, days=days, longest=longest, downloads=asked.downloads
        )
        _record(session, Action.LINK_CREATED, link, days=days, downloads=asked.downloads)
    return Made(_view(link, actor.name), url_for("shared.start", token=secret, _external=True))


def page(session: Session, target: Target, *, after: UUID | None = None, limit: int) -> list[LinkView]:
    """Return links to a collection or a result that have not ended, newest first."""
    longest = services().settings.link_days
    return [_view(*row) for row in links.page(session, target, longest=longest, after=after, limit=limit)]


def revoke(link_id: UUID) -> ShareLink:
    """Revoke a link and return it.

    Raises:
        NotFound, Forbidden: see :func:`retllm.identity.links.revoke`.
    """
    with transaction(services().sessions) as session:
        link = links.revoke(session, current_actor(), link_id)
        _record(session, Action.LINK_REVOKED, link)
    return link


def _record(session: Session, action: Action, link: ShareLink, **detail: Any) -> None:
    if link.search_id is not None:
        detail["search"] = str(link.search_id)
    record(session, action, target=link.name, target_id=link.id, collection_id=link.collection_id, **detail)


def _view(link: ShareLink, maker: str) -> LinkView:
    end = links.end_of(link, services().settings.link_days)
    stored = {name: getattr(link, name) for name in LinkView.model_fields if name not in ("made_by", "expires_at")}
    return LinkView(**stored, made_by=maker, expires_at=end)
