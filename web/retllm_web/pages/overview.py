"""The first page: what there is, what is at work, how fast, what failed."""

from __future__ import annotations

from typing import Any

from flask import render_template, request
from flask.typing import ResponseReturnValue

from retllm import charts
from retllm.charts import Chart, Series
from retllm.db.enums import JobState
from retllm.db.session import transaction
from retllm.db.state_words import JOB_STATES
from retllm.history import listing
from retllm.operations import activity, queues, workers
from retllm.operations.activity import WINDOWS, Activity
from retllm.operations.workers import WorkerStatus
from retllm.queue.notifications import hints
from retllm_web.http.auth import current_actor
from retllm_web.http.conditional import unchanged
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages


def _window() -> activity.Window:
    return WINDOWS.get(request.args.get("window", ""), WINDOWS["24h"])


def _shown() -> dict[str, Any]:
    window = _window()
    told = hints(services().settings.redis_url, queues.QUEUES)
    user = current_actor()
    with transaction(services().sessions) as session:
        done = activity.activity(session, user, window)
        living = [one for one in workers.every(session) if one.standing is WorkerStatus.ALIVE]
        shown = {
            "holdings": activity.holdings(session, user),
            "jobs": listing.counts(session, user, listing.JobFilters()),
            "queues": queues.depths(session),
            "failures": activity.latest_failures(session, user),
        }
    return {
        **shown,
        "activity": done,
        "windows": WINDOWS.values(),
        "charts": _charts(done),
        "workers": living,
        "served": {queue for one in living for queue in one.queues},
        "hints": told,
        "max_counted": queues.MAX_COUNTED,
        "max_jobs": listing.MAX_COUNTED,
    }


def _charts(done: Activity) -> list[Any]:
    hourly = done.window.name == "24h"
    labels = [one.start.strftime("%H:%M" if hourly else "%d %b %H:%M") for one in done.pieces]
    axis = "hour that began at (UTC)" if hourly else "6 hours that began at (UTC)"
    ended = [
        Series(JOB_STATES[JobState.SUCCEEDED], [one.succeeded for one in done.pieces]),
        Series(f"{JOB_STATES[JobState.FAILED]} or {JOB_STATES[JobState.PARTIAL]}", [one.failed for one in done.pieces]),
        Series(JOB_STATES[JobState.CANCELLED], [one.cancelled for one in done.pieces]),
    ]
    waits = [
        Series("half take at most", [one.p50 for one in done.pieces]),
        Series("95 of 100 take at most", [one.p95 for one in done.pieces]),
    ]
    items = [Series("items", [one.items for one in done.pieces])]
    return [
        charts.stacked(Chart("Jobs that ended", labels, ended, x_name=axis, unit="jobs", key="jobs")),
        charts.lines(
            Chart("Time of a search, to its final order", labels, waits, x_name=axis, unit="s", decimals=2, key="time")
        ),
        charts.bars(Chart("Items embedded, in all collections", labels, items, x_name=axis, unit="items", key="items")),
    ]


@pages.get("/")
def overview() -> ResponseReturnValue:
    """The page."""
    return render_template("overview.html", **_shown())


@pages.get("/overview/live")
def overview_live() -> ResponseReturnValue:
    """The part of the page that changes by itself."""
    with transaction(services().sessions) as session:
        stamp = activity.stamp(session)
    return unchanged(_window().name, *stamp) or render_template("_overview_live.html", **_shown())
