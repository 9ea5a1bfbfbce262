"""The account of the caller and its tokens."""

from __future__ import annotations

import hashlib
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from retllm import accounts
from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.db.tables import ApiToken
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api
from retllm_web.api.spec import ONE_LINE, tags
from retllm_web.auth import current_user
from retllm_web.services import services

TAGS = tags("account")


class MeView(BaseModel):
    """An account."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    role: Role
    created_at: datetime


class TokenRequest(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=ONE_LINE, description="what the token is for")


class TokenView(BaseModel):
    """A bearer token, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    created_at: datetime
    last_used_at: datetime | None


class NewTokenView(TokenView):
    """A bearer token that was made just now; ``token`` is shown this once."""

    token: str


class TokenList(BaseModel):
    """The tokens that still work, oldest first."""

    tokens: list[TokenView]


class TokenPath(BaseModel):
    """The key of a token."""

    token_id: UUID


@api.get("/me", tags=TAGS, responses={200: MeView})
def get_me() -> Response:
    """The account that the token belongs to."""
    return answer(MeView.model_validate(current_user()))


@api.get("/tokens", tags=TAGS, responses={200: TokenList})
def list_tokens() -> Response:
    """The caller's tokens that still work."""
    with transaction(services().sessions) as session:
        found = accounts.list_tokens(session, current_user())
        return answer(TokenList(tokens=[TokenView.model_validate(token) for token in found]))


@api.post("/tokens", tags=TAGS, responses={201: NewTokenView})
def create_token(body: TokenRequest) -> Response:
    """Make a token; its secret is in this answer and nowhere else."""
    with transaction(services().sessions) as session:
        secret = accounts.issue_token(session, current_user(), body.name)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        token = session.scalars(sa.select(ApiToken).where(ApiToken.digest == digest)).one()
        shown = TokenView.model_validate(token)
    return answer(NewTokenView(**shown.model_dump(), token=secret), 201)


@api.delete("/tokens/<uuid:token_id>", tags=TAGS, responses={204: None})
def delete_token(path: TokenPath) -> Response:
    """End a token."""
    with transaction(services().sessions) as session:
        accounts.revoke_token(session, current_user(), path.token_id)
    return nothing()
