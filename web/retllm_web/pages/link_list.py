"""The section about links on the page of members and on that of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flask import request
from sqlalchemy.orm import Session

from retllm.identity import links as stored
from retllm.identity.links import Target
from retllm_web.actions import links
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.forms import Form

_LINKS = 20


@dataclass
class LinkFeedback:
    """The result of the form of links; ``made`` is the address of a new one."""

    form: Form = field(default_factory=Form)
    made: str | None = None
    status: int = 200


def links_shown(session: Session, target: Target, feedback: LinkFeedback) -> dict[str, Any]:
    """Return what the template of links shows of those to ``target``."""
    after = key_or_none(request.args.get("links"), "page")
    page, following = cut(links.page(session, target, after=after, limit=_LINKS + 1), _LINKS)
    longest = services().settings.link_days
    days = min(stored.DEFAULT_DAYS, longest)
    feedback.form.values = {"days": str(days)} | feedback.form.values
    shown = {"links": page, "next_links": following, "later_links": after is not None}
    return shown | {"longest": longest, "link_feedback": feedback, "of_result": target.search_id is not None}
