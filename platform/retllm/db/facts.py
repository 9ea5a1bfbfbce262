"""What is known of an item besides its content: when, where and by what it was made, and how people sort it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column


class ItemFacts:
    """Columns of an item.

    ``taken`` is the time on the clock where it was made, and ``taken_until`` the end of it, which tells how precisely
    it is known: a year, a day, a second. ``taken_zone`` is that clock's offset from UTC in minutes, null if unknown.
    ``latitude`` and ``longitude`` are degrees of WGS 84, both null or neither. ``further`` holds further columns by
    their names. ``perceptual_hash`` is what a picture looks like, in 64 bits
    (:mod:`retllm.media.decoding.perceptual`); null for texts, and for pictures of which it is not computed yet.
    """

    title: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), default=list, server_default=sa.text("'{}'"))
    rating: Mapped[int | None] = mapped_column(sa.SmallInteger)
    taken: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=False))
    taken_until: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=False))
    taken_zone: Mapped[int | None] = mapped_column(sa.SmallInteger)
    camera: Mapped[str | None]
    lens: Mapped[str | None]
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    further: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict, server_default=sa.text("'{}'"))
    perceptual_hash: Mapped[int | None] = mapped_column(sa.BigInteger)


NO_FACTS: Mapping[str, Any] = {
    **dict.fromkeys(
        ("title", "rating", "taken", "taken_until", "taken_zone", "camera", "lens", "latitude", "longitude")
    ),
    "tags": [],
    "further": {},
}
"""The columns of an item of which nothing is known."""


def end_of(begin: datetime, parts: int) -> datetime:
    """Return the end of a time that is known by so many of year, month, day, hour, minute and second.

    Raises:
        ValueError, OverflowError: it is too late for the calendar.
    """
    if parts == 1:
        return begin.replace(year=begin.year + 1)
    if parts == 2:
        return (begin + timedelta(days=31)).replace(day=1)
    return begin + {3: timedelta(days=1), 5: timedelta(minutes=1)}.get(parts, timedelta(seconds=1))


def folded(text: Any) -> sa.ColumnElement[str]:
    """Return a text in lower case and without accents, so that "Munzen" is equal to "Münzen"."""
    return sa.func.retllm_folded(text, type_=sa.Text)


def folded_all(texts: Any) -> sa.ColumnElement[list[str]]:
    """Return an array of texts, each :func:`folded`."""
    return sa.func.retllm_folded_all(texts, type_=ARRAY(sa.Text))


def folded_cells(cells: Any) -> sa.ColumnElement[Any]:
    """Return the further columns of an item with names and cells :func:`folded`."""
    return sa.func.retllm_folded_cells(cells, type_=JSONB)


def folder_of(name: Any) -> sa.ColumnElement[str]:
    """Return the folder in the name of an item, with a slash at its end; an empty text if there is none."""
    # no parameters, so that the planner knows the expression of the index
    expression: sa.ColumnElement[str] = sa.literal_column("'^.*/'")
    empty: sa.ColumnElement[str] = sa.literal_column("''")
    return sa.func.coalesce(sa.func.substring(name, expression), empty, type_=sa.Text)


def fact_indexes() -> tuple[sa.Index, ...]:
    """Return the indexes of items for filters by these columns and by the folder; only ready items are looked for."""

    def ready(name: str, *parts: Any, more: str = "", **options: Any) -> sa.Index:
        where = sa.text(" AND ".join(filter(None, ("state = 'ready'", more))))
        return sa.Index(f"ix_items_{name}", *parts, postgresql_where=where, **options)

    folder: sa.Label[str] = sa.literal_column("coalesce(substring(name, '^.*/'), '')").label("folder")
    cells: sa.Label[Any] = sa.literal_column("retllm_folded_cells(further)").label("cells")
    return (
        ready("taken", "collection_id", "taken", "id"),
        ready("name", "collection_id", sa.text("retllm_folded(name)"), "id"),
        ready("camera", "collection_id", sa.text("retllm_folded(camera)"), more="camera IS NOT NULL"),
        ready("folder", "collection_id", folder, postgresql_ops={"folder": "text_pattern_ops"}),
        ready("rating", "collection_id", "rating", more="rating IS NOT NULL"),
        ready("position", "collection_id", "latitude", "longitude", more="latitude IS NOT NULL"),
        ready("tags", sa.text("retllm_folded_all(tags)"), postgresql_using="gin"),
        # covers the search for near-duplicates
        ready(
            "hashed",
            *("collection_id", "id"),
            more="perceptual_hash IS NOT NULL",
            postgresql_include=["perceptual_hash"],
        ),
        ready("unhashed", *("collection_id", "id"), more="perceptual_hash IS NULL AND thumbnail_key IS NOT NULL"),
        ready("further", cells, postgresql_ops={"cells": "jsonb_path_ops"}, postgresql_using="gin"),
    )
