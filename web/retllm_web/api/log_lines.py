"""The last log lines of all processes, for administrators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.db.enums import Role
from retllm.identity.access import require_role
from retllm.operations import log_lines
from retllm.operations.log_lines import LOG_PLACE, LogFilters, LogPlace
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api
from retllm_web.api.people import Moment
from retllm_web.api.system import TAGS
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import LIMIT, MAX, optional
from retllm_web.http.services import services

Level = Literal["debug", "info", "warning", "error", "critical"]


class LogQuery(BaseModel):
    """Which lines to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=LIMIT, ge=1, le=MAX, description="maximum of lines per page")
    after: Annotated[str, StringConstraints(pattern=LOG_PLACE)] | None = optional("`next` of the previous page")
    process: Annotated[str, StringConstraints(max_length=300)] | None = optional(
        "only lines of this process, or of all that do this, such as `web`"
    )
    level: Level | None = optional("only lines of this level or a more serious one")
    text: Annotated[str, StringConstraints(max_length=300)] | None = optional(
        "only lines that contain this, ignoring case"
    )
    since: Moment | None = optional("at this time or later, with time zone")
    until: Moment | None = optional("before this time, with time zone")


class LogLineView(BaseModel):
    """A line of a log, without secrets."""

    model_config = ConfigDict(from_attributes=True)

    at: datetime
    process: str = Field(
        description="what it does, its host and its number, such as `web@host:42`; or the name of a server"
    )
    level: str
    logger: str
    text: str
    more: str = Field(description="a traceback, or lines that belong to it; else empty")
    job_id: UUID | None = Field(description="the job that it is about")


class LogList(BaseModel):
    """A page of lines, newest first."""

    lines: list[LogLineView]
    processes: list[str] = Field(description="all processes of which there are lines, the one that logged last first")
    lost: int = Field(
        description="how many lines of these processes never arrived, since Redis did not answer for long"
    )
    reached: bool = Field(description="whether Redis answered, to which processes send their lines")
    next: str | None = Field(description="pass as `after` to get the next page; null on the last page")


@api.get("/system/logs", tags=TAGS, responses={200: LogList})
def list_log_lines(query: LogQuery) -> Response:
    """List the last log lines of all processes, newest first; for administrators.

    Processes send them to Redis, which keeps the last ones of each; those of the PostgreSQL and Redis servers that
    `retllm up` runs are read from their files on the host of the web server.
    """
    require_role(current_actor(), Role.ADMIN)
    settings = services().settings
    filters = LogFilters(query.process, query.level, query.text or "", query.since, query.until)
    after = LogPlace.parse(query.after) if query.after is not None else None
    page = log_lines.read(settings.redis_url, settings.home_path, filters, after=after, limit=query.limit)
    return answer(
        LogList(
            lines=[LogLineView.model_validate(line) for line in page.lines],
            processes=list(page.processes),
            lost=page.lost,
            reached=page.reached,
            next=str(page.next) if page.next else None,
        )
    )
