"""The evidence for a score: where the model looked in the picture, and how sure it was at each layer."""

from __future__ import annotations

from uuid import UUID

from flask import render_template
from flask.typing import ResponseReturnValue

from retllm import charts
from retllm.db.session import transaction
from retllm.search.evidence import evidence_of
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, wants_fragment
from retllm_web.render import heat


@pages.get("/jobs/<uuid:job_id>/candidates/<uuid:item_id>/map")
def candidate_map(job_id: UUID, item_id: UUID) -> ResponseReturnValue:
    """Show the map of one candidate: a fragment for a script, else a page."""
    with transaction(services().sessions) as session:
        evidence = evidence_of(session, current_actor(), job_id, item_id)
    trace = evidence.trace
    shown = {
        "evidence": evidence,
        "trace": trace,
        "heats": heat.heats(trace) if trace else [],
        "chart": charts.lines(heat.uncertainty_chart(trace, evidence.injection)) if trace else None,
        "watched": heat.watched_words(evidence.injection, len(trace.uncertainty)) if trace else "",
    }
    if wants_fragment():
        # below the heading of the results
        return render_template("_map.html", **shown, level=3)
    return render_template("map.html", **shown, level=2)
