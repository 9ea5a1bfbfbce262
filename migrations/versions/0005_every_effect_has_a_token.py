"""Require the attempt token of every vector, candidate and score, and the scope of every API token."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_EFFECTS = ("embeddings", "candidates", "scores")

# Release 0.2 always writes a token. Rows from before 0.2 have none: their units get a committed attempt, and the
# candidates and scores of these units get its token. Vectors need a token, but no attempt.
_FILL = (
    """UPDATE attempts a SET outcome = 'lost', ended_at = clock_timestamp(), error = 'The worker was lost.'
        FROM units u WHERE u.id = a.unit_id AND a.outcome IS NULL
        AND (u.state <> 'leased' OR u.token IS DISTINCT FROM a.token)""",
    """INSERT INTO attempts (token, unit_id, number, worker, started_at, ended_at, outcome)
        SELECT gen_random_uuid(), u.id, greatest(u.attempt, 1), coalesce(u.worker, 'unknown'),
            coalesce(u.started_at, u.created_at), coalesce(u.finished_at, clock_timestamp()), 'committed'
        FROM units u WHERE u.state = 'done'
        AND NOT EXISTS (SELECT FROM attempts a WHERE a.unit_id = u.id AND a.outcome = 'committed')""",
    """UPDATE candidates c SET token = a.token FROM units u JOIN attempts a ON a.unit_id = u.id
        WHERE c.token IS NULL AND a.outcome = 'committed' AND u.job_id = c.search_id AND u.stage = 'coarse'""",
    """UPDATE scores s SET token = a.token FROM units u JOIN attempts a ON a.unit_id = u.id
        WHERE s.token IS NULL AND a.outcome = 'committed' AND u.job_id = s.search_id AND u.stage = 'fine'
        AND jsonb_exists(u.payload->'items', s.item_id::text)""",
    "UPDATE embeddings SET token = gen_random_uuid() WHERE token IS NULL",
    "UPDATE candidates SET token = gen_random_uuid() WHERE token IS NULL",
    "UPDATE scores SET token = gen_random_uuid() WHERE token IS NULL",
)


def upgrade() -> None:
    for statement in _FILL:
        op.execute(statement)
    for table in _EFFECTS:
        op.alter_column(table, "token", nullable=False)
    op.alter_column("api_tokens", "scope", server_default=None)


def downgrade() -> None:
    op.alter_column("api_tokens", "scope", server_default="manage")
    for table in _EFFECTS:
        op.alter_column(table, "token", nullable=True)
