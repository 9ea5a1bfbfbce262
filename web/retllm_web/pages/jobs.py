"""The history: the jobs that this account may see, with filters in the address."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from flask import render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import JobState, Role
from retllm.db.people import SavedView
from retllm.db.session import transaction
from retllm.db.tables import Collection, User
from retllm.history import listing
from retllm.history.job_views import job_views
from retllm.history.listing import JobFilters
from retllm.identity.access import collection_for, visible_collections
from retllm.identity.actor import Actor
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.render.filters import address_of, pairs_of, query_of, requested_filters

_JOBS = 30
# collections and people that the filters offer
_OFFERED = 200


@pages.get("/jobs")
def jobs() -> ResponseReturnValue:
    """Show the jobs that this account may see, newest first."""
    user = current_actor()
    filters = requested_filters()
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        page = listing.find(session, user, filters, after=after, limit=_JOBS)
        shown = job_views(session, page.jobs)
        results = listing.results(session, [job.id for job in page.jobs])
        offered = _collections(session, user, filters)
        people = _people(session, user, filters)
        saved = session.scalars(sa.select(SavedView).filter_by(user_id=user.id).order_by(SavedView.name)).all()
    return render_template(
        "jobs.html",
        jobs=shown,
        results=results,
        next=page.next,
        compared=page.compared,
        after=after,
        collections=offered,
        people=people,
        filters=filters,
        states=_states(filters, page.numbers),
        total=_total(filters, page.numbers),
        max_counted=listing.MAX_COUNTED,
        address=address_of(filters),
        query=query_of(filters),
        fields=pairs_of(filters),
        views=saved,
    )


def _states(filters: JobFilters, numbers: dict[JobState, int]) -> list[dict[str, Any]]:
    """Return each state with its count, and the address of the same filter with only that state."""
    return [
        {
            "state": state,
            "count": number,
            "chosen": state in filters.states,
            "address": url_for("pages.jobs", **address_of(replace(filters, states=(state,)))),
        }
        for state, number in numbers.items()
    ]


def _total(filters: JobFilters, numbers: dict[JobState, int]) -> int:
    return sum(number for state, number in numbers.items() if not filters.states or state in filters.states)


def _collections(session: Session, actor: Actor, filters: JobFilters) -> list[tuple[str, str]]:
    """Return keys and names of the newest collections and of the chosen one.

    Raises:
        NotFound: this account may not see the chosen collection.
    """
    newest = sa.select(Collection.id, Collection.name).where(visible_collections(actor))
    found = {str(key): name for key, name in session.execute(newest.order_by(Collection.id.desc()).limit(_OFFERED))}
    if filters.collection_id is not None and str(filters.collection_id) not in found:
        chosen = collection_for(session, actor, filters.collection_id)
        found[str(chosen.id)] = chosen.name
    return sorted(found.items(), key=lambda pair: pair[1].lower())


def _people(session: Session, actor: Actor, filters: JobFilters) -> list[str]:
    """Return names to filter by: every account for an administrator, else this one and the owners of what it sees."""
    query = sa.select(User.name).order_by(User.name).limit(_OFFERED)
    if actor.role is not Role.ADMIN:
        query = query.where(User.id.in_(sa.select(Collection.owner_id).where(visible_collections(actor))))
    names = {*session.scalars(query), actor.name, *filter(None, [filters.person])}
    return sorted(names, key=str.lower)
