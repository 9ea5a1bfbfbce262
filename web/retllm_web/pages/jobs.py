"""The history: the jobs that this account may see, with filters in the address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import JobState, Role, UnitState
from retllm.db.jobs import Job
from retllm.db.people import SavedView
from retllm.db.session import transaction
from retllm.db.state_words import PROBLEMS
from retllm.db.tables import Collection, User
from retllm.history import listing, runs
from retllm.history.job_views import JobView, job_views
from retllm.history.listing import JobFilters
from retllm.history.named_items import MAX_NAMED, NamedItem, problem_files
from retllm.history.runs import RunLine
from retllm.identity.access import collection_for, visible_collections
from retllm.identity.actor import Actor
from retllm.review.runs import run_for
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.render.filters import address_of, pairs_of, query_of, requested_filters

_JOBS = 30
# collections and people that the filters offer
_OFFERED = 200


@dataclass(frozen=True)
class HistoryPage:
    """What a page of the history shows, see :class:`retllm.history.listing.JobPage`."""

    jobs: Sequence[Job]
    runs: Sequence[RunLine]
    next: UUID | None
    numbers: dict[JobState, int]
    compared: int | None = None


@pages.get("/jobs")
def jobs() -> ResponseReturnValue:
    """Show the jobs that this account may see, newest first."""
    user = current_actor()
    filters = requested_filters()
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        page = _page(session, user, filters, after)
        shown = job_views(session, page.jobs)
        results = listing.results(session, user, [job.id for job in page.jobs])
        failed = _failed(session, shown)
        run = run_for(session, user, filters.run_id) if filters.run_id is not None else None
        offered = _collections(session, user, filters)
        people = _people(session, user, filters)
        saved = session.scalars(sa.select(SavedView).filter_by(user_id=user.id).order_by(SavedView.name)).all()
    return render_template(
        "jobs.html",
        entries=sorted([*shown, *page.runs], key=lambda entry: entry.id, reverse=True),
        runs={line.id for line in page.runs},
        run=run,
        results=results,
        failed=failed,
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


def _page(session: Session, actor: Actor, filters: JobFilters, after: UUID | None) -> HistoryPage:
    """Return a page of the history, with runs as one line each unless a filter tells their searches apart."""
    if not filters.is_grouped:
        found = listing.find(session, actor, filters, after=after, limit=_JOBS)
        return HistoryPage(found.jobs, [], found.next, found.numbers, found.compared)
    grouped = runs.page(session, actor, filters, after=after, limit=_JOBS)
    return HistoryPage(grouped.jobs, grouped.runs, grouped.next, listing.counts(session, actor, filters))


def _failed(session: Session, jobs: Sequence[JobView]) -> dict[UUID, list[NamedItem]]:
    """Return the first files that an upload lacks, or the items of the first dead units, of each job."""
    lacking = [job.id for job in jobs if job.files and any(map(job.files.counts.get, PROBLEMS))]
    files = problem_files(session, lacking)
    return {
        job.id: files.get(job.id)
        or [one for error in job.errors if error.state is UnitState.DEAD for one in error.about][:MAX_NAMED]
        for job in jobs
    }


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
