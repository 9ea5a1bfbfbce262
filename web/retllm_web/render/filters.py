"""The filters of the history as parts of an address, so that a link gives the same view."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from flask import request
from werkzeug.datastructures import MultiDict

from retllm.db.enums import FileStatus, JobKind, JobState
from retllm.history.listing import JobFilters
from retllm_web.http.paging import key_or_none

# characters of a filter's text
_MAX_LENGTH = 200

Choice = TypeVar("Choice", bound=StrEnum)


def filters_of(args: MultiDict[str, str]) -> JobFilters:
    """Return the filters in ``args``; an invalid value is ignored.

    Raises:
        NotFound: a key is malformed.
    """
    return JobFilters(
        kind=next(iter(_choices(JobKind, args.getlist("kind"))), None),
        states=_choices(JobState, args.getlist("state")),
        collection_id=key_or_none(args.get("collection"), "collection"),
        person=_text(args, "person") or None,
        since=_day(args.get("from", "")),
        until=_day(args.get("to", "")),
        text=_text(args, "text"),
        outcomes=_choices(FileStatus, args.getlist("outcome")),
        run_id=key_or_none(args.get("run"), "evaluation"),
    )


def requested_filters() -> JobFilters:
    """Return the filters of this request.

    Raises:
        NotFound: a key is malformed.
    """
    return filters_of(request.args)


def filters_of_address(address: str) -> JobFilters:
    """Return the filters in a query string.

    Raises:
        NotFound: a key is malformed.
    """
    return filters_of(MultiDict(parse_qsl(address.removeprefix("?"), max_num_fields=100)))


def address_of(filters: JobFilters) -> dict[str, Any]:
    """Return the filters as arguments for ``url_for``, without the unset ones."""
    values = {
        "kind": filters.kind,
        "state": list(filters.states),
        "collection": filters.collection_id,
        "person": filters.person,
        "from": filters.since,
        "to": filters.until,
        "text": filters.text,
        "outcome": list(filters.outcomes),
        "run": filters.run_id,
    }
    return {
        name: [str(part) for part in value] if isinstance(value, list) else str(value)
        for name, value in values.items()
        if value
    }


def query_of(filters: JobFilters) -> str:
    """Return the filters as a query string, without the question mark."""
    return urlencode(address_of(filters), doseq=True)


def pairs_of(filters: JobFilters) -> list[tuple[str, str]]:
    """Return the filters as the hidden fields of a form."""
    return parse_qsl(query_of(filters))


def job_keys(values: Sequence[str], limit: int) -> list[UUID]:
    """Return the first ``limit`` distinct job keys in ``values``.

    Raises:
        NotFound: a key is malformed.
    """
    keys = [key_or_none(value, "job") for value in dict.fromkeys(values)]
    return [key for key in keys if key is not None][:limit]


def _choices(kind: type[Choice], values: Sequence[str]) -> tuple[Choice, ...]:
    return tuple(member for member in kind if member.value in values)


def _text(args: MultiDict[str, str], name: str) -> str:
    return args.get(name, "").replace("\0", "").strip()[:_MAX_LENGTH]


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
