"""The quality of results, measured by reviews: all collections, and one collection by query and settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from flask import render_template, request
from flask.typing import ResponseReturnValue

from retllm import charts
from retllm.charts import Chart, Series
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.identity.access import Right, collection_for, right_in
from retllm.review import runs, summary
from retllm.review.measures import Verdict
from retllm.review.reviewed import QUESTIONS, Reviewed, reviewed, reviewed_collections
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.pages.forms import Form
from retllm_web.pages.search_form import MODES, TRIGGERS

_COLLECTIONS = 8
# queries of each collection in the list; its own page reads more
_NEWEST = 50
_RUNS = 5
_SHOWN = 50
# maximum of searches that a comparison takes
_COMPARED = 6
PERIODS = ("week", "day")


@dataclass(frozen=True)
class CollectionSummary:
    """A collection with the means over its reviewed queries."""

    collection: Collection
    questions: int
    means: summary.Means
    scorers: Sequence[str]


@pages.get("/quality")
def quality() -> ResponseReturnValue:
    """Show the collections with reviewed queries, and the newest evaluations."""
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        rows = reviewed_collections(session, current_actor(), after=after, limit=_COLLECTIONS + 1)
        page, following = cut(rows, _COLLECTIONS)
        found = reviewed(session, [collection.id for collection in page], questions=_NEWEST, searches=1)
        newest = runs.list_runs(session, current_actor(), limit=_RUNS)
        names = runs.names_of(session, newest)
    by_collection: defaultdict[UUID, list[Reviewed]] = defaultdict(list)
    for query in found:
        by_collection[query.collection_id].append(query)
    summaries = [
        CollectionSummary(
            collection,
            len(by_collection[collection.id]),
            summary.means(query.measures for query in by_collection[collection.id]),
            _scorers(by_collection[collection.id]),
        )
        for collection in page
    ]
    return render_template(
        "quality.html", summed=summaries, next=following, after=after, runs=newest, names=names, limit=_NEWEST
    )


@dataclass(frozen=True)
class ReviewedQuestion:
    """A reviewed query: its newest search, and the keys of its searches for a comparison."""

    newest: Reviewed
    searches: Sequence[UUID]


def _questions(found: Sequence[Reviewed], scored: Sequence[Reviewed]) -> list[ReviewedQuestion]:
    """Return the queries of the ``scored`` searches; a comparison takes all that were ``found``."""
    keys: defaultdict[str, list[UUID]] = defaultdict(list)
    for search in found:
        keys[search.question].append(search.search_id)
    return [ReviewedQuestion(search, keys[search.question][:_COMPARED]) for search in summary.newest(scored)]


def _page_of(questions: Sequence[ReviewedQuestion]) -> tuple[list[ReviewedQuestion], str | None, str | None]:
    """Return the requested page, the key of the next page, and the verdict to filter by."""
    verdict = request.args.get("verdict", "")
    if verdict in {known.value for known in Verdict}:
        questions = [question for question in questions if question.newest.measures.verdict.value == verdict]
    else:
        verdict = ""
    after = request.args.get("after")
    positions = [position for position, shown in enumerate(questions, start=1) if shown.newest.question == after]
    start = positions[0] if positions else 0
    page = list(questions[start : start + _SHOWN])
    more = len(questions) > start + _SHOWN
    return page, page[-1].newest.question if more else None, verdict or None


@pages.get("/quality/<uuid:collection_id>")
def collection_quality(collection_id: UUID) -> ResponseReturnValue:
    """Show the measures from the reviews of one collection."""
    return quality_page(collection_id)


def quality_page(collection_id: UUID, form: Form | None = None, status: int = 200) -> ResponseReturnValue:
    """Return the page of a collection's reviews, with the result of its form.

    Raises:
        NotFound: no such collection.
    """
    period = cast("summary.Period", request.args.get("by") if request.args.get("by") in PERIODS else "week")
    scorer = request.args.get("scorer")
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), collection_id)
        found = reviewed(session, [collection_id])
        may_rerun = (right_in(session, current_actor(), collection) or Right.SEE) >= Right.CHANGE
        own = runs.list_runs(session, current_actor(), collection_id=collection_id, limit=_RUNS)
        names = runs.names_of(session, own)
    scorers = _scorers(found)
    if scorer not in scorers:
        scorer = scorers[0] if scorers else None
    # figures of different scorers are never mixed; only the table of settings has all
    scored = [one for one in found if one.scorer == scorer]
    questions = _questions(found, scored)
    page, following, verdict = _page_of(questions)
    shown = render_template(
        "quality_collection.html",
        collection=collection,
        questions=page,
        number=len(questions),
        limit=QUESTIONS,
        next=following,
        verdict=verdict,
        means=summary.means(question.newest.measures for question in questions),
        settings=summary.by_settings(found),
        charts=_charts(scored, period),
        period=period,
        scorer=scorer,
        used_scorers=scorers,
        runs=own,
        names=names,
        may_rerun=may_rerun,
        form=form or Form(),
        defaults=services().settings,
        scorers=services().settings.scorer_names,
        modes=MODES,
        triggers=TRIGGERS,
        address=_address(verdict, period, scorer if len(scorers) > 1 else None),
        max_queries=runs.MAX_QUESTIONS,
    )
    return shown, status


def _scorers(found: Sequence[Reviewed]) -> list[str]:
    """Return the scorers of searches, the most recently used one first."""
    return list(dict.fromkeys(one.scorer for one in sorted(found, key=lambda one: one.final_at, reverse=True)))


def _address(verdict: str | None, period: str, scorer: str | None) -> dict[str, str]:
    """Return the view as arguments for ``url_for``."""
    shown = {"by": period if period != PERIODS[0] else None, "verdict": verdict, "scorer": scorer}
    return {name: value for name, value in shown.items() if value}


def _charts(found: Sequence[Reviewed], period: summary.Period) -> list[Any]:
    """Return charts of Recall@1 and nDCG@10 of both stages over time; none for fewer than two points."""
    times = summary.over_time(found, period)
    known = {day: means for day, means in times.items() if means.known}
    if len(known) < 2:
        return []
    labels = [day.isoformat() for day in known]
    drawn = []
    for title, coarse, fine in (
        ("Recall@1", "recall_coarse", "recall_fine"),
        (f"nDCG@{summary.NDCG_AT}", "ndcg_coarse", "ndcg_fine"),
    ):
        series = [
            Series(name, [_percent(getattr(means, field)) for means in known.values()])
            for name, field in (("fine stage", fine), ("coarse stage", coarse))
        ]
        named = f"{title} of the searches of each {period}"
        name = "week from" if period == "week" else "day"
        drawn.append(charts.lines(Chart(named, labels, series, x_name=name, unit="%", decimals=1, high=100)))
    return drawn


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
