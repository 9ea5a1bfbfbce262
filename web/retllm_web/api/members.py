"""The visibility and the members of a collection."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from retllm.db.enums import MemberRole, Role, TokenScope, Visibility
from retllm.db.session import transaction
from retllm.identity import accounts, members
from retllm.identity.access import Right, collection_for, require_scope
from retllm_web.actions import membership
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.people import UserName
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import PageQuery, cut
from retllm_web.http.services import services

TAGS = tags("members")


class MemberView(BaseModel):
    """A member of a collection."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="the key of the account")
    name: str
    role: MemberRole = Field(description="the role in this collection; the role of the account limits it")
    account_role: Role
    locked_out: bool
    since: datetime


class MemberList(BaseModel):
    """The visibility of a collection and a page of its members, oldest accounts first."""

    visibility: Visibility
    members: list[MemberView]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class MemberRequest(BaseModel):
    """A member to add."""

    model_config = ConfigDict(extra="forbid")

    name: UserName = Field(description="the name of the account")
    role: MemberRole = MemberRole.VIEWER


class MemberPath(CollectionPath):
    """The key of a collection and that of a member's account."""

    user_id: UUID


class VisibilityBody(BaseModel):
    """Who else may see a collection than its owner, its members and administrators."""

    model_config = ConfigDict(extra="forbid")

    visibility: Visibility


@api.get("/collections/<uuid:collection_id>/members", tags=TAGS, responses={200: MemberList})
def list_members(path: CollectionPath, query: PageQuery) -> Response:
    """List the members; for the owner and administrators."""
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), path.collection_id, Right.MANAGE)
        rows = members.page(session, found, after=query.after, limit=query.limit + 1)
    page, following = cut(rows, query.limit)
    shown = [MemberView.model_validate(member) for member in page]
    return answer(MemberList(visibility=found.visibility, members=shown, next=following))


@api.post("/collections/<uuid:collection_id>/members", tags=TAGS, responses={200: MemberView, 409: ErrorBody})
def add_member(path: CollectionPath, body: MemberRequest) -> Response:
    """Add a member, or change a member's role; for the owner and administrators."""
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), path.collection_id, Right.MANAGE)
        member = membership.add_member(session, found, accounts.find_user(session, body.name), body.role)
    return answer(MemberView.model_validate(member))


@api.delete("/collections/<uuid:collection_id>/members/<uuid:user_id>", tags=TAGS, responses={204: None})
def remove_member(path: MemberPath) -> Response:
    """Remove a member; the owner and administrators may remove anyone, a member only themselves."""
    user = current_actor()
    require_scope(user, TokenScope.MANAGE)
    right = Right.SEE if path.user_id == user.id else Right.MANAGE
    with transaction(services().sessions) as session:
        found = collection_for(session, user, path.collection_id, right)
        membership.remove_member(session, found, path.user_id)
    return nothing()


@api.put("/collections/<uuid:collection_id>/visibility", tags=TAGS, responses={200: VisibilityBody})
def set_visibility(path: CollectionPath, body: VisibilityBody) -> Response:
    """Change who may see a collection; for the owner and administrators."""
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), path.collection_id, Right.MANAGE)
        membership.set_visibility(session, found, body.visibility)
    return answer(body)
