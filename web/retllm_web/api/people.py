"""Accounts and the audit log, for administrators."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from flask import Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StringConstraints
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.identity import accounts, audit, passwords
from retllm.identity.access import require_role
from retllm.identity.audit import Action
from retllm_web.actions import administration
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import PREFIX, api
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import PageQuery, cut, optional
from retllm_web.http.services import services

TAGS = tags("people")

UserName = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")]
Password = Annotated[str, StringConstraints(min_length=passwords.MIN, max_length=passwords.MAX)]


class UserView(BaseModel):
    """An account as administrators see it."""

    id: UUID
    name: str
    role: Role
    disabled: bool = Field(description="locked out: neither the password nor a token opens anything")
    collections: int = Field(description="how many the account owns")
    created_at: datetime
    last_login_at: datetime | None = Field(description="the last log-in in a browser")


class NewUserView(UserView):
    """An account whose password was set just now."""

    password: str | None = Field(description="the password if it was made up here, shown this once; else null")


class UserList(BaseModel):
    """A page of accounts, oldest first."""

    users: list[UserView]
    next: UUID | None = Field(description="send as `after` for the next page; null at the end")


class UserQuery(PageQuery):
    """Which accounts."""

    q: str | None = optional("the name has this in it, in any case", max_length=100)


class UserPath(BaseModel):
    """The key of an account."""

    user_id: UUID


class UserRequest(BaseModel):
    """An account to be made."""

    model_config = ConfigDict(extra="forbid")

    name: UserName = Field(description="unique in any case; it stays as it is")
    role: Role = Role.EDITOR
    password: Password | None = Field(default=None, description="made up if left out")


class UserChange(BaseModel):
    """What to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    role: Role | None = None
    disabled: StrictBool | None = Field(default=None, description="lock the account out, or let it in again")


class PasswordRequest(BaseModel):
    """A new password for an account."""

    model_config = ConfigDict(extra="forbid")

    password: Password | None = Field(default=None, description="made up if left out")


def _view(one: accounts.Listed) -> UserView:
    user = one.user
    return UserView(
        id=user.id,
        name=user.name,
        role=user.role,
        disabled=user.disabled_at is not None,
        collections=one.collections,
        created_at=user.created_at,
        last_login_at=user.last_login_at,
    )


def _shown(session: Session, user: User) -> UserView:
    return _view(accounts.listed(session, [user])[0])


@api.get("/users", tags=TAGS, responses={200: UserList})
def list_users(query: UserQuery) -> Response:
    """The accounts, oldest first; for administrators."""
    require_role(current_actor(), Role.ADMIN)
    with transaction(services().sessions) as session:
        rows = accounts.list_users(session, q=query.q, after=query.after, limit=query.limit + 1)
    page, following = cut(rows, query.limit)
    return answer(UserList(users=[_view(one) for one in page], next=following))


@api.post("/users", tags=TAGS, responses={201: NewUserView, 409: ErrorBody})
def create_user(body: UserRequest) -> Response:
    """Make an account; for administrators."""
    with transaction(services().sessions) as session:
        user, made_up = administration.create(session, body.name, body.role, body.password)
        view = NewUserView(**_shown(session, user).model_dump(), password=made_up)
    return answer(view, 201, location=f"{PREFIX}/users/{view.id}")


@api.get("/users/<uuid:user_id>", tags=TAGS, responses={200: UserView})
def get_user(path: UserPath) -> Response:
    """One account; for administrators."""
    require_role(current_actor(), Role.ADMIN)
    with transaction(services().sessions) as session:
        return answer(_shown(session, administration.find(session, path.user_id)))


@api.patch("/users/<uuid:user_id>", tags=TAGS, responses={200: UserView, 409: ErrorBody})
def change_user(path: UserPath, body: UserChange) -> Response:
    """Give an account another role, lock it out, or let it in again; for administrators.

    The last administrator who gets in keeps the role and stays in (409).
    """
    with transaction(services().sessions) as session:
        user = administration.find(session, path.user_id)
        if body.role is not None:
            administration.set_role(session, user, body.role)
        if body.disabled is not None:
            administration.lock(session, user, out=body.disabled)
        view = _shown(session, user)
    return answer(view)


@api.post("/users/<uuid:user_id>/password", tags=TAGS, responses={200: NewUserView})
def give_password(path: UserPath, body: PasswordRequest) -> Response:
    """Give an account a new password, which ends its browser sessions and no token; for administrators."""
    with transaction(services().sessions) as session:
        user = administration.find(session, path.user_id)
        made_up = administration.give_password(session, user, body.password)
        view = NewUserView(**_shown(session, user).model_dump(), password=made_up)
    return answer(view)


def _written_out(value: Any) -> Any:
    # a bare number would be read as seconds since 1970
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", str(value)):
        raise ValueError("write a moment like 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


class AuditView(BaseModel):
    """One thing that somebody did."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    created_at: datetime
    user_name: str | None = Field(description="the name at that time; null if nobody was logged in")
    action: str
    target: str | None = Field(description="the name of what it was done to, at that time")
    target_id: UUID | None
    collection_id: UUID | None
    address: str | None = Field(description="where the request came from")
    detail: dict[str, Any]


class AuditList(BaseModel):
    """A page of the audit log, newest first."""

    entries: list[AuditView]
    next: UUID | None = Field(description="send as `after` for the next page; null at the end")


class AuditQuery(PageQuery):
    """Which entries."""

    user_name: str | None = optional("who did it: the exact name", max_length=100)
    action: Action | None = optional("what was done")
    collection_id: UUID | None = optional("in this collection")
    since: Moment | None = optional("from this moment on, with its zone")
    until: Moment | None = optional("before this moment, with its zone")


@api.get("/audit", tags=TAGS, responses={200: AuditList})
def list_audit(query: AuditQuery) -> Response:
    """Who did what, newest first; for administrators."""
    require_role(current_actor(), Role.ADMIN)
    filters = audit.AuditFilters(query.user_name, query.action, query.collection_id, query.since, query.until)
    with transaction(services().sessions) as session:
        rows = audit.page(session, filters, after=query.after, limit=query.limit + 1)
    page, following = cut(rows, query.limit)
    return answer(AuditList(entries=[AuditView.model_validate(one) for one in page], next=following))
