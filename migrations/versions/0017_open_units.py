"""Index the open units of each job, so that ending a unit of a large job costs no more than one of a small job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_open = sa.text("state IN ('ready', 'leased')")
    op.create_index("ix_units_open", "units", ["job_id", "seq"], postgresql_where=is_open)


def downgrade() -> None:
    op.drop_index("ix_units_open", "units")
