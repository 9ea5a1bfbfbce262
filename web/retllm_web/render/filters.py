"""The filters of the history as they stand in an address, so that a link gives the same view."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from flask import request
from werkzeug.datastructures import MultiDict

from retllm.db.enums import JobKind, JobState
from retllm.history.listing import JobFilters
from retllm_web.http.paging import key_or_none

# characters of a text that is looked for
_MAX_LENGTH = 200

Choice = TypeVar("Choice", bound=StrEnum)


def filters_of(args: MultiDict[str, str]) -> JobFilters:
    """The filters in ``args``; what can't be read filters nothing.

    Raises:
        NotFound: the collection's key is none.
    """
    return JobFilters(
        kind=next(iter(_choices(JobKind, args.getlist("kind"))), None),
        states=_choices(JobState, args.getlist("state")),
        collection_id=key_or_none(args.get("collection"), "collection"),
        person=_text(args, "person") or None,
        since=_day(args.get("from", "")),
        until=_day(args.get("to", "")),
        text=_text(args, "text"),
    )


def filters_asked() -> JobFilters:
    """The filters of this request.

    Raises:
        NotFound: the collection's key is none.
    """
    return filters_of(request.args)


def filters_of_address(address: str) -> JobFilters:
    """The filters in a query string.

    Raises:
        NotFound: the collection's key is none.
    """
    return filters_of(MultiDict(parse_qsl(address.removeprefix("?"), max_num_fields=100)))


def address_of(filters: JobFilters) -> dict[str, Any]:
    """The filters as they stand in an address, for ``url_for``; what filters nothing is left out."""
    values = {
        "kind": filters.kind,
        "state": list(filters.states),
        "collection": filters.collection_id,
        "person": filters.person,
        "from": filters.since,
        "to": filters.until,
        "text": filters.text,
    }
    return {
        name: [str(one) for one in value] if isinstance(value, list) else str(value)
        for name, value in values.items()
        if value
    }


def query_of(filters: JobFilters) -> str:
    """The filters as a query string, without the question mark."""
    return urlencode(address_of(filters), doseq=True)


def pairs_of(filters: JobFilters) -> list[tuple[str, str]]:
    """The filters as the hidden fields of a form."""
    return parse_qsl(query_of(filters))


def keys_asked(values: Sequence[str], most: int) -> list[UUID]:
    """The first ``most`` keys of jobs among ``values``, each once.

    Raises:
        NotFound: one of them is none.
    """
    keys = [key_or_none(value, "job") for value in dict.fromkeys(values)]
    return [key for key in keys if key is not None][:most]


def _choices(kind: type[Choice], values: Sequence[str]) -> tuple[Choice, ...]:
    return tuple(one for one in kind if one.value in values)


def _text(args: MultiDict[str, str], name: str) -> str:
    return args.get(name, "").replace("\0", "").strip()[:_MAX_LENGTH]


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
