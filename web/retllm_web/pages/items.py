"""One item: its picture, its text, its metadata, the form that changes it, and the searches that found it."""

from __future__ import annotations

from uuid import UUID

from flask import flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import ItemState
from retllm.db.session import transaction
from retllm.errors import Forbidden, NotFound, RetllmError
from retllm.identity.access import Right, collection_for, right_in
from retllm_web.actions import contents, item_facts
from retllm_web.actions.item_views import item_view, look_at_original, reference_keys
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.pages.forms import Form
from retllm_web.pages.item_form import change_of, form_of, sent_form
from retllm_web.pages.item_way import back_of_request, way_of_request
from retllm_web.pages.undo import flash_deletion


@pages.get("/items/<uuid:item_id>")
def item(item_id: UUID) -> ResponseReturnValue:
    """Show one item."""
    return _item_page(item_id)


def _item_page(item_id: UUID, form: Form | None = None, status: int = 200) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        found, indexed = contents.item_for(session, current_actor(), item_id, services().settings)
        collection = collection_for(session, current_actor(), found.collection_id)
        right = right_in(session, current_actor(), collection)
        facts = item_facts.facts_of(session, found, collection, services().settings)
        view, keys = item_view(session, found, indexed), reference_keys(session, found)
        way = way_of_request(session, found, collection)
    page = render_template(
        "item.html",
        item=look_at_original(view, keys),
        collection=collection,
        facts=facts,
        way=way,
        form=form or form_of(view),
        max_text_chars=services().settings.max_text_chars,
        may_change=right is not None and right >= Right.CHANGE,
    )
    return page, status


@pages.post("/items/<uuid:item_id>/change")
def change_item(item_id: UUID) -> ResponseReturnValue:
    """Change what the user has changed in the form; on an error, show it again."""
    form = sent_form()
    try:
        if change := change_of(form):
            contents.change(current_actor(), item_id, change)
    except (NotFound, Forbidden):
        raise
    except RetllmError as error:
        form.refuse(error, otherwise="text" if error.http_status == 409 else "")
        return _item_page(item_id, form, error.http_status)
    flash("Saved.", "success")
    return redirect(url_for("pages.item", item_id=item_id))


@pages.post("/items/<uuid:item_id>/delete")
def delete_item(item_id: UUID) -> ResponseReturnValue:
    """Move an item to the trash; earlier results still show its name."""
    deleted = contents.delete(current_actor(), item_id)
    moments = [deleted.trashed_at] if deleted.state is ItemState.TRASHED and deleted.trashed_at else []
    said = "moved to the trash" if moments else "deleted"
    flash_deletion(f"“{deleted.name}” {said}.", deleted.collection_id, moments)
    return redirect(back_of_request(deleted.collection_id))
