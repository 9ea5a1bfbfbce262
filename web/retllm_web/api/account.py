"""The caller's account and its tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from retllm.db.enums import Role, TokenScope
from retllm.db.session import transaction
from retllm.identity import tokens
from retllm.identity.audit import Action
from retllm_web.actions.auditing import record
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api
from retllm_web.api.spec import tags
from retllm_web.http.auth import current_actor, token_key
from retllm_web.http.bodies import ONE_LINE
from retllm_web.http.services import services

TAGS = tags("account")


class MeView(BaseModel):
    """An account."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    role: Role
    created_at: datetime


class TokenRequest(BaseModel):
    """A request to create a token."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=ONE_LINE, description="purpose of the token")
    scope: TokenScope = Field(
        default=tokens.DEFAULT_SCOPE,
        description="limits the rights of the account: read (view and export), search (also search and review), "
        "change (also create collections, upload, index, delete items), manage (everything)",
    )
    days: Annotated[int, Field(ge=1, le=tokens.MAX_DAYS)] | None = Field(
        default=tokens.DEFAULT_DAYS, description="days until it expires; null: never"
    )


class TokenView(BaseModel):
    """A bearer token, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    scope: TokenScope = Field(description="limits the rights of the account")
    created_at: datetime
    expires_at: datetime | None = Field(description="null: never")
    last_used_at: datetime | None


class NewTokenView(TokenView):
    """A new bearer token; ``token`` is its secret, shown only once."""

    token: str


class TokenList(BaseModel):
    """The valid tokens, oldest first."""

    tokens: list[TokenView]


class TokenPath(BaseModel):
    """The key of a token."""

    token_id: UUID


@api.get("/me", tags=TAGS, responses={200: MeView})
def get_me() -> Response:
    """Return the account of the token or session."""
    return answer(MeView.model_validate(current_actor().user))


@api.get("/tokens", tags=TAGS, responses={200: TokenList})
def list_tokens() -> Response:
    """List the caller's valid tokens."""
    with transaction(services().sessions) as session:
        found = tokens.active(session, current_actor().user)
        return answer(TokenList(tokens=[TokenView.model_validate(token) for token in found]))


@api.post("/tokens", tags=TAGS, responses={201: NewTokenView})
def create_token(body: TokenRequest) -> Response:
    """Create a token; only this response has its secret. A caller with a token needs the scope `manage`."""
    with transaction(services().sessions) as session:
        token, secret = tokens.issue(session, token_key(), current_actor(), body.name, scope=body.scope, days=body.days)
        record(
            session,
            Action.TOKEN_CREATED,
            target=token.name,
            target_id=token.id,
            scope=body.scope.value,
            days=body.days,
        )
        shown = TokenView.model_validate(token)
    return answer(NewTokenView(**shown.model_dump(), token=secret), 201)


@api.delete("/tokens/<uuid:token_id>", tags=TAGS, responses={204: None})
def delete_token(path: TokenPath) -> Response:
    """Revoke a token. A caller with a token needs the scope `manage`."""
    with transaction(services().sessions) as session:
        ended = tokens.revoke(session, current_actor(), path.token_id)
        record(session, Action.TOKEN_REVOKED, target=ended.name, target_id=ended.id)
    return nothing()
