"""Keyset paging: keys are UUID v7, so they sort by creation time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from retllm.errors import NotFound

LIMIT = 50
MAX = 200


class Keyed(Protocol):
    """An object with a UUID key."""

    @property
    def id(self) -> UUID:
        """Return the key."""


Row = TypeVar("Row", bound=Keyed)


def optional(description: str, **more: Any) -> Any:
    """Return an optional parameter: None if omitted, but not nullable in the document, since a URL has no null."""
    return Field(default=None, description=description, json_schema_extra=_without_null, **more)


def _without_null(schema: dict[str, Any]) -> None:
    schema.pop("default")
    kept = [option for option in schema.pop("anyOf") if option != {"type": "null"}]
    schema.update(kept[0])


class PageQuery(BaseModel):
    """The page of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=LIMIT, ge=1, le=MAX, description="maximum of rows per page")
    after: UUID | None = optional("`next` of the previous page")


def cut(rows: Sequence[Row], limit: int) -> tuple[list[Row], UUID | None]:
    """Return the page and the key to request the next one; ``rows`` has one row more than the page if there is one."""
    page = list(rows[:limit])
    return page, page[-1].id if len(rows) > limit else None


def key_or_none(text: str | None, what: str) -> UUID | None:
    """Return the key in ``text``; None if it is empty.

    Raises:
        NotFound: it is malformed.
    """
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no such {what}.") from None
