"""Add the text in pictures to items, and to the words of their full-text search.

No row is rewritten: nobody has read a picture yet, so the words stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

_KINDS = "upload", "index", "search", "duplicates", "map"
_UNREAD = "state = 'ready' AND ocr_text IS NULL AND picture_key IS NOT NULL"
_OF_TEXT = "coalesce(NEW.text, '')"
_OF_BOTH = "concat_ws(E'\\n', NEW.text, NEW.ocr_text)"


def _set_kinds(*kinds: str) -> None:
    op.drop_constraint(op.f("ck_jobs_jobkind"), "jobs", type_="check")
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    op.create_check_constraint(op.f("ck_jobs_jobkind"), "jobs", f"kind IN ({listed})")


def _set_words(text: str, columns: str) -> None:
    """Let the trigger take the words of this text when one of these columns is set."""
    # with the search path of now, since a restored dump sets none
    op.execute(f"""
        CREATE OR REPLACE FUNCTION set_item_words() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
        BEGIN
            NEW.words := to_tsvector(
                (SELECT language::regconfig FROM collections WHERE id = NEW.collection_id), {text}
            );
            RETURN NEW;
        END
        $$
    """)  # noqa: S608 - constants
    op.execute("DROP TRIGGER set_item_words ON items")
    op.execute(f"""
        CREATE TRIGGER set_item_words BEFORE INSERT OR UPDATE OF {columns} ON items
        FOR EACH ROW EXECUTE FUNCTION set_item_words()
    """)


def upgrade() -> None:
    _set_kinds(*_KINDS, "ocr")
    op.create_index("ix_jobs_ocr", "jobs", ["collection_id", "id"], postgresql_where=sa.text("kind = 'ocr'"))
    op.add_column("collections", sa.Column("ocr_chosen_at", sa.DateTime(timezone=True)))
    op.add_column("items", sa.Column("ocr_text", sa.Text()))
    op.add_column("items", sa.Column("ocr_confidence", sa.Float()))
    op.create_index("ix_items_unread", "items", ["collection_id", "id"], postgresql_where=sa.text(_UNREAD))
    _set_words(_OF_BOTH, "text, ocr_text, collection_id")


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE kind = 'ocr'")
    _set_words(_OF_TEXT, "text, collection_id")
    # their words have those of their pictures
    op.execute("UPDATE items SET text = text WHERE ocr_text <> ''")
    op.drop_index("ix_items_unread", "items")
    op.drop_column("items", "ocr_confidence")
    op.drop_column("items", "ocr_text")
    op.drop_column("collections", "ocr_chosen_at")
    op.drop_index("ix_jobs_ocr", "jobs")
    _set_kinds(*_KINDS)
