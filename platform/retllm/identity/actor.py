"""Who acts: an account, and the scope in which it does."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from retllm.db.enums import Role, TokenScope
from retllm.db.tables import User


@dataclass(frozen=True)
class Actor:
    """An account that asks for something, limited to a scope: that of its token, or all of it after a log-in.

    There is no default scope; without one (None) an actor may do nothing.
    """

    user: User
    scope: TokenScope | None

    @classmethod
    def unlimited(cls, user: User) -> Actor:
        """An account that does all that it may: after a log-in with the password, or on the server itself."""
        return cls(user, TokenScope.MANAGE)

    @property
    def id(self) -> UUID:
        """The key of the account."""
        return self.user.id

    @property
    def name(self) -> str:
        """The name of the account."""
        return self.user.name

    @property
    def role(self) -> Role:
        """The role of the account; what it may do is also limited by the scope."""
        return self.user.role
