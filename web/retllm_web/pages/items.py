"""One item: its picture, its text, its facts."""

from __future__ import annotations

from uuid import UUID

from flask import flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from retllm.access import Right, collection_for
from retllm.db.session import transaction
from retllm.media import ingest
from retllm_web import contents
from retllm_web.api.items import item_view
from retllm_web.auth import current_user
from retllm_web.pages.blueprint import pages
from retllm_web.services import services


@pages.get("/items/<uuid:item_id>")
def item(item_id: UUID) -> ResponseReturnValue:
    """One item."""
    with transaction(services().sessions) as session:
        found, indexed = contents.item_for(session, current_user(), item_id, services().settings)
        collection = collection_for(session, current_user(), found.collection_id)
    return render_template("item.html", item=item_view(found, indexed), collection=collection)


@pages.post("/items/<uuid:item_id>/delete")
def delete_item(item_id: UUID) -> ResponseReturnValue:
    """Delete an item's content; old results still name it."""
    with services().sessions() as session:
        found, _ = contents.item_for(session, current_user(), item_id, services().settings)
        collection_for(session, current_user(), found.collection_id, Right.CHANGE)
        name, collection_id = found.name, found.collection_id
        ingest.delete_item(session, services().storage, found)
    flash(f"“{name}” is deleted.", "success")
    return redirect(url_for("pages.collection", collection_id=collection_id))
