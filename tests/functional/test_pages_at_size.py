"""Every page of a large server sends a bounded number of statements, and none of them scans a large table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.functional.large import ITEMS, LARGE, POOL, SEARCHES, Large, fill
from tests.functional.pages import addresses
from tests.soak import scaled

from retllm.db.enums import Role
from retllm.db.session import make_engine, transaction
from retllm.identity import accounts
from retllm.settings import Settings, public_name
from retllm_web.app import create_app

PASSWORD = "correct horse battery"
# statements of one page, including those for the session; their number does not depend on the number of rows
MAX_STATEMENTS = 30


class _SilentNotifier:
    def notify(self, units: Any) -> None:
        """Do nothing, since no worker runs."""


@pytest.fixture(scope="module")
def app(module_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> OpenAPI:
    home: Path = tmp_path_factory.mktemp("home")
    values = {"home": home, "database_url": module_database, "redis_url": redis_url, "extra_scorers": ["/models/other"]}
    settings = Settings.model_validate(values)
    return create_app(settings, notifier=_SilentNotifier())


@pytest.fixture(scope="module")
def large(app: OpenAPI, module_database: str) -> Large:
    """The filled database."""
    services = app.extensions["retllm"]
    roles = {"root": Role.ADMIN, "ada": Role.EDITOR, "vic": Role.VIEWER}
    with transaction(services.sessions) as session:
        users = {name: accounts.create_user(session, name, PASSWORD, role).id for name, role in roles.items()}
    settings = services.settings
    engine = make_engine(module_database)
    filled = fill(engine, users, embedder=public_name(settings.embedder_name), image_weight=settings.item_image_weight)
    engine.dispose()
    return filled


@pytest.fixture(scope="module", params=["root", "ada", "vic"])
def client(request: pytest.FixtureRequest, app: OpenAPI, large: Large) -> FlaskClient:
    """A client that is logged in."""
    client = app.test_client()
    client.environ_base["REMOTE_ADDR"] = f"10.0.0.{len(request.param)}"
    page = client.get("/login").get_data(as_text=True)
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    sent = {"csrf_token": found[1], "name": request.param, "password": PASSWORD}
    assert client.post("/login", data=sent).status_code == 302
    return client


class StatementLog:
    """The statements sent to the database, and their plans."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.statements: list[tuple[str, Any]] = []

    def __enter__(self) -> StatementLog:
        sa.event.listen(self.engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(self.engine, "before_cursor_execute", self._note)

    def _note(self, _c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        self.statements.append((statement, parameters))

    def full_scans(self) -> list[str]:
        """Return the large tables that a statement scans sequentially, each with the statement."""
        found = []
        with self.engine.connect() as connection:
            for statement, parameters in self.statements:
                if not re.match(r"\s*(SELECT|WITH|UPDATE|DELETE)", statement):
                    continue
                plan = connection.exec_driver_sql("EXPLAIN (FORMAT JSON) " + statement, parameters).scalar()
                plan = plan if isinstance(plan, list) else json.loads(str(plan))
                found += [f"{table}: {statement}" for table in _scanned(plan[0]["Plan"])]
            connection.rollback()
        return found


def _scanned(node: dict[str, Any]) -> Iterator[str]:
    if "Seq Scan" in node["Node Type"] and node["Relation Name"] in LARGE:
        yield node["Relation Name"]
    for inner in node.get("Plans", []):
        yield from _scanned(inner)


_HISTORY_FILTERS = (
    "kind=index",
    "state=failed",
    "state=running",
    "text=bird+17",
    "text=nowhere",
    "person=vic",
    "from=2026-01-01&to=2026-06-01",
    "kind=search&state=partial&text=bird",
)


def _addresses(app: OpenAPI, large: Large) -> list[str]:
    """Return the path of every page of the app, and common filters."""
    known = {
        "collection_id": [large.collection_id],
        "item_id": [large.item_id],
        "job_id": [large.search_id, large.running_id, large.index_id, large.upload_id],
        "search_id": [large.search_id],
        "run_id": [large.run_id],
        "user_id": [large.user_id],
        "upload_id": [large.upload_id],
    }
    found = addresses(app, {name: [str(key) for key in keys] for name, keys in known.items()})
    one = f"/collections/{large.collection_id}"
    later = [f"{one}?q=boat", f"{one}?q=nowhere", f"{one}?kind=text", f"{one}?after={large.item_id}"]
    later += [f"{one}?state={state}" for state in ("indexed", "missing", "failed")]
    history = (*_HISTORY_FILTERS, f"collection={large.collection_id}", f"after={large.search_id}")
    later += [f"/jobs?{query}" for query in history]
    later += [f"/compare?of={large.search_id}&of={large.running_id}", f"/search?again={large.search_id}"]
    later += [f"/search?collection={large.collection_id}&like={large.item_id}"]
    return found + later


def test_the_database_has_the_intended_size(large: Large, module_database: str) -> None:
    engine = make_engine(module_database)
    with engine.connect() as connection:
        counts = {table: connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0 for table in LARGE}
    engine.dispose()
    assert counts["items"] == ITEMS == scaled(20_000, 100_000)
    assert counts["candidates"] == SEARCHES * POOL > 10 * ITEMS
    assert counts["scores"] >= 10 * ITEMS
    assert counts["jobs"] == 10_001
    assert min(counts["units"], counts["embeddings"]) > 0.9 * ITEMS


def test_every_page_sends_few_statements_and_scans_no_large_table(
    app: OpenAPI, large: Large, client: FlaskClient
) -> None:
    engine = app.extensions["retllm"].sessions.kw["bind"]
    problems = []
    seen = 0
    for address in _addresses(app, large):
        with StatementLog(engine) as log:
            answer = client.get(address)
            answer.get_data()
        if answer.status_code >= 500:
            problems.append(f"{address}: {answer.status_code}")
        seen += answer.status_code == 200
        # a download contains all rows, which are read in parts
        download = "attachment" in answer.headers.get("Content-Disposition", "")
        if len(log.statements) > MAX_STATEMENTS and not download:
            problems.append(f"{address}: {len(log.statements)} statements")
        problems += [f"{address} scans {one}" for one in log.full_scans()]
    assert not problems, "\n".join(problems)
    assert seen >= 10, "too few pages could be opened"
