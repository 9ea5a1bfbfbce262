"""Near-duplicates of a collection: look for them, list the groups, dismiss a group."""

from __future__ import annotations

from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from retllm.db.session import transaction
from retllm.duplicates import views
from retllm.history.job_views import JobView
from retllm.identity.access import collection_for
from retllm_web.actions import duplicates
from retllm_web.actions.duplicates import DuplicatesView
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.jobs import IdempotencyHeader, accepted
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import cut, optional
from retllm_web.http.services import services

TAGS = tags("items")
_LIMIT, _MAX = 20, 100


class GroupPath(CollectionPath):
    """The key of a group of near-duplicates."""

    group_id: UUID


class GroupsQuery(BaseModel):
    """The page of a list of groups."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=_LIMIT, ge=1, le=_MAX, description="maximum of groups per page")
    after: UUID | None = optional("`next` of the previous page")


@api.post("/collections/<uuid:collection_id>/duplicates", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def look_for_duplicates(path: CollectionPath, header: IdempotencyHeader) -> Response:
    """Find the pictures of a collection that are nearly the same; the groups replace those of the job before."""
    key = header.idempotency_key
    return accepted(duplicates.look(current_actor(), path.collection_id, idempotency_key=key))


@api.get("/collections/<uuid:collection_id>/duplicates", tags=TAGS, responses={200: DuplicatesView})
def list_duplicates(path: CollectionPath, query: GroupsQuery) -> Response:
    """List the groups of pictures that are nearly the same, the largest first; delete items to thin them out."""
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), path.collection_id)
        found = views.groups_from(session, collection.id, after=query.after, limit=query.limit + 1)
        page, following = cut(found, query.limit)
        state = views.state_of(session, collection.id)
        return answer(
            DuplicatesView(
                job_id=state.job.id if state.job else None,
                compared_at=state.result.created_at if state.result else None,
                pictures=state.result.pictures if state.result else None,
                out_of_date=state.out_of_date,
                groups=duplicates.group_views(session, collection, page),
                next=following,
            )
        )


@api.post("/collections/<uuid:collection_id>/duplicates/<uuid:group_id>/dismiss", tags=TAGS, responses={204: None})
def dismiss_duplicates(path: GroupPath) -> Response:
    """Note that the pictures of a group are no duplicates: no later job brings them together again."""
    duplicates.dismiss(current_actor(), path.collection_id, path.group_id)
    return nothing()


@api.post("/collections/<uuid:collection_id>/duplicates/restore", tags=TAGS, responses={204: None})
def restore_duplicates(path: CollectionPath) -> Response:
    """Let the next job bring back all groups that were dismissed."""
    duplicates.restore(current_actor(), path.collection_id)
    return nothing()
