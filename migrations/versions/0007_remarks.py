"""Add the remark on a score: what of the pair was changed for the model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES = ("scores", "score_cache")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("remark", sa.Text()))


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "remark")
