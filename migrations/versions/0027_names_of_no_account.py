"""Forget the names of refused log-ins that are no account's: people type their password there."""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        UPDATE audit_log SET detail = detail - 'name' || '{"no_account": true}'
        WHERE action = 'login refused' AND detail ? 'name'
            AND lower(detail ->> 'name') NOT IN (SELECT lower(name) FROM users)
        """
    )


def downgrade() -> None:
    """The names are gone."""
