"""Find the units that wait for a server by time, apart from those that nobody has tried."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_UNTRIED = "state = 'ready' AND attempt = 0"
_BY_JOB = ["stage", "scorer", "user_id", "job_id", "seq"]
_BY_TIME = ["stage", "scorer", "user_id", "run_after", "id"]


def upgrade() -> None:
    op.drop_index("ix_units_untried", "units")
    op.create_index(
        "ix_units_untried", "units", _BY_JOB, postgresql_where=sa.text(f"{_UNTRIED} AND waits_until IS NULL")
    )
    op.create_index(
        "ix_units_waiting", "units", _BY_TIME, postgresql_where=sa.text(f"{_UNTRIED} AND waits_until IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_units_waiting", "units")
    op.drop_index("ix_units_untried", "units")
    op.create_index("ix_units_untried", "units", _BY_JOB, postgresql_where=sa.text(_UNTRIED))
