"""The first page: totals, queues, workers, throughput, and the latest failures."""

from __future__ import annotations

from typing import Any

from flask import render_template, request
from flask.typing import ResponseReturnValue

from retllm import charts
from retllm.charts import Chart, Series
from retllm.db.enums import JobState
from retllm.db.session import snapshot, transaction
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
from retllm_web.pages.states import STATES


def _window() -> activity.Window:
    return WINDOWS.get(request.args.get("window", ""), WINDOWS["24h"])


def _shown() -> dict[str, Any]:
    window = _window()
    hint_counts = hints(services().settings.redis_url, services().routing.queues)
    user = current_actor()
    with snapshot(services().sessions) as session:
        recent = activity.activity(session, user, window)
        alive = [worker for worker in workers.every(session) if worker.state is WorkerStatus.ALIVE]
        shown = {
            "holdings": activity.holdings(session, user),
            "jobs": listing.counts(session, user, listing.JobFilters()),
            "queues": queues.depths(session, services().routing),
            "failures": activity.latest_failures(session, user),
        }
    return {
        **shown,
        "activity": recent,
        "windows": WINDOWS.values(),
        "charts": _charts(recent),
        "workers": alive,
        "served": workers.serving(alive),
        "hints": hint_counts,
        "max_counted": queues.MAX_COUNTED,
        "max_jobs": listing.MAX_COUNTED,
    }


def _charts(recent: Activity) -> list[Any]:
    hourly = recent.window.name == "24h"
    labels = [piece.start.strftime("%H:%M" if hourly else "%d %b %H:%M") for piece in recent.pieces]
    axis = "hour from (UTC)" if hourly else "6 hours from (UTC)"
    ended = [
        _ended(JobState.SUCCEEDED, [piece.succeeded for piece in recent.pieces]),
        _ended(JobState.FAILED, [piece.failed for piece in recent.pieces], f" or {JOB_STATES[JobState.PARTIAL]}"),
        _ended(JobState.CANCELLED, [piece.cancelled for piece in recent.pieces]),
    ]
    durations = [
        Series("median", [piece.p50 for piece in recent.pieces]),
        Series("p95", [piece.p95 for piece in recent.pieces]),
    ]
    items = [Series("items", [piece.items for piece in recent.pieces])]
    return [
        charts.stacked(Chart("Jobs that ended", labels, ended, x_name=axis, unit="jobs", key="jobs")),
        charts.lines(Chart("Search duration", labels, durations, x_name=axis, unit="s", decimals=2, key="time")),
        charts.bars(Chart("Items embedded, in all collections", labels, items, x_name=axis, unit="items", key="items")),
    ]


def _ended(state: JobState, numbers: list[int], others: str = "") -> Series:
    return Series(JOB_STATES[state] + others, numbers, colour=STATES[state].colour)


@pages.get("/")
def overview() -> ResponseReturnValue:
    """Show the overview."""
    return render_template("overview.html", **_shown())


@pages.get("/overview/live")
def overview_live() -> ResponseReturnValue:
    """Return the live part of the overview; 304 if nothing changed."""
    with transaction(services().sessions) as session:
        values = activity.stamp(session)
    return unchanged(_window().name, *values) or render_template("_overview_live.html", **_shown())
