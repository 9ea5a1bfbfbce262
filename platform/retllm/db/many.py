"""Insert, update and find many rows at once.

The rows are one parameter, in JSON: with a parameter for each value, thousands of rows take seconds to be parsed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, Insert, insert

from retllm.db.base import Base


def one_of(column: Any, values: Collection[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that a column has one of these values; a statement may have 65,535 parameters at most."""
    listed = sa.literal(list(values), ARRAY(column.type))
    condition: sa.ColumnElement[bool] = column == sa.any_(listed)
    return condition


def insert_many(table: type[Base], rows: Sequence[Mapping[str, Any]]) -> Insert:
    """Return an INSERT of these rows, which all have the same columns; other columns get the server's defaults."""
    given = _given(table, rows)
    names = [column.name for column in given.c]
    return insert(table).from_select(names, sa.select(*given.c), include_defaults=False)


def update_many(table: type[Base], rows: Sequence[Mapping[str, Any]]) -> sa.Update:
    """Return an UPDATE of the rows with these keys ``id`` to the other values, which all rows have."""
    given = _given(table, rows)
    values = {column.name: column for column in given.c if column.name != "id"}
    return sa.update(table).where(table.__table__.c.id == given.c.id).values(values)


def _given(table: type[Base], rows: Sequence[Mapping[str, Any]]) -> sa.TableValuedAlias:
    target = cast(sa.Table, table.__table__)
    columns = [sa.column(name, target.c[name].type) for name in rows[0]]
    values = sa.cast(sa.literal(json.dumps(rows, default=_written), sa.Text), JSONB)
    row_type: sa.ColumnElement[Any] = sa.literal_column(f"NULL::{target.name}")
    return sa.func.jsonb_populate_recordset(row_type, values).table_valued(*columns)


def _written(value: Any) -> str:
    """Return a value that JSON has no form for as PostgreSQL reads it."""
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
