"""The actions of administrators on accounts, each with its audit entry; shared by the API and the pages.

Each of them raises ``Forbidden`` unless the account of the request is an administrator's.
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
from retllm_web.actions.auditing import record
from retllm_web.http.auth import current_actor


def find(session: Session, user_id: UUID) -> User:
    """Return an account.

    Raises:
        NotFound: no such account.
    """
    require_role(current_actor(), Role.ADMIN)
    user = session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such account.")
    return user


def create(session: Session, name: str, role: Role, password: str | None) -> tuple[User, str | None]:
    """Create an account; return it and, if ``password`` is None, the generated password.

    Raises:
        InvalidInput: the name or the password is invalid.
        Conflict: the name is taken.
    """
    require_role(current_actor(), Role.ADMIN)
    generated = None if password else passwords.generate()
    user = accounts.create_user(session, name, password or generated or "", role)
    record(session, Action.USER_CREATED, target=user.name, target_id=user.id, role=role.value)
    return user, generated


def set_role(session: Session, user: User, role: Role) -> None:
    """Change the role of ``user``.

    Raises:
        Conflict: they are the last active administrator.
    """
    require_role(current_actor(), Role.ADMIN)
    before = user.role
    accounts.set_role(session, user, role)
    if before is not role:
        changed = {"from": before.value, "to": role.value}
        record(session, Action.USER_CHANGED, target=user.name, target_id=user.id, role=changed)


def lock(session: Session, user: User, *, out: bool) -> None:
    """Lock ``user`` out, or unlock them.

    Raises:
        Conflict: they are the last active administrator.
    """
    require_role(current_actor(), Role.ADMIN)
    before = user.disabled_at is not None
    accounts.lock_out(session, user) if out else accounts.unlock(session, user)
    if before is not out:
        record(session, Action.USER_CHANGED, target=user.name, target_id=user.id, locked_out=out)


def set_password(session: Session, user: User, password: str | None) -> str | None:
    """Set a new password of ``user``; if it is None, generate one and return it.

    Raises:
        InvalidInput: it is too short or too long.
    """
    require_role(current_actor(), Role.ADMIN)
    generated = None if password else passwords.generate()
    accounts.set_password(session, user, password or generated or "")
    record(session, Action.PASSWORD_CHANGED, target=user.name, target_id=user.id)
    return generated
