"""Count items and vectors by collection, in the transaction that changes them.

Triggers for each statement write the differences; the existing rows are counted once, while no other transaction can
write.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_COLUMNS = "collection_id, model_id, kind, failed, fresh, image_weight, count"
_OF_ITEMS = """
    SELECT collection_id, NULL::uuid, kind, error IS NOT NULL, true, NULL::double precision, {count}
    FROM {rows} WHERE state = 'ready' GROUP BY collection_id, kind, error IS NOT NULL
"""
_OF_VECTORS = """
    SELECT e.collection_id, e.model_id, i.kind, i.error IS NOT NULL, i.state = 'ready' AND i.version = e.item_version,
        CASE WHEN i.kind = 'image+text' THEN e.image_weight END, {count}
    FROM {rows} e JOIN {items} i ON i.id = e.item_id GROUP BY 1, 2, 3, 4, 5, 6
"""
# each row of before and after; rows that are the same in both cancel each other out
_ITEMS_BEFORE_AND_AFTER = """
    SELECT id, collection_id, kind, state, version, error, sum(n) AS n FROM (
        SELECT id, collection_id, kind, state, version, CASE WHEN error IS NOT NULL THEN '' END AS error, -1 AS n
            FROM old_rows
        UNION ALL SELECT id, collection_id, kind, state, version, CASE WHEN error IS NOT NULL THEN '' END, 1
            FROM new_rows
    ) AS both_rows GROUP BY id, collection_id, kind, state, version, error HAVING sum(n) <> 0
"""
_VECTORS_BEFORE_AND_AFTER = """
    SELECT item_id, model_id, collection_id, item_version, image_weight, -1 AS n FROM old_rows
    UNION ALL SELECT item_id, model_id, collection_id, item_version, image_weight, 1 FROM new_rows
"""
# two transactions that change an item and its vector at once would each miss what the other one did
_KEEP_ITEMS = "PERFORM FROM items WHERE id IN (SELECT item_id FROM {rows}) ORDER BY id FOR SHARE;"


def _insert(counted: str) -> str:
    # what is deleted with its collection is not counted any more
    return f"""
        INSERT INTO collection_counts ({_COLUMNS})
        SELECT counted.* FROM ({counted}) AS counted ({_COLUMNS})
        JOIN collections c ON c.id = counted.collection_id AND c.deleted_at IS NULL WHERE counted.count <> 0;
    """  # noqa: S608 - constants


_BODIES = {
    ("items", "INSERT"): _insert(_OF_ITEMS.format(rows="new_rows", count="count(*)")),
    ("items", "DELETE"): _insert(_OF_ITEMS.format(rows="old_rows", count="-count(*)")),
    ("items", "UPDATE"): _insert(
        f"WITH changed AS ({_ITEMS_BEFORE_AND_AFTER})"
        + _OF_ITEMS.format(rows="changed", count="sum(n)")
        + "UNION ALL"
        + _OF_VECTORS.format(rows="embeddings", items="changed", count="sum(i.n)")
    ),
    ("embeddings", "INSERT"): _KEEP_ITEMS.format(rows="new_rows")
    + _insert(_OF_VECTORS.format(rows="new_rows", items="items", count="count(*)")),
    ("embeddings", "DELETE"): _KEEP_ITEMS.format(rows="old_rows")
    + _insert(_OF_VECTORS.format(rows="old_rows", items="items", count="-count(*)")),
    ("embeddings", "UPDATE"): _KEEP_ITEMS.format(rows="new_rows")
    + _insert(
        f"WITH changed AS ({_VECTORS_BEFORE_AND_AFTER})"
        + _OF_VECTORS.format(rows="changed", items="items", count="sum(e.n)")
    ),
}
_ROWS = {
    "INSERT": "NEW TABLE AS new_rows",
    "DELETE": "OLD TABLE AS old_rows",
    "UPDATE": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
}
# the vectors of an item go before it, while it tells which of them were up to date
_REMOVE_VECTORS = """
    CREATE FUNCTION remove_vectors_of_item() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        DELETE FROM embeddings WHERE item_id = OLD.id;
        RETURN OLD;
    END
    $$
"""


def upgrade() -> None:
    op.create_table(
        "collection_counts",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=True),
        sa.Column(
            "kind",
            sa.Enum(
                "image", "text", "image+text", name="itemkind", native_enum=False, create_constraint=True, length=16
            ),
            nullable=False,
        ),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("fresh", sa.Boolean(), nullable=False),
        sa.Column("image_weight", sa.Float(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("merged", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_collection_counts_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collection_counts")),
    )
    op.create_index("ix_collection_counts_collection_id", "collection_counts", ["collection_id"])
    op.create_index(
        "ix_collection_counts_unmerged",
        "collection_counts",
        ["collection_id"],
        postgresql_where=sa.text("NOT merged"),
    )
    for (table, operation), body in _BODIES.items():
        name = f"count_{table}_{operation.lower()}"
        # with the search path of now, since a restored dump sets none
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ "
            f"BEGIN {body} RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {name} AFTER {operation} ON {table} REFERENCING {_ROWS[operation]} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        )
    op.execute(_REMOVE_VECTORS)
    op.execute(
        "CREATE TRIGGER remove_vectors_of_item BEFORE DELETE ON items "
        "FOR EACH ROW EXECUTE FUNCTION remove_vectors_of_item()"
    )
    # the triggers keep others from writing until the end of this transaction
    op.execute(_insert(_OF_ITEMS.format(rows="items", count="count(*)")))
    op.execute(_insert(_OF_VECTORS.format(rows="embeddings", items="items", count="count(*)")))


def downgrade() -> None:
    op.execute("DROP TRIGGER remove_vectors_of_item ON items")
    op.execute("DROP FUNCTION remove_vectors_of_item")
    for table, operation in _BODIES:
        name = f"count_{table}_{operation.lower()}"
        op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"DROP FUNCTION {name}")
    op.drop_table("collection_counts")
