"""Migrated databases for tests: copies of one template, and one that is emptied instead of copied again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from retllm.db.session import Sessions, make_sessions

TEMPLATE = "retllm_template"
_DISCONNECT_SECONDS = 60.0
# size of all tables and indexes above which they are truncated, since scans would read many deleted rows
_MAX_BYTES = 32 << 20

_SCHEMA = """
    SELECT md5(string_agg(part, E'\\n' ORDER BY part)) FROM (
        SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
        UNION ALL SELECT format('relation %s %s', oid, relname) FROM pg_class
            WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT format('column %s %s', attrelid, xmin) FROM pg_attribute
            WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
        UNION ALL SELECT format('constraint %s %s', oid, xmin) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT format('default %s', oid) FROM pg_attrdef
        UNION ALL SELECT format('trigger %s %s', oid, xmin) FROM pg_trigger
        UNION ALL SELECT format('value %s %s', oid, xmin) FROM pg_enum
        UNION ALL SELECT format('function %s %s', oid, xmin) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ) AS parts (part)
"""
# sequences after tables, which take those of their identities with them
_RELATIONS = """
    SELECT oid, relkind, quote_ident(relname) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'i') AND oid <> ALL (%s)
    ORDER BY relkind = 'i', relkind = 'S'
"""
_KINDS = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "i": "INDEX"}
_SIZE = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE oid = ANY (%s) AND relkind = 'r'"
# the columns that can be written: all but the generated ones
_COLUMNS = """
    SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""
_SEQUENCE = "SELECT format('SELECT setval(%L, %s, %L)', '{0}', last_value, is_called) FROM {0}"
# marks the connections of the pool, which stay open between tests: a new one costs more than most tests
_POOL = "pool-of-tests"
_END_OTHERS = f"""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        AND NOT (application_name = '{_POOL}' AND state = 'idle')
"""


def address(url: str, database: str) -> str:
    """Return the address of another database of the same server."""
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)


def connect(url: str) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode."""
    return psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://", 1), autocommit=True)


def administer(url: str, *statements: str) -> None:
    """Run statements on databases of the server at ``url``."""
    with connect(address(url, "postgres")) as connection:
        for statement in statements:
            _run(connection, statement)


def copy_template(url: str) -> str:
    """Copy the template and return the address; the copy is deleted with the folder of its server."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    return address(url, name)


def _run(connection: psycopg.Connection[Any], text: str, *parameters: object) -> psycopg.Cursor[Any]:
    return connection.execute(cast(LiteralString, text), parameters or None)


class EmptiedDatabase:
    """A copy of the template that ``reset`` restores in some milliseconds to that content, or to what was kept."""

    def __init__(self, url: str) -> None:
        self.url = copy_template(url)
        pooled = sa.make_url(self.url).update_query_dict({"application_name": _POOL})
        self._shared = make_sessions(pooled.render_as_string(hide_password=False), pool_size=20)
        self._observe()

    def sessions(self) -> Sessions:
        """Return sessions for one test, which has its own listeners and shares the cache of compiled statements."""
        return sessionmaker(**{**self._shared.kw, "bind": self._shared.kw["bind"].execution_options()})

    def _observe(self) -> None:
        """Record the current content of the database, which ``reset`` restores."""
        self._connection = connect(self.url)
        self._schema = self._value(_SCHEMA)
        relations = list(_run(self._connection, _RELATIONS, []))
        self._known = [oid for oid, _, _ in relations]
        self._tables = [name for _, kind, name in relations if kind == "r"]
        # while triggers are off, foreign keys require no order
        statements = ["BEGIN", "SET LOCAL session_replication_role = replica"]
        statements += [f"DELETE FROM {name}" for name in self._tables]
        for name in self._tables:
            rows = self._value(f"SELECT quote_literal(json_agg(one)) FROM {name} AS one")
            if rows is not None:
                columns = self._value(_COLUMNS, name)
                source = f"json_populate_recordset(NULL::{name}, {rows})"
                statements.append(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {source}")
        statements += [self._value(_SEQUENCE.format(name)) for _, kind, name in relations if kind == "S"]
        self._restore = "; ".join([*statements, "COMMIT"])

    def _value(self, text: str, *parameters: object) -> Any:
        row = _run(self._connection, text, *parameters).fetchone()
        return row[0] if row else None

    def reset(self) -> None:
        """End other connections, and then restore rows, sequences, indexes and tables."""
        self._end_others()
        self._drop_new()
        if self._value(_SCHEMA) != self._schema:
            self._replace()
            return
        if self._value(_SIZE, self._known) > _MAX_BYTES:
            _run(self._connection, f"TRUNCATE {', '.join(self._tables)}")
        # one message without parameters, so that it may contain several statements
        _run(self._connection, self._restore)

    def _end_others(self) -> None:
        deadline = time.monotonic() + _DISCONNECT_SECONDS
        while _run(self._connection, _END_OTHERS).rowcount:
            assert time.monotonic() < deadline, f"a connection to {self.url} does not end"
            time.sleep(0.001)

    def _drop_new(self) -> None:
        for _, kind, name in list(_run(self._connection, _RELATIONS, self._known)):
            _run(self._connection, f"DROP {_KINDS[kind]} IF EXISTS {name} CASCADE")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Let ``reset`` restore the current content inside the context, for tests that all start from the same rows."""
        before = self._restore
        self._connection.close()
        self._observe()
        try:
            yield
        finally:
            self._restore = before

    def _replace(self) -> None:
        """Replace the database with a new copy, since a test changed the schema."""
        self.close()
        name = sa.make_url(self.url).database
        administer(self.url, f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        self._observe()

    def close(self) -> None:
        """Close the connections of the pool and the one that empties the database."""
        self._shared.kw["bind"].dispose()
        self._connection.close()
