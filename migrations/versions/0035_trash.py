"""Keep deleted items and collections in a trash, from which they can be restored.

What happens in a collection in the trash is counted, since it may be restored.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_BEFORE = ("ready", "deleted")
_COUNTED_BEFORE = "c.deleted_at IS NULL"
_COUNTED = "(c.deleted_at IS NULL OR c.kept_until IS NOT NULL)"


def _allow(states: tuple[str, ...]) -> None:
    op.drop_constraint(op.f("ck_items_itemstate"), "items", type_="check")
    op.create_check_constraint(op.f("ck_items_itemstate"), "items", f"state IN {states!r}")


def _count_where(before: str, condition: str) -> None:
    """Replace the condition for collections in the functions of the counts."""
    op.execute(f"""
        DO $do$ DECLARE counts oid; BEGIN
            FOR counts IN SELECT oid FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
                AND starts_with(proname, 'count_') AND strpos(prosrc, '{before}') > 0
            LOOP
                EXECUTE replace(pg_get_functiondef(counts), '{before}', '{condition}');
            END LOOP;
        END $do$
    """)  # noqa: S608 - constants


def upgrade() -> None:
    _allow(("ready", "trashed", "deleted"))
    op.add_column("items", sa.Column("trashed_at", sa.DateTime(timezone=True)))
    op.add_column("items", sa.Column("trashed_by", sa.Uuid()))
    op.add_column("items", sa.Column("kept_until", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_items_trash",
        "items",
        ["collection_id", "trashed_at", "id"],
        postgresql_where=sa.text("state = 'trashed'"),
    )
    op.create_index("ix_items_kept_until", "items", ["kept_until"], postgresql_where=sa.text("kept_until IS NOT NULL"))
    op.add_column("collections", sa.Column("deleted_by", sa.Uuid()))
    op.add_column("collections", sa.Column("kept_until", sa.DateTime(timezone=True)))
    op.add_column("collections", sa.Column("trash_emptied_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_collections_trash_emptied_at",
        "collections",
        ["trash_emptied_at"],
        postgresql_where=sa.text("trash_emptied_at IS NOT NULL"),
    )
    _count_where(_COUNTED_BEFORE, _COUNTED)


def downgrade() -> None:
    # the release before has no trash: what is in it is there again, except items whose content is there anew
    _count_where(_COUNTED, _COUNTED_BEFORE)
    op.execute("""
        UPDATE collections c SET deleted_at = NULL, name = CASE WHEN EXISTS (SELECT FROM collections o
            WHERE o.owner_id = c.owner_id AND o.name = c.name AND o.id <> c.id
            AND (o.deleted_at IS NULL OR o.kept_until IS NOT NULL)) THEN name || ' (' || id || ')' ELSE name END
        WHERE kept_until IS NOT NULL
    """)
    op.execute("""
        UPDATE items SET state = 'ready' WHERE id IN (
            SELECT DISTINCT ON (collection_id, content_sha256) id FROM items t WHERE state = 'trashed'
            AND NOT EXISTS (SELECT FROM items r WHERE r.collection_id = t.collection_id
                AND r.content_sha256 = t.content_sha256 AND r.state = 'ready')
            ORDER BY collection_id, content_sha256, id DESC)
    """)
    op.execute("DELETE FROM embeddings WHERE item_id IN (SELECT id FROM items WHERE state = 'trashed')")
    # their files are deleted with others that no row names
    op.execute("""
        UPDATE items SET state = 'deleted', version = version + 1, text = NULL, picture_key = NULL,
            thumbnail_key = NULL, copy_key = NULL, source_id = NULL, error = NULL, title = NULL, tags = '{}',
            rating = NULL, taken = NULL, taken_until = NULL, taken_zone = NULL, camera = NULL, lens = NULL,
            latitude = NULL, longitude = NULL, further = '{}'
        WHERE state = 'trashed'
    """)
    op.drop_index("ix_collections_trash_emptied_at", "collections")
    for column in ("trash_emptied_at", "kept_until", "deleted_by"):
        op.drop_column("collections", column)
    op.drop_index("ix_items_kept_until", "items")
    op.drop_index("ix_items_trash", "items")
    for column in ("kept_until", "trashed_by", "trashed_at"):
        op.drop_column("items", column)
    _allow(_BEFORE)
