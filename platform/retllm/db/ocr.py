"""The text in pictures, as optical character recognition read it: the columns of items, and their index."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Mapped


class ItemOcr:
    """Columns of an item.

    ``ocr_text`` is the text in its picture, a line for each that was recognized; empty if it has none, and null while
    nobody has read the picture. ``ocr_confidence`` is the mean of what the recognizer says of the lines, from 0 to 1;
    null if there is no text.
    """

    ocr_text: Mapped[str | None]
    ocr_confidence: Mapped[float | None]


NO_OCR = dict.fromkeys(("ocr_text", "ocr_confidence"))
"""The columns of a picture that nobody has read."""


def ocr_indexes() -> tuple[sa.Index, ...]:
    """Return the index of the pictures that nobody has read."""
    unread = sa.text("state = 'ready' AND ocr_text IS NULL AND picture_key IS NOT NULL")
    return (sa.Index("ix_items_unread", "collection_id", "id", postgresql_where=unread),)
