"""The audit log, for administrators: filters in the address, and the same entries as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.people import AuditEntry
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, User
from retllm.identity import audit as log
from retllm.identity import names
from retllm.identity.access import require_role
from retllm.identity.audit import Action
from retllm_web.http import long_answers
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.http.spreadsheet import line, marked
from retllm_web.pages.blueprint import pages

_ENTRIES = 50
_BATCH = 1000
# newest collections that the filter offers; others are reached from an entry or from their own page
_OFFERED = 200
_COLUMNS = ("time", "person", "action", "target", "target_id", "collection_id", "address", "detail")


@dataclass(frozen=True)
class RequestedFilters:
    """The filters in the address; an invalid value counts as not given."""

    person: str = ""
    action: Action | None = None
    collection: UUID | None = None
    since: date | None = None
    until: date | None = None

    @classmethod
    def of_request(cls) -> RequestedFilters:
        """Return the filters of this request."""
        given = {name: value.replace("\0", "").strip() for name, value in request.args.items()}
        return cls(
            person=given.get("person", "")[:100],
            action=next((action for action in Action if action.value == given.get("action")), None),
            collection=_key(given.get("collection", "")),
            since=_day(given.get("since", "")),
            until=_day(given.get("until", "")),
        )

    def address(self) -> dict[str, str]:
        """Return the filters as arguments for ``url_for``."""
        names = ("person", "action", "collection", "since", "until")
        return {name: str(getattr(self, name)) for name in names if getattr(self, name)}

    def filters(self, session: Session) -> log.AuditFilters:
        """Return the filters of the log; names ignore case, a day lasts from midnight to midnight UTC."""
        name = session.scalar(sa.select(User.name).where(names.is_named(self.person)))
        return log.AuditFilters(
            user_name=(name or self.person) or None,
            action=self.action,
            collection_id=self.collection,
            since=_midnight(self.since) if self.since else None,
            until=_midnight(self.until) + timedelta(days=1) if self.until else None,
        )


def _key(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    # a day more or less would overflow
    return day if date.min < day < date.max else None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


@pages.get("/people/audit")
def audit() -> ResponseReturnValue:
    """Show who did what, newest first."""
    require_role(current_actor(), Role.ADMIN)
    asked = RequestedFilters.of_request()
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        rows = log.page(session, asked.filters(session), after=after, limit=_ENTRIES + 1)
        entries, following = cut(rows, _ENTRIES)
        offered = _offered(session, asked.collection)
        names = _names(session, entries)
    return render_template(
        "audit.html",
        entries=entries,
        next=following,
        after=after,
        asked=asked,
        actions=sorted(Action),
        offered=offered,
        names=names,
    )


def _offered(session: Session, chosen: UUID | None) -> list[tuple[UUID, str]]:
    newest = sa.select(Collection.id, Collection.name).order_by(Collection.id.desc()).limit(_OFFERED)
    found = dict(iter(session.execute(newest)))
    if chosen is not None and chosen not in found:
        found[chosen] = (
            session.scalar(sa.select(Collection.name).where(Collection.id == chosen)) or "a deleted collection"
        )
    return sorted(found.items(), key=lambda pair: pair[1].lower())


def _names(session: Session, entries: Sequence[AuditEntry]) -> dict[UUID, str]:
    """Return the names of the collections in ``entries`` that still exist."""
    keys = {entry.collection_id for entry in entries if entry.collection_id}
    return dict(iter(session.execute(sa.select(Collection.id, Collection.name).where(Collection.id.in_(keys)))))


@pages.get("/people/audit.csv")
def audit_export() -> ResponseReturnValue:
    """Stream the entries that match the filters as CSV."""
    require_role(current_actor(), Role.ADMIN)
    asked = RequestedFilters.of_request()
    sessions = services().sessions
    with transaction(sessions) as session:
        filters = asked.filters(session)
    return long_answers.export(marked(_lines(sessions, filters)), "text/csv", "audit.csv")


def _lines(sessions: Sessions, filters: log.AuditFilters) -> Iterator[str]:
    yield line(_COLUMNS)
    after: UUID | None = None
    while True:
        # one transaction for each batch, so that a slow client holds no connection
        with transaction(sessions) as session:
            batch = log.page(session, filters, after=after, limit=_BATCH)
        for entry in batch:
            yield line(_cells(entry))
        if len(batch) < _BATCH:
            return
        after = batch[-1].id


def _cells(entry: AuditEntry) -> list[Any]:
    return [
        entry.created_at.isoformat(),
        entry.user_name,
        entry.action,
        entry.target,
        entry.target_id,
        entry.collection_id,
        entry.address,
        json.dumps(entry.detail, ensure_ascii=False) if entry.detail else None,
    ]
