"""Keyset paging: keys are UUID v7, so the order of keys is the order of making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from retllm.errors import NotFound

LIMIT = 50
MAX = 200


class Keyed(Protocol):
    """Anything with a UUID key."""

    @property
    def id(self) -> UUID:
        """The key."""


Row = TypeVar("Row", bound=Keyed)


def optional(description: str, **more: Any) -> Any:
    """A parameter that may be left out: None here, but in the document not null, for no address can say null."""
    return Field(default=None, description=description, json_schema_extra=_without_null, **more)


def _without_null(schema: dict[str, Any]) -> None:
    schema.pop("default")
    kept = [one for one in schema.pop("anyOf") if one != {"type": "null"}]
    schema.update(kept[0])


class PageQuery(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=LIMIT, ge=1, le=MAX, description="rows of a page")
    after: UUID | None = optional("the `next` of the page before")


def cut(rows: Sequence[Row], limit: int) -> tuple[list[Row], UUID | None]:
    """The page, and the key to ask for the next one with; ``rows`` has one more than the page if there is a next."""
    page = list(rows[:limit])
    return page, page[-1].id if len(rows) > limit else None


def key_or_none(text: str | None, what: str) -> UUID | None:
    """A key out of an address.

    Raises:
        NotFound: it is none.
    """
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no such {what}.") from None
