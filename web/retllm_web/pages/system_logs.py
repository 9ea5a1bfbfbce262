"""The last log lines of all processes, for administrators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from retllm.db.enums import Role
from retllm.errors import InvalidInput, NotFound
from retllm.identity.access import require_role
from retllm.operations import log_lines
from retllm.operations.log_lines import LEVELS, LogFilters, LogPage, LogPlace, role_of
from retllm.operations.log_sender import KEPT
from retllm_web.http.auth import current_actor
from retllm_web.http.conditional import unchanged
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.pages.states import LOG_LEVELS

_LINES = 100
_MAX_LENGTH = 300


@dataclass(frozen=True)
class LogRequest:
    """What the address asks for; what can't be read of it does not filter."""

    filters: LogFilters
    after: LogPlace | None

    @classmethod
    def of(cls, sent: MultiDict[str, str]) -> LogRequest:
        """Return what an address asks for.

        Raises:
            NotFound: the place is malformed.
        """

        def text(name: str) -> str:
            return sent.get(name, "").replace("\0", "").strip()[:_MAX_LENGTH]

        level = text("level")
        filters = LogFilters(
            process=text("process") or None,
            level=level if level in LEVELS else None,
            text=text("text"),
            since=_moment(text("since")),
            until=_moment(text("until")),
        )
        try:
            after = LogPlace.parse(sent["after"]) if sent.get("after") else None
        except InvalidInput as error:
            raise NotFound("There is no such page of the log.") from error
        return cls(filters, after)

    @property
    def address(self) -> dict[str, str]:
        """The filters as arguments of the address."""
        given = self.filters
        moments = {"since": given.since, "until": given.until}
        times = {name: moment.strftime("%Y-%m-%dT%H:%M:%S") for name, moment in moments.items() if moment}
        values = {"process": given.process, "level": given.level, "text": given.text}
        return {name: value for name, value in values.items() if value} | times

    def read(self) -> LogPage:
        """Return the page of lines."""
        found = services().settings
        return log_lines.read(found.redis_url, found.home_path, self.filters, after=self.after, limit=_LINES)


def _moment(text: str) -> datetime | None:
    """Return a time in UTC as the field of a form sends it."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _shown(asked: LogRequest, page: LogPage) -> dict[str, Any]:
    return {
        "asked": asked,
        "page": page,
        "levels": LOG_LEVELS,
        "roles": sorted({role_of(process) for process in page.processes}),
        "kept": KEPT,
        "home": services().settings.home_path,
    }


@pages.get("/system/logs")
def system_logs() -> ResponseReturnValue:
    """Show the last lines, newest first."""
    require_role(current_actor(), Role.ADMIN)
    asked = LogRequest.of(request.args)
    return render_template("system_logs.html", **_shown(asked, asked.read()))


@pages.get("/system/logs/live")
def system_logs_live() -> ResponseReturnValue:
    """Return the lines; 304 if there is none that was not there before."""
    require_role(current_actor(), Role.ADMIN)
    asked = LogRequest.of(request.args)
    page = asked.read()
    newest = page.lines[0].key if page.lines else None
    known = [request.query_string.decode("utf-8", "replace"), page.reached, page.lost, newest, len(page.lines)]
    return unchanged(*known) or render_template("_logs_live.html", **_shown(asked, page))
