"""One item: its picture, its text, its metadata, and the searches that found it."""

from __future__ import annotations

from uuid import UUID

from flask import flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from retllm.db.session import transaction
from retllm.identity.access import Right, collection_for, right_in
from retllm_web.actions import contents, item_facts
from retllm_web.actions.item_views import item_view
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages


@pages.get("/items/<uuid:item_id>")
def item(item_id: UUID) -> ResponseReturnValue:
    """Show one item."""
    with transaction(services().sessions) as session:
        found, indexed = contents.item_for(session, current_actor(), item_id, services().settings)
        collection = collection_for(session, current_actor(), found.collection_id)
        right = right_in(session, current_actor(), collection)
        facts = item_facts.facts_of(session, found, collection, services().settings)
        view = item_view(session, found, indexed)
    return render_template(
        "item.html",
        item=view,
        collection=collection,
        facts=facts,
        may_change=right is not None and right >= Right.CHANGE,
    )


@pages.post("/items/<uuid:item_id>/delete")
def delete_item(item_id: UUID) -> ResponseReturnValue:
    """Delete an item's content; earlier results still show its name."""
    deleted = contents.delete(current_actor(), item_id)
    flash(f"“{deleted.name}” deleted.", "success")
    return redirect(url_for("pages.collection", collection_id=deleted.collection_id))
