"""The actor of a request: an account with a scope."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from retllm.db.enums import Role, TokenScope
from retllm.db.tables import User


@dataclass(frozen=True)
class Actor:
    """An account with a scope: that of its token, or all rights of the account after a log-in.

    There is no default scope; an actor without one (None) may do nothing. ``payer`` is the account as whose the time
    counts that the server spends on it; None: its own.
    """

    user: User
    scope: TokenScope | None
    payer: UUID | None = None

    @classmethod
    def unlimited(cls, user: User) -> Actor:
        """Return an actor with all rights of the account: after a log-in with the password, or on the server itself."""
        return cls(user, TokenScope.MANAGE)

    @classmethod
    def visitor(cls, link_id: UUID, maker: UUID) -> Actor:
        """Return who follows a link: no account has this key, and without a scope nothing is theirs to see or do.

        The time that the server spends on visitors counts as that of the link's ``maker``.
        """
        return cls(User(id=link_id, name="", role=Role.VIEWER), None, maker)

    @property
    def id(self) -> UUID:
        """Return the key of the account."""
        return self.user.id

    @property
    def paying_id(self) -> UUID:
        """Return the key of the account as whose the time counts that the server spends on this actor."""
        return self.payer or self.user.id

    @property
    def name(self) -> str:
        """Return the name of the account."""
        return self.user.name

    @property
    def role(self) -> Role:
        """Return the role of the account; the scope limits its rights further."""
        return self.user.role
