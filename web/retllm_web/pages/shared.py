"""What a link opens without an account: a collection or a result, for reading (design: links).

Every route behind a link is in this blueprint. Before each of them ``_open`` turns the link into what it opens; the
actor of the request has no rights, so that nothing else of the application shows a visitor anything. No session is read
and no cookie is set.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, g, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import AnonymousUserMixin
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, Source
from retllm.errors import NotFound
from retllm.identity import links
from retllm.identity.links import Opened
from retllm.search.views import search_view
from retllm_web.actions import item_lists
from retllm_web.actions.item_lists import ItemFilters, Order
from retllm_web.actions.item_views import ItemView, item_view
from retllm_web.http import body_limits, login_throttle, pictures
from retllm_web.http.auth import link_key, throttle
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import is_visit, wants_fragment
from retllm_web.pages.collections import items_shown
from retllm_web.pages.item_list import ItemListFilters
from retllm_web.pages.item_way import Way, around_in_results

PREFIX = "/s/"
shared = Blueprint("shared", __name__, url_prefix=f"{PREFIX}<string:token>")

_NO_ITEM = "There is no such item."
_HEADERS = {
    # the address is the secret: it goes to no other site and into no index
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow, noarchive",
}


@shared.url_value_preprocessor
def _take_token(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    g.link_token = (values or {}).pop("token", "")


@shared.url_defaults
def _keep_token(_endpoint: str, values: dict[str, Any]) -> None:
    if "token" not in values:
        values["token"] = g.link_token


@shared.before_request
def _open() -> None:
    """Find what the link opens; a wrong link counts like a wrong token, against the address that it comes from.

    Raises:
        NotFound: it opens nothing.
        TooManyTries: it opens nothing, and there were too many wrong ones before.
    """
    # whoever is logged in with this browser does not matter here
    g._login_user = AnonymousUserMixin()
    body_limits.restrict(known=False)
    is_opening = request.endpoint == "shared.start" and not request.args.get("after")
    try:
        with transaction(services().sessions) as session:
            opened = links.open_link(session, link_key(), g.link_token, longest=services().settings.link_days)
            links.note_use(session, opened.link, opened=is_opening)
    except NotFound:
        sources = login_throttle.addresses(request.remote_addr, "links")
        throttle().check(*sources)
        throttle().count_failure(*sources)
        raise
    g.opened, g.actor = opened, opened.visitor


@shared.after_app_request
def _keep_address_secret(response: Response) -> Response:
    """Set the headers of every answer at such an address, also where there is nothing."""
    if request.path.startswith(PREFIX):
        response.headers.update(_HEADERS)
        # a picture is asked for again each time, since the link may have ended
        keeps = is_visit() and "ETag" in response.headers
        response.headers["Cache-Control"] = "private, no-cache" if keeps else "private, no-store"
    return response


def _opened() -> Opened:
    found: Opened = g.opened
    return found


@shared.get("")
def start() -> ResponseReturnValue:
    """Show the collection, or the result; a script gets only the next items of a collection."""
    opened = _opened()
    return _collection(opened) if opened.target.search_id is None else _result(opened, opened.target.search_id)


def _collection(opened: Opened) -> ResponseReturnValue:
    [collection] = opened.target.collections
    filters = ItemListFilters(after=key_or_none(request.args.get("after"), "page"))
    with transaction(services().sessions) as session:
        listed = items_shown(session, collection, filters)
    listed["items"] = [_for_visitors(opened, item, collection) for item in listed["items"]]
    listed |= {"archives": {}, "more_url": url_for("shared.start", after=listed["next"])}
    template = "_items.html" if wants_fragment() else "shared_collection.html"
    return render_template(template, collection=collection, may_change=False, **listed)


def _result(opened: Opened, search_id: UUID) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        search = search_view(session, search_id, services().settings, actor=opened.maker)
    shown = [row for row in search.candidates if row.item_state is ItemState.READY]
    return render_template("shared_result.html", search=search, candidates=shown)


def _for_visitors(opened: Opened, item: ItemView, collection: Collection) -> ItemView:
    """Return an item without what only accounts should know: how it came in, and whether it could be indexed."""
    has_whole = opened.target.search_id is None and opened.gets_original(collection)
    return item.model_copy(update={"archive": None, "indexed": True, "error": None, "original": has_whole})


@shared.get("/items/<uuid:item_id>")
def item(item_id: UUID) -> ResponseReturnValue:
    """Show one item that the link opens."""
    opened = _opened()
    with transaction(services().sessions) as session:
        found = _item(session, opened, item_id)
        collection = _collection_of(opened, found)
        view = _for_visitors(opened, item_view(session, found, True), collection)
        way = _way(session, opened, found, collection)
    download = None if not opened.link.downloads else "original" if opened.gets_original(collection) else "a copy"
    return render_template("shared_item.html", item=view, way=way, download=download)


def _item(session: Session, opened: Opened, item_id: UUID) -> Item:
    found = session.scalar(sa.select(Item).where(Item.id == item_id, opened.has_item()))
    if found is None:
        raise NotFound(_NO_ITEM)
    return found


def _collection_of(opened: Opened, item: Item) -> Collection:
    return next(one for one in opened.target.collections if one.id == item.collection_id)


def _way(session: Session, opened: Opened, item: Item, collection: Collection) -> Way:
    back, search_id = url_for("shared.start"), opened.target.search_id
    if search_id is not None:
        around = around_in_results(session, item.id, search_id, opened.has_item())
        return Way(*(around or (None, None)), back=back, words="Results", is_search=True)
    settings = services().settings
    around = item_lists.around(session, collection, settings, ItemFilters(), Order(), item.id)
    return Way(*around, back=back, words=collection.name)


def _pictured(item_id: UUID) -> Item:
    with transaction(services().sessions) as session:
        found = _item(session, _opened(), item_id)
    if found.picture_key is None or found.thumbnail_key is None:
        raise NotFound("This item has no picture.")
    return found


@shared.get("/items/<uuid:item_id>/thumbnail")
def thumbnail(item_id: UUID) -> Response:
    """Return a thumbnail of the item's picture, as WebP."""
    found = _pictured(item_id)
    return pictures.send_small(found.thumbnail_key or "", f"{found.content_sha256}-thumbnail")


@shared.get("/items/<uuid:item_id>/rendition")
def rendition(item_id: UUID) -> Response:
    """Return the picture for display: upright, without metadata."""
    return pictures.send_item_rendition(_pictured(item_id))


@shared.get("/items/<uuid:item_id>/picture")
def picture(item_id: UUID) -> Response:
    """Return the item's picture as an attachment, if the link allows downloads: the original, or a copy."""
    opened, found = _opened(), _pictured(item_id)
    if not opened.link.downloads:
        raise NotFound("This link allows no downloads.")
    return pictures.send_item_picture(found, is_original=opened.gets_original(_collection_of(opened, found)))


@shared.get("/items/<uuid:item_id>/source")
def source(item_id: UUID) -> Response:
    """Return the whole file that the item is a part of, if the link opens all of its parts and allows downloads."""
    opened = _opened()
    with transaction(services().sessions) as session:
        found = _item(session, opened, item_id)
        whole = session.get(Source, found.source_id) if found.source_id is not None else None
    if whole is None or opened.target.search_id is not None or not opened.gets_original(_collection_of(opened, found)):
        raise NotFound("This link allows no download of whole files.")
    return pictures.send_source(whole)


@shared.get("/query")
def query() -> Response:
    """Return a thumbnail of the picture that was searched for, as WebP."""
    columns = Search.query_picture_key, Search.query_picture_sha256
    with transaction(services().sessions) as session:
        row = session.execute(sa.select(*columns).where(Search.id == _opened().target.search_id)).one_or_none()
    if row is None or row[0] is None:
        raise NotFound("This search has no picture.")
    return pictures.send_query_thumbnail(row[0], row[1] or str(_opened().target.search_id))
