"""The list of jobs, with its filters in the address."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from flask import render_template, request
from flask.typing import ResponseReturnValue

from retllm.access import collection_for
from retllm.db.enums import JobKind, JobState
from retllm.db.session import transaction
from retllm.jobs import views
from retllm_web import catalog
from retllm_web.api.paging import cut
from retllm_web.auth import current_user
from retllm_web.pages.blueprint import key_or_none, pages
from retllm_web.services import services

_JOBS = 30
# collections that the filter of the list offers
_OFFERED = 200

Choice = TypeVar("Choice", bound=StrEnum)


def _choice(kind: type[Choice], text: str | None) -> Choice | None:
    """A member by its value; anything else filters nothing."""
    return next((one for one in kind if one.value == text), None)


@pages.get("/jobs")
def jobs() -> ResponseReturnValue:
    """The jobs that this account may see; the filters are in the address."""
    kind = _choice(JobKind, request.args.get("kind"))
    state = _choice(JobState, request.args.get("state"))
    collection_id = key_or_none(request.args.get("collection"), "collection")
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        rows = views.list_jobs(
            session, current_user(), kind=kind, state=state, collection_id=collection_id, after=after, limit=_JOBS + 1
        )
        page, following = cut(rows, _JOBS)
        shown = views.job_views(session, page)
        offered = catalog.page(session, current_user(), after=None, limit=_OFFERED)
        if collection_id is not None and all(one.id != collection_id for one in offered):
            offered.append(collection_for(session, current_user(), collection_id))
    chosen = {"kind": kind, "state": state, "collection": collection_id}
    return render_template(
        "jobs.html",
        jobs=shown,
        next=following,
        after=after,
        collections=offered,
        chosen=chosen,
        address={name: str(value) for name, value in chosen.items() if value},
    )
