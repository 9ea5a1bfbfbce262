"""What administrators do with accounts, with its entry in the audit log; for the API and the pages.

Each of these raises ``Forbidden`` unless the account of the request is an administrator's.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.tables import User
from retllm.errors import NotFound
from retllm.identity import accounts, passwords
from retllm.identity.access import require_role
from retllm.identity.audit import Action
from retllm_web.actions.auditing import note
from retllm_web.http.auth import current_actor


def find(session: Session, user_id: UUID) -> User:
    """An account.

    Raises:
        NotFound: there is none.
    """
    require_role(current_actor(), Role.ADMIN)
    user = session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such account.")
    return user


def create(session: Session, name: str, role: Role, password: str | None) -> tuple[User, str | None]:
    """A new account, and its password if it was made up here because None was given.

    Raises:
        InvalidInput: the name or the password can't be accepted.
        Conflict: the name is taken.
    """
    require_role(current_actor(), Role.ADMIN)
    made_up = None if password else passwords.made_up()
    user = accounts.create_user(session, name, password or made_up or "", role)
    note(session, Action.USER_CREATED, target=user.name, target_id=user.id, role=role.value)
    return user, made_up


def set_role(session: Session, user: User, role: Role) -> None:
    """Give ``user`` another role.

    Raises:
        Conflict: they are the last administrator who gets in.
    """
    require_role(current_actor(), Role.ADMIN)
    before = user.role
    accounts.set_role(session, user, role)
    if before is not role:
        changed = {"from": before.value, "to": role.value}
        note(session, Action.USER_CHANGED, target=user.name, target_id=user.id, role=changed)


def lock(session: Session, user: User, *, out: bool) -> None:
    """Lock ``user`` out, or let them in again.

    Raises:
        Conflict: they are the last administrator who gets in.
    """
    require_role(current_actor(), Role.ADMIN)
    before = user.disabled_at is not None
    accounts.lock_out(session, user) if out else accounts.unlock(session, user)
    if before is not out:
        note(session, Action.USER_CHANGED, target=user.name, target_id=user.id, locked_out=out)


def give_password(session: Session, user: User, password: str | None) -> str | None:
    """Give ``user`` a new password; gives it back if it was made up here because None was given.

    Raises:
        InvalidInput: it is too short or too long.
    """
    require_role(current_actor(), Role.ADMIN)
    made_up = None if password else passwords.made_up()
    accounts.set_password(session, user, password or made_up or "")
    note(session, Action.PASSWORD_CHANGED, target=user.name, target_id=user.id)
    return made_up
