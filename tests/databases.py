"""Migrated databases for tests: copies of one template, and one that is emptied instead of copied anew."""

from __future__ import annotations

import time
import uuid
from typing import Any, LiteralString, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from retllm.db.session import Sessions, make_sessions

TEMPLATE = "retllm_template"
_GONE_SECONDS = 60.0
# bytes of all tables and indexes from which on the files are made anew: scans would wade through deleted rows
_BLOATED = 32 << 20

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
_RELATIONS = """
    SELECT oid, relkind, quote_ident(relname) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'i') AND oid <> ALL (%s)
    ORDER BY relkind = 'i'
"""
_KINDS = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "i": "INDEX"}
_SIZE = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE oid = ANY (%s) AND relkind = 'r'"
_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def address(url: str, database: str) -> str:
    """The address of another database of the same server."""
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection outside any transaction."""
    return psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://", 1), autocommit=True)


def administer(url: str, *statements: str) -> None:
    """Run statements that name databases of the server at ``url``."""
    with connect(address(url, "postgres")) as connection:
        for statement in statements:
            _run(connection, statement)


def copy_template(url: str) -> str:
    """The address of a new copy of the template; nobody drops it, it goes with the folder of its server."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    return address(url, name)


def _run(connection: psycopg.Connection[Any], text: str, *parameters: object) -> psycopg.Cursor[Any]:
    return connection.execute(cast(LiteralString, text), parameters or None)


class EmptiedDatabase:
    """A copy of the template that ``reset`` brings back to what the template holds, in some milliseconds."""

    def __init__(self, url: str) -> None:
        self.url = copy_template(url)
        self._shared = make_sessions(self.url, pool_size=20)
        self._observe()

    def sessions(self) -> Sessions:
        """Sessions for one test: listeners that it adds are its own, compiled statements are kept for the next."""
        return sessionmaker(**{**self._shared.kw, "bind": self._shared.kw["bind"].execution_options()})

    def _observe(self) -> None:
        """Note what is in the database now, which is what the template holds."""
        self._connection = connect(self.url)
        self._schema = self._value(_SCHEMA)
        relations = list(_run(self._connection, _RELATIONS, []))
        self._known = [oid for oid, _, _ in relations]
        self._tables = [name for _, kind, name in relations if kind == "r"]
        # foreign keys need no order while triggers are off
        statements = ["BEGIN", "SET LOCAL session_replication_role = replica"]
        statements += [f"DELETE FROM {name}" for name in self._tables]
        for name in self._tables:
            rows = self._value(f"SELECT quote_literal(json_agg(one)) FROM {name} AS one")
            if rows is not None:
                statements.append(f"INSERT INTO {name} SELECT * FROM json_populate_recordset(NULL::{name}, {rows})")
        statements += [f"ALTER SEQUENCE {name} RESTART" for _, kind, name in relations if kind == "S"]
        self._restore = "; ".join([*statements, "COMMIT"])

    def _value(self, text: str, *parameters: object) -> Any:
        row = _run(self._connection, text, *parameters).fetchone()
        return row[0] if row else None

    def reset(self) -> None:
        """End what others do in the database, then take back rows, sequences, indexes and tables."""
        self._end_others()
        self._drop_new()
        if self._value(_SCHEMA) != self._schema:
            self._replace()
            return
        if self._value(_SIZE, self._known) > _BLOATED:
            _run(self._connection, f"TRUNCATE {', '.join(self._tables)}")
        # one message, and without parameters, so that it may be of several statements
        _run(self._connection, self._restore)

    def _end_others(self) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while _run(self._connection, _END_OTHERS).rowcount:
            assert time.monotonic() < deadline, f"a connection to {self.url} does not end"
            time.sleep(0.001)

    def _drop_new(self) -> None:
        for _, kind, name in list(_run(self._connection, _RELATIONS, self._known)):
            _run(self._connection, f"DROP {_KINDS[kind]} IF EXISTS {name} CASCADE")

    def _replace(self) -> None:
        """Put a new copy in its place: a test changed the schema itself."""
        self._connection.close()
        name = sa.make_url(self.url).database
        administer(self.url, f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        self._observe()

    def close(self) -> None:
        """End the connection by which it is emptied."""
        self._connection.close()
