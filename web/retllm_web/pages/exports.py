"""The history as a file, with the filters of the history page."""

from __future__ import annotations

from flask import request
from flask.typing import ResponseReturnValue

from retllm.search.export import Rows
from retllm_web.http.auth import current_actor
from retllm_web.http.downloads import Format, history
from retllm_web.pages.blueprint import pages
from retllm_web.render.filters import requested_filters


@pages.get("/jobs/export")
def export_jobs() -> ResponseReturnValue:
    """Export the matching jobs, or the results of their searches, as CSV or JSON; the default is jobs as CSV."""
    rows = Rows.RESULTS if request.args.get("rows") == Rows.RESULTS else Rows.JOBS
    format = Format.JSON if request.args.get("format") == Format.JSON else Format.CSV
    return history(current_actor(), requested_filters(), rows, format, mark=True)
