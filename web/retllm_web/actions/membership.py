"""Changes of members and visibility, each with its audit entry; shared by the API and the pages."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import MemberRole, Positions, Visibility
from retllm.db.locks import lock_collection
from retllm.db.tables import Collection, User
from retllm.identity import members
from retllm.identity.audit import Action
from retllm.identity.members import Member
from retllm.media import positions
from retllm_web.actions.auditing import record, record_collection


def add_member(session: Session, collection: Collection, user: User, role: MemberRole) -> Member:
    """Add ``user`` as a member, or change a member's role.

    Raises:
        Conflict: they own the collection.
    """
    member = members.add_member(session, collection, user, role)
    _record(session, collection, user.id, user.name, role.value)
    return member


def remove_member(session: Session, collection: Collection, user_id: UUID) -> str:
    """Remove a member and return their name.

    Raises:
        NotFound: the collection has no such member.
    """
    name = members.remove_member(session, collection, user_id)
    _record(session, collection, user_id, name, "none")
    return name


def _record(session: Session, collection: Collection, user_id: UUID, name: str, role: str) -> None:
    record(session, Action.MEMBER_CHANGED, target=name, target_id=user_id, collection_id=collection.id, role=role)


def set_positions(session: Session, collection: Collection, shown: Positions) -> None:
    """Change who sees where the items of ``collection`` were made.

    For nobody, no one sees them from the commit on. Those of the first items are erased at once, of all others by
    dispatchers.
    """
    if collection.positions is shown:
        return
    lock_collection(session, collection.id, alone=True)
    collection.positions = shown
    session.flush()
    if shown is Positions.NOBODY:
        positions.erase(session)
    record_collection(session, Action.COLLECTION_CHANGED, collection, positions=shown.value)


def set_visibility(session: Session, collection: Collection, visibility: Visibility) -> None:
    """Change who may see ``collection`` besides its members."""
    if collection.visibility is visibility:
        return
    lock_collection(session, collection.id, alone=True)
    collection.visibility = visibility
    session.flush()
    record_collection(session, Action.COLLECTION_CHANGED, collection, visibility=visibility.value)
