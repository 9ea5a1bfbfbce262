"""Keep the scorer with the units of the fine stage, and index what workers and dispatchers look for by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_READY = sa.text("state = 'ready'")


def upgrade() -> None:
    op.add_column("units", sa.Column("scorer", sa.Text(), server_default="", nullable=False))
    op.execute(
        "UPDATE units SET scorer = searches.scorer FROM searches "
        "WHERE searches.id = units.job_id AND units.stage = 'fine' AND units.state <> 'done'"
    )
    op.drop_index("ix_units_ready", "units")
    op.create_index("ix_units_ready", "units", ["stage", "scorer", "run_after", "id"], postgresql_where=_READY)
    op.create_index(
        "ix_units_untried",
        "units",
        ["stage", "scorer", "job_id", "seq"],
        postgresql_where=sa.text("state = 'ready' AND attempt = 0"),
    )


def downgrade() -> None:
    op.drop_index("ix_units_untried", "units")
    op.drop_index("ix_units_ready", "units")
    op.create_index("ix_units_ready", "units", ["stage", "run_after"], postgresql_where=_READY)
    op.drop_column("units", "scorer")
