"""What is changed about who sees a collection, with its entry in the audit log; for the API and the pages."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import MemberRole, Visibility
from retllm.db.locks import lock_collection
from retllm.db.tables import Collection, User
from retllm.identity import members
from retllm.identity.audit import Action
from retllm.identity.members import Member
from retllm_web.actions.auditing import note


def add_member(session: Session, collection: Collection, user: User, role: MemberRole) -> Member:
    """Make ``user`` a member, or give a member another role.

    Raises:
        Conflict: the collection is theirs.
    """
    made = members.add_member(session, collection, user, role)
    _note(session, collection, user.id, user.name, role.value)
    return made


def remove_member(session: Session, collection: Collection, user_id: UUID) -> str:
    """End a membership; gives the name of who it was.

    Raises:
        NotFound: the collection has no such member.
    """
    name = members.remove_member(session, collection, user_id)
    _note(session, collection, user_id, name, "none")
    return name


def _note(session: Session, collection: Collection, user_id: UUID, name: str, role: str) -> None:
    note(session, Action.MEMBER_CHANGED, target=name, target_id=user_id, collection_id=collection.id, role=role)


def set_visibility(session: Session, collection: Collection, visibility: Visibility) -> None:
    """Say who sees ``collection`` besides its members."""
    if collection.visibility is visibility:
        return
    lock_collection(session, collection.id, alone=True)
    collection.visibility = visibility
    session.flush()
    note(
        session,
        Action.COLLECTION_CHANGED,
        target=collection.name,
        target_id=collection.id,
        collection_id=collection.id,
        visibility=visibility.value,
    )
