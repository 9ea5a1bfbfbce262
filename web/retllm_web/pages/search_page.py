"""The search page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from retllm.db.enums import ItemState
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.errors import NotFound
from retllm.identity.access import collection_for, item_for, job_for
from retllm.search.views import search_view
from retllm_web.actions import likeness, questions
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.pages.facets import facets_in_form
from retllm_web.pages.search_form import ALL, SearchForm, earlier_of, fill, form_of, search_form


@pages.get("/search")
def search_page() -> ResponseReturnValue:
    """Show the search form, filled from the address or from the earlier search that the address names."""
    of_all = request.args.get("collection") == ALL
    chosen = None if of_all else key_or_none(request.args.get("collection"), "collection")
    earlier = key_or_none(request.args.get("again"), "search")
    if earlier is None:
        form = search_form(request.args, compact=False)
    else:
        with transaction(services().sessions) as session:
            search = search_view(session, earlier, services().settings, actor=current_actor())
        form = form_of(search)
        fill(form, _without(request.args, "again"))
        if chosen is None and not of_all:
            chosen = next((collection.id for collection in search.collections), None)
    return render_search_page(form, chosen)


def _without(args: MultiDict[str, str], name: str) -> MultiDict[str, str]:
    return MultiDict((key, value) for key, value in args.items(multi=True) if key != name)


def render_search_page(form: SearchForm, chosen: UUID | None, status: int = 200) -> ResponseReturnValue:
    """Return the page with this form.

    Raises:
        NotFound: this account may not see the collection, the item or the search that the form names.
    """
    user = current_actor()
    also = [key for text in form.values.get("also", []) if (key := key_or_none(text, "collection"))]
    with transaction(services().sessions) as session:
        collection = collection_for(session, user, chosen) if chosen else None
        recent = questions.recent(session, user)
        offers = questions.offered(session, user, [*([chosen] if chosen else []), *also])
        _show_likeness(session, form)
        _show_earlier(session, form)
    if chosen is not None or form.values.get("collection") != ALL:
        form.values["collection"] = str(chosen or questions.first_choice(offers, recent) or "")
    asked = request.args.to_dict(flat=False) | {"collection": [form.values["collection"]]}
    page = render_template(
        "search_page.html",
        form=form,
        offers=offers,
        questions=recent,
        **_facets(form, asked),
        collection=collection,
        settings=services().settings,
    )
    return page, status


def _facets(form: SearchForm, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the items that match the filter of the form have in common, if its address asks for it."""
    key = None if form.values["collection"] == ALL else key_or_none(form.text("collection"), "collection")
    if key is None or request.args.get("facets") != "1":
        return {"asked": asked}
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), key)
        return facets_in_form(session, found, form.text("filter"), asked)


def _show_likeness(session: Session, form: SearchForm) -> None:
    """Read the example item of the query; all its parts are selected unless the form says which."""
    key = key_or_none(form.text("like"), "item")
    if key is None:
        return
    item = item_for(session, current_actor(), key)
    if item.state is not ItemState.READY:
        raise NotFound("There is no such item.")
    form.liked = item
    if not form.values.get("whole") and not form.values.get("like_parts"):
        form.values["like_parts"] = likeness.parts_of(item)


def _show_earlier(session: Session, form: SearchForm) -> None:
    """Offer the picture of the earlier search only if this search has one."""
    key = earlier_of(form)
    if key is None or picture_key(session, key) is None:
        form.values["earlier"] = ""


def picture_key(session: Session, search_id: UUID) -> str | None:
    """Return the storage key of an earlier search's picture; None if it has none.

    Raises:
        NotFound: there is no such search that this account may see.
    """
    job_for(session, current_actor(), search_id)
    return session.scalar(sa.select(Search.query_picture_key).where(Search.id == search_id))
