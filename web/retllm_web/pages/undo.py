"""Messages with a button that undoes what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from flask import flash, url_for


def flash_with_undo(text: str, action: str, **fields: Sequence[str]) -> None:
    """Show a message on the next page, with a button that sends these fields to ``action``."""
    # the session, a cookie, keeps any JSON; base.html shows it
    flash({"text": text, "action": action, "fields": fields}, "success")  # type: ignore[arg-type]


def flash_deletion(text: str, collection_id: UUID, moments: Sequence[datetime]) -> None:
    """Show a message on the next page; it can be undone if items came into the trash at these times."""
    if moments:
        action = url_for("pages.change_trash", collection_id=collection_id)
        flash_with_undo(text, action, at=[moment.isoformat() for moment in moments])
    else:
        flash(text, "success")
