"""Add the language of a collection's full-text search.

A generated column can't read the collection, so a trigger fills ``items.words``. No row is rewritten: collections stay
in English, and their words are kept.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# with the search path of now, since a restored dump sets none
_FUNCTION = """
    CREATE FUNCTION set_item_words() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        NEW.words := to_tsvector(
            (SELECT language::regconfig FROM collections WHERE id = NEW.collection_id), coalesce(NEW.text, '')
        );
        RETURN NEW;
    END
    $$
"""
_TRIGGER = """
    CREATE TRIGGER set_item_words BEFORE INSERT OR UPDATE OF text, collection_id ON items
    FOR EACH ROW EXECUTE FUNCTION set_item_words()
"""


def upgrade() -> None:
    op.add_column("collections", sa.Column("language", sa.Text(), server_default=sa.text("'english'"), nullable=False))
    op.execute("ALTER TABLE items ALTER COLUMN words DROP EXPRESSION")
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def downgrade() -> None:
    # the words of all items become English ones
    op.execute("DROP TRIGGER set_item_words ON items")
    op.execute("DROP FUNCTION set_item_words")
    op.drop_index("ix_items_words", table_name="items")
    op.drop_column("items", "words")
    english = sa.Computed("to_tsvector('english', coalesce(text, ''))", persisted=True)
    op.add_column("items", sa.Column("words", postgresql.TSVECTOR(), english, nullable=True))
    op.create_index("ix_items_words", "items", ["words"], postgresql_using="gin")
    op.drop_column("collections", "language")
