"""Maps of collections: where the vectors of items are in a layout of two dimensions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

_KINDS = "upload", "index", "search", "duplicates"


def _set_kinds(*kinds: str) -> None:
    op.drop_constraint(op.f("ck_jobs_jobkind"), "jobs", type_="check")
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    op.create_check_constraint(op.f("ck_jobs_jobkind"), "jobs", f"kind IN ({listed})")


def _to(target: str, table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def upgrade() -> None:
    _set_kinds(*_KINDS, "map")
    op.create_index("ix_jobs_maps", "jobs", ["collection_id", "id"], postgresql_where=sa.text("kind = 'map'"))
    op.create_table(
        "map_results",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("through", sa.Uuid(), nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        _to("collections", "map_results", "collection_id"),
        sa.PrimaryKeyConstraint("collection_id", name=op.f("pk_map_results")),
    )
    op.create_table(
        "map_points",
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("x", sa.REAL(), nullable=False),
        sa.Column("y", sa.REAL(), nullable=False),
        _to("items", "map_points", "item_id"),
        _to("collections", "map_points", "collection_id"),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_map_points")),
    )
    op.create_index("ix_map_points_collection_id_rank", "map_points", ["collection_id", "rank"])
    op.create_index("ix_map_points_collection_id_x", "map_points", ["collection_id", "x", "y"])


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE kind = 'map'")
    for table in ("map_points", "map_results"):
        op.drop_table(table)
    op.drop_index("ix_jobs_maps", "jobs")
    _set_kinds(*_KINDS)
