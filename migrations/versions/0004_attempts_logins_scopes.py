"""Every attempt at a unit and the token that each effect carries; login sessions; scope and end of API tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NOW = sa.text("now()")
_MOMENT = sa.DateTime(timezone=True)
_EFFECTS = ("embeddings", "candidates", "scores")


def _choice(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def upgrade() -> None:
    _attempts()
    for table in _EFFECTS:
        # nullable, so that workers of the release before go on writing without it
        op.add_column(table, sa.Column("token", sa.Uuid(), nullable=True))
    _logins()
    _names()
    scope = _choice("tokenscope", "read", "search", "change", "manage")
    op.add_column("api_tokens", sa.Column("scope", scope, server_default="manage", nullable=False))
    op.add_column("api_tokens", sa.Column("expires_at", _MOMENT, nullable=True))


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.Column("unit_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", _MOMENT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=True),
        sa.Column(
            "outcome",
            _choice("attemptoutcome", "committed", "failed", "lost", "returned", "cancelled"),
            nullable=True,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["unit_id"], ["units.id"], name=op.f("fk_attempts_unit_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_unit_id_token", "attempts", ["unit_id", "token"], unique=False)
    committed, lasting = sa.text("outcome = 'committed'"), sa.text("outcome IS NULL")
    op.create_index("uq_attempts_committed", "attempts", ["unit_id"], unique=True, postgresql_where=committed)
    op.create_index("ix_attempts_open", "attempts", ["unit_id"], unique=False, postgresql_where=lasting)


def _logins() -> None:
    op.create_table(
        "logins",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("agent", sa.Text(), nullable=True),
        sa.Column("seen_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_logins_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logins")),
    )
    op.create_index(op.f("ix_logins_user_id"), "logins", ["user_id"], unique=False)


def _names() -> None:
    # of two names that differ in case alone the older one stays; the other is told apart by the account's key
    op.execute(
        "UPDATE users SET name = name || '.' || right(id::text, 12) WHERE EXISTS (SELECT FROM users AS older"
        " WHERE lower(older.name) = lower(users.name) AND older.id < users.id)"
    )
    op.create_index("uq_users_lower_name", "users", [sa.text("lower(name)")], unique=True)


def downgrade() -> None:
    op.drop_index("uq_users_lower_name", table_name="users")
    # a token that must not change anything would be one that may, before there were scopes
    op.execute("UPDATE api_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE scope <> 'manage'")
    op.execute("UPDATE api_tokens SET revoked_at = coalesce(revoked_at, expires_at) WHERE expires_at IS NOT NULL")
    op.drop_column("api_tokens", "expires_at")
    op.drop_constraint(op.f("ck_api_tokens_tokenscope"), "api_tokens", type_="check")
    op.drop_column("api_tokens", "scope")
    op.drop_table("logins")
    for table in _EFFECTS:
        op.drop_column(table, "token")
    op.drop_table("attempts")
