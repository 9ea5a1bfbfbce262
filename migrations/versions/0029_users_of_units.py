"""Keep the account of its job with each unit, so that accounts take turns; find no scores by time any more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_TRIED = sa.text("state = 'ready' AND attempt > 0")
_UNTRIED = sa.text("state = 'ready' AND attempt = 0")
# units that have ended need none
_OPEN = "('ready', 'leased')"


def upgrade() -> None:
    nobody = sa.text("'00000000-0000-0000-0000-000000000000'")
    op.add_column("units", sa.Column("user_id", sa.Uuid(), server_default=nobody, nullable=False))
    op.execute(
        f"UPDATE units SET user_id = jobs.user_id FROM jobs WHERE jobs.id = units.job_id AND units.state IN {_OPEN}"  # noqa: S608 - constants
    )
    op.drop_index("ix_units_untried", "units")
    columns = ["stage", "scorer", "user_id", "job_id", "seq"]
    op.create_index("ix_units_untried", "units", columns, postgresql_where=_UNTRIED)
    columns = ["stage", "scorer", "user_id", "run_after", "id"]
    op.create_index("ix_units_tried", "units", columns, postgresql_where=_TRIED)
    op.drop_index("ix_scores_scorer_version_created_at", "scores")


def downgrade() -> None:
    op.create_index("ix_scores_scorer_version_created_at", "scores", ["scorer_version", "created_at"])
    op.drop_index("ix_units_tried", "units")
    op.drop_index("ix_units_untried", "units")
    op.create_index("ix_units_untried", "units", ["stage", "scorer", "job_id", "seq"], postgresql_where=_UNTRIED)
    op.drop_column("units", "user_id")
