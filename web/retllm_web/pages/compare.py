"""The comparison of searches, and the choice of searches to compare."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.session import transaction
from retllm.errors import RetllmError
from retllm.history import listing
from retllm.history.job_views import job_view
from retllm.identity.access import job_for
from retllm.search import compare as comparing
from retllm.search.settings import SETTINGS
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.render.filters import job_keys

# items are shown down to this rank
_TOPS = (10, 20, 50, 200)
_TOP = 20

_LABELS = {
    "collection": "Collection",
    "text": "Text",
    "picture": "Picture",
    "embedder_revision": "Revision of the embedder",
    "scorer": "Scorer",
    "scorer_revision": "Revision of the scorer",
    "scorer_version": "Version of the scores",
    "prompt_version": "Version of the prompt",
    "match_threshold": "Match threshold (log-odds)",
} | {setting.name: setting.label for setting in SETTINGS}


@pages.get("/compare")
def compare() -> ResponseReturnValue:
    """Compare two to six searches; for a single one, offer searches to compare it with."""
    # one key above the maximum makes compare() reject the request
    keys = job_keys(request.args.getlist("of"), comparing.MAX_COMPARED + 1)
    if not keys:
        flash("Select two to six searches to compare.", "info")
        return redirect(url_for("pages.jobs"))
    if len(keys) == 1:
        return _choice(keys[0])
    asked = request.args.get("top", "")
    top = int(asked) if asked in map(str, _TOPS) else _TOP
    try:
        with transaction(services().sessions) as session:
            found = comparing.compare(session, current_actor(), keys, top=top)
    except RetllmError as error:
        return refused(error, url_for("pages.jobs"))
    return render_template(
        "compare.html",
        found=found,
        keys=keys,
        top=top,
        tops=_TOPS,
        notice=services().settings.notice_on(
            {name for side in found.sides for name in (*side.settings["coarse.embedders"], side.settings["scorer"])}
        ),
        different=_shown(found.settings(different=True)),
        same=_shown(found.settings(different=False)),
    )


def _choice(key: UUID) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        job = job_for(session, current_actor(), key)
        result = listing.results(session, current_actor(), [key]).get(key)
        shown = job_view(session, job)
        same = comparing.same_question(session, current_actor(), key)
        others = comparing.same_collection(session, current_actor(), key)
    if result is None:
        flash("Only searches can be compared. Select two to six of them.", "info")
        return redirect(url_for("pages.job", job_id=key))
    return render_template(
        "compare_choice.html", job=shown, result=result, same=same, others=others, limit=comparing.MAX_COMPARED
    )


def _shown(rows: dict[str, list[Any]]) -> list[tuple[str, list[str]]]:
    return [(_LABELS[name], [_as_text(value) for value in values]) for name, values in rows.items()]


def _as_text(value: Any) -> str:
    """Return the value of a setting as text."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {part}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
