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
from retllm.identity import accounts, audit, names, passwords
from retllm.identity.access import require_role
from retllm.identity.audit import Action
from retllm_web.actions import administration
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import PREFIX, api
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor, hashing
from retllm_web.http.bodies import ONE_LINE
from retllm_web.http.paging import PageQuery, cut, optional
from retllm_web.http.services import services

TAGS = tags("people")

UserName = Annotated[str, StringConstraints(min_length=1, max_length=names.MAX, pattern=ONE_LINE)]
Password = Annotated[str, StringConstraints(min_length=passwords.MIN, max_length=passwords.MAX)]


class UserView(BaseModel):
    """An account as administrators see it."""

    id: UUID
    name: str
    role: Role
    disabled: bool = Field(description="locked out: neither password nor tokens work")
    collections: int = Field(description="number of collections that the account owns")
    created_at: datetime
    last_login_at: datetime | None = Field(description="the last log-in in a browser")


class NewUserView(UserView):
    """An account with a new password."""

    password: str | None = Field(description="the password if the server generated it, shown only once; else null")


class UserList(BaseModel):
    """A page of accounts, oldest first."""

    users: list[UserView]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class UserQuery(PageQuery):
    """Which accounts to list."""

    q: str | None = optional("only names that contain this, ignoring case", max_length=100)


class UserPath(BaseModel):
    """The key of an account."""

    user_id: UUID


class UserRequest(BaseModel):
    """An account to create."""

    model_config = ConfigDict(extra="forbid")

    name: UserName = Field(
        description="letters and digits of any script, and `. _ @ + -`; unique, ignoring case; cannot be changed later"
    )
    role: Role = Role.EDITOR
    password: Password | None = Field(default=None, description="default: generated")


class UserChange(BaseModel):
    """The changes of an account; omitted fields stay unchanged."""

    model_config = ConfigDict(extra="forbid")

    role: Role | None = None
    disabled: StrictBool | None = Field(default=None, description="true locks the account out, false unlocks it")


class PasswordRequest(BaseModel):
    """A new password for an account."""

    model_config = ConfigDict(extra="forbid")

    password: Password | None = Field(default=None, description="default: generated")


def _view(listed: accounts.Listed) -> UserView:
    user = listed.user
    return UserView(
        id=user.id,
        name=user.name,
        role=user.role,
        disabled=user.disabled_at is not None,
        collections=listed.collections,
        created_at=user.created_at,
        last_login_at=user.last_login_at,
    )


def _shown(session: Session, user: User) -> UserView:
    return _view(accounts.listed(session, [user])[0])


@api.get("/users", tags=TAGS, responses={200: UserList})
def list_users(query: UserQuery) -> Response:
    """List the accounts, oldest first; for administrators."""
    require_role(current_actor(), Role.ADMIN)
    with transaction(services().sessions) as session:
        rows = accounts.list_users(session, q=query.q, after=query.after, limit=query.limit + 1)
    page, following = cut(rows, query.limit)
    return answer(UserList(users=[_view(listed) for listed in page], next=following))


@api.post("/users", tags=TAGS, responses={201: NewUserView, 409: ErrorBody})
def create_user(body: UserRequest) -> Response:
    """Create an account; for administrators."""
    with hashing(), transaction(services().sessions) as session:
        user, generated = administration.create(session, body.name, body.role, body.password)
        view = NewUserView(**_shown(session, user).model_dump(), password=generated)
    return answer(view, 201, location=f"{PREFIX}/users/{view.id}")


@api.get("/users/<uuid:user_id>", tags=TAGS, responses={200: UserView})
def get_user(path: UserPath) -> Response:
    """Return one account; for administrators."""
    require_role(current_actor(), Role.ADMIN)
    with transaction(services().sessions) as session:
        return answer(_shown(session, administration.find(session, path.user_id)))


@api.patch("/users/<uuid:user_id>", tags=TAGS, responses={200: UserView, 409: ErrorBody})
def change_user(path: UserPath, body: UserChange) -> Response:
    """Change the role of an account, lock it out, or unlock it; for administrators.

    The last active administrator can lose neither the role nor access (409).
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
    """Set a new password, which ends the browser sessions of the account but no token; for administrators."""
    with hashing(), transaction(services().sessions) as session:
        user = administration.find(session, path.user_id)
        generated = administration.set_password(session, user, body.password)
        view = NewUserView(**_shown(session, user).model_dump(), password=generated)
    return answer(view)


def _require_iso(value: Any) -> Any:
    # pydantic would read a number as seconds since 1970
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", str(value)):
        raise ValueError("write a time like 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_require_iso)]


class AuditView(BaseModel):
    """An entry of the audit log."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    created_at: datetime
    user_name: str | None = Field(description="the name at that time; null without a log-in")
    action: str
    target: str | None = Field(description="the name of the changed object at that time")
    target_id: UUID | None
    collection_id: UUID | None
    address: str | None = Field(description="network address of the client")
    detail: dict[str, Any]


class AuditList(BaseModel):
    """A page of the audit log, newest first."""

    entries: list[AuditView]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class AuditQuery(PageQuery):
    """Which entries to list."""

    user_name: str | None = optional("only actions of this account, by its exact name", max_length=100)
    action: Action | None = optional("only this action")
    collection_id: UUID | None = optional("only actions in this collection")
    since: Moment | None = optional("at this time or later, with time zone")
    until: Moment | None = optional("before this time, with time zone")


@api.get("/audit", tags=TAGS, responses={200: AuditList})
def list_audit(query: AuditQuery) -> Response:
    """List the entries of the audit log, newest first; for administrators."""
    require_role(current_actor(), Role.ADMIN)
    filters = audit.AuditFilters(query.user_name, query.action, query.collection_id, query.since, query.until)
    with transaction(services().sessions) as session:
        rows = audit.page(session, filters, after=query.after, limit=query.limit + 1)
    page, following = cut(rows, query.limit)
    return answer(AuditList(entries=[AuditView.model_validate(entry) for entry in page], next=following))
