"""Add what pictures tell of themselves, and what people sort them by, with the indexes of filters."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

# NFD, not NFKD: no character becomes a quotation mark or a backslash, which would break JSON
_FUNCTIONS = """
    CREATE FUNCTION retllm_folded(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN lower(regexp_replace(normalize($1, NFD), '[\\u0300-\\u036f]+', '', 'g'));
    CREATE FUNCTION retllm_folded_all(text[]) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (SELECT coalesce(array_agg(retllm_folded(one)), '{}') FROM unnest($1) one);
    CREATE FUNCTION retllm_folded_cells(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN retllm_folded($1::text)::jsonb
"""


def _columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("title", sa.Text()),
        sa.Column("tags", ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("rating", sa.SmallInteger()),
        sa.Column("taken", sa.DateTime(timezone=False)),
        sa.Column("taken_until", sa.DateTime(timezone=False)),
        sa.Column("taken_zone", sa.SmallInteger()),
        sa.Column("camera", sa.Text()),
        sa.Column("lens", sa.Text()),
        sa.Column("latitude", sa.Float()),
        sa.Column("longitude", sa.Float()),
        sa.Column("further", JSONB(), server_default=sa.text("'{}'"), nullable=False),
    )


_READY = "CREATE INDEX ix_items_{name} ON items {of} WHERE state = 'ready'{more}"
_INDEXES = (
    ("taken", "(collection_id, taken, id)", ""),
    ("name", "(collection_id, retllm_folded(name), id)", ""),
    ("camera", "(collection_id, retllm_folded(camera))", " AND camera IS NOT NULL"),
    ("folder", "(collection_id, (coalesce(substring(name, '^.*/'), '')) text_pattern_ops)", ""),
    ("rating", "(collection_id, rating)", " AND rating IS NOT NULL"),
    ("position", "(collection_id, latitude, longitude)", " AND latitude IS NOT NULL"),
    ("tags", "USING gin (retllm_folded_all(tags))", ""),
    ("further", "USING gin (retllm_folded_cells(further) jsonb_path_ops)", ""),
)


def upgrade() -> None:
    for function in _FUNCTIONS.split(";"):
        op.execute(function)
    for column in _columns():
        op.add_column("items", column)
    op.add_column("searches", sa.Column("filter", sa.Text()))
    for name, of, more in _INDEXES:
        op.execute(_READY.format(name=name, of=of, more=more))


def downgrade() -> None:
    for name, _, _ in _INDEXES:
        op.drop_index(f"ix_items_{name}", "items")
    op.drop_column("searches", "filter")
    for column in reversed(_columns()):
        op.drop_column("items", column.name)
    op.execute("DROP FUNCTION retllm_folded_cells; DROP FUNCTION retllm_folded_all; DROP FUNCTION retllm_folded")
