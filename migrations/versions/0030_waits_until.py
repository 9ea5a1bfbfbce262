"""Keep until when a unit waits for a server, and whether a retry can help a dead one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("units", sa.Column("waits_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("units", sa.Column("final", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_units_final", "units", ["job_id"], postgresql_where=sa.text("final"))


def downgrade() -> None:
    op.drop_index("ix_units_final", "units")
    op.drop_column("units", "final")
    op.drop_column("units", "waits_until")
