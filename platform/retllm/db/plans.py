"""How the server plans a statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler


class _Plan(sa.Executable, sa.ClauseElement):
    inherit_cache = False

    def __init__(self, statement: sa.Select[Any]) -> None:
        self.statement = statement


@compiles(_Plan)
def _compile_plan(plan: _Plan, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(plan.statement, **options)}"


def plan_of(session: Session, statement: sa.Select[Any]) -> dict[str, Any]:
    """Return the plan of a statement; ``Plan Rows`` and ``Total Cost`` are what the planner expects."""
    plan: dict[str, Any] = session.execute(_Plan(statement)).scalar_one()[0]["Plan"]
    return plan


@contextmanager
def server_settings(session: Session, settings: Mapping[str, Any]) -> Iterator[sa.Connection]:
    """Change settings of the server for some statements that write nothing; yield the connection for them."""
    connection = session.connection()
    changed = "; ".join(f"SET LOCAL {name} = {value}" for name, value in settings.items())
    # in one message, since each takes longer than the server needs for it
    connection.exec_driver_sql(f"SAVEPOINT planned; {changed}", execution_options={"no_parameters": True})
    try:
        yield connection
    finally:
        # gives the settings their values back
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT planned")


def joined(session: Session, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
    """Return the rows of a join of items with their vectors, also of what is deleted with its collection.

    Of a key that came after the last ANALYZE, as that of a new collection beside large ones, the planner expects a
    single row. So it would compare each item with each vector, which takes seconds for 10,000 of them.
    """
    session.flush()
    if not _compares_pairs(plan_of(session, statement)):
        return session.connection().execute(statement).all()
    return joined_whole(session, statement)


def joined_whole(session: Session, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
    """Return the rows of a join like :func:`joined` of most of a collection, where looking up each row is slower.

    Without the time that planning it once more takes, which is a good part of that of a small collection.
    """
    session.flush()
    with server_settings(session, {"enable_nestloop": "off"}) as connection:
        return connection.execute(statement).all()


def _compares_pairs(plan: Mapping[str, Any]) -> bool:
    # other nested loops look up each row by an index
    is_one = plan["Node Type"] == "Nested Loop" and "Join Filter" in plan
    return is_one or any(map(_compares_pairs, plan.get("Plans", ())))
