"""Links that open a collection, or the result of a search, without an account."""

from __future__ import annotations

from uuid import UUID

from flask import Response, request
from pydantic import BaseModel, Field

from retllm.db.session import transaction
from retllm.identity import links as targets
from retllm_web.actions import links
from retllm_web.actions.links import FindTarget, LinkRequest, LinkView
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.searches import SearchPath
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import PageQuery, cut
from retllm_web.http.services import services

TAGS = tags("links")


class NewLinkView(LinkView):
    """A new link with its address, which is not shown again."""

    address: str


class LinkList(BaseModel):
    """A page of links that have not ended, newest first."""

    links: list[LinkView]
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


class LinkPath(BaseModel):
    """The key of a link."""

    link_id: UUID


def _made(find: FindTarget, key: UUID, body: LinkRequest) -> Response:
    made = links.make(find, key, strictly(type(body), request.get_data()))
    return answer(NewLinkView(**made.link.model_dump(), address=made.address), 201)


def _listed(find: FindTarget, key: UUID, query: PageQuery) -> Response:
    with transaction(services().sessions) as session:
        target = find(session, current_actor(), key)
        rows = links.page(session, target, after=query.after, limit=query.limit + 1)
    page, following = cut(rows, query.limit)
    return answer(LinkList(links=page, next=following))


@api.post("/collections/<uuid:collection_id>/links", tags=TAGS, responses={201: NewLinkView, 409: ErrorBody})
def make_link(path: CollectionPath, body: LinkRequest) -> Response:
    """Make a link to a collection; for the owner and administrators. Only this answer has its address."""
    return _made(targets.collection_target, path.collection_id, body)


@api.get("/collections/<uuid:collection_id>/links", tags=TAGS, responses={200: LinkList})
def list_links(path: CollectionPath, query: PageQuery) -> Response:
    """List the links to a collection, and to results of searches in it; for the owner and administrators."""
    return _listed(targets.collection_target, path.collection_id, query)


@api.post("/searches/<uuid:search_id>/links", tags=TAGS, responses={201: NewLinkView, 409: ErrorBody})
def make_result_link(path: SearchPath, body: LinkRequest) -> Response:
    """Make a link to the result of a search, for those who manage all collections that it asked."""
    return _made(targets.search_target, path.search_id, body)


@api.get("/searches/<uuid:search_id>/links", tags=TAGS, responses={200: LinkList})
def list_result_links(path: SearchPath, query: PageQuery) -> Response:
    """List the links to the result of a search, for those who manage all collections that it asked."""
    return _listed(targets.search_target, path.search_id, query)


@api.delete("/links/<uuid:link_id>", tags=TAGS, responses={204: None})
def revoke_link(path: LinkPath) -> Response:
    """Revoke a link: it opens nothing from then on."""
    links.revoke(path.link_id)
    return nothing()
