"""The history as a file, with the filters of the page that it is asked from."""

from __future__ import annotations

from flask import request
from flask.typing import ResponseReturnValue

from retllm.search.export import Rows
from retllm_web.http.auth import current_actor
from retllm_web.http.downloads import Format, history
from retllm_web.pages.blueprint import pages
from retllm_web.render.filters import filters_asked


@pages.get("/jobs/export")
def export_jobs() -> ResponseReturnValue:
    """The jobs that match, or the results of their searches, as CSV or JSON; CSV of jobs if nothing else is asked."""
    rows = Rows.RESULTS if request.args.get("rows") == Rows.RESULTS else Rows.JOBS
    format = Format.JSON if request.args.get("format") == Format.JSON else Format.CSV
    return history(current_actor(), filters_asked(), rows, format)
