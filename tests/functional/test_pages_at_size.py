"""Every page and every answer of the API of a large server costs as much as on a small one.

It sends a bounded number of statements, none scans a large table, and together they read a bounded number of rows.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.functional.large import DELETED, ITEMS, LARGE, POOL, SEARCHES, Large, fill
from tests.functional.pages import addresses
from tests.soak import SOAK, scaled

from retllm.db.enums import Role
from retllm.db.searches import Candidate
from retllm.db.session import make_engine, transaction
from retllm.db.tables import User
from retllm.history import listing
from retllm.identity import accounts, links, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings, public_name
from retllm_web.actions import item_lists
from retllm_web.app import create_app
from retllm_web.http.auth import link_key, token_key

PASSWORD = "correct horse battery"
PEOPLE = ("root", "ada", "vic")
# statements of one page, including those for the session; their number does not depend on the number of rows
MAX_STATEMENTS = 32
# and those that count what the items of a list have in common
OF_FACETS = 7
# and those that bound what comparing items takes, for the list and for its facets
OF_BOUNDS = 4
# rows that the statements of one page read, also those that a filter removes; the same for every size of the database
MAX_ROWS = 10_400
# how often one page reads which collections are deleted: once for each part of a statement that leaves them out
LISTS_OF_DELETED = 80
# and those of items or searches that are compared with a filter, or of jobs that ended in the week that a chart shows
COMPARED = 2 * max(item_lists.MAX_COMPARED, listing.MAX_COMPARED)
# and those of a map: the points that one request looks at, their items, and these again for the colours
POINTS = 30_000
# whoever sees a third of the collections skips two jobs for each that they see
SKIPPED = 3
# with ``make soak``: the quickest of five answers, since other processes may be busy
MAX_SECONDS = 0.2


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


@pytest.fixture(scope="module", params=PEOPLE)
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

    def plans(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run each statement again and yield it with its plan."""
        with self.engine.connect() as connection:
            for statement, parameters in self.statements:
                if not re.match(r"\s*(SELECT|WITH|UPDATE|DELETE)", statement):
                    continue
                explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "
                plan = connection.exec_driver_sql(explain + statement, parameters).scalar()
                yield statement, (plan if isinstance(plan, list) else json.loads(str(plan)))[0]["Plan"]
            connection.rollback()


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", []):
        yield from _nodes(inner)


def _scanned(plan: dict[str, Any]) -> list[str]:
    """Return the large tables that a statement scans sequentially."""
    scans = [node for node in _nodes(plan) if "Seq Scan" in node["Node Type"] and node["Actual Loops"]]
    return [node["Relation Name"] for node in scans if node["Relation Name"] in LARGE]


def _rows_read(plan: dict[str, Any]) -> int:
    """Return how many rows a statement reads: those of its scans, and those that a filter or a join removes."""
    read = 0.0
    for node in _nodes(plan):
        rows = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
        # a bitmap of an index is of the rows that the scan above it reads
        if "Scan" in node["Node Type"] and node["Node Type"] != "Bitmap Index Scan":
            rows += node["Actual Rows"]
        read += rows * node["Actual Loops"]
    return round(read)


_HISTORY_FILTERS = (
    "kind=index",
    "state=failed",
    "state=running",
    "text=bird+17",
    "text=nowhere",
    "person=vic",
    "from=2026-01-01&to=2026-06-01",
    "kind=search&state=partial&text=bird",
    "kind=search",
)


def _known(large: Large) -> dict[str, list[str]]:
    known = {
        "collection_id": [large.collection_id],
        "item_id": [large.item_id],
        "job_id": [large.search_id, large.running_id, large.index_id, large.upload_id, large.several_id],
        "search_id": [large.search_id, large.several_id],
        "run_id": [large.run_id],
        "user_id": [large.user_id],
        "upload_id": [large.upload_id],
        "large_file_id": [large.item_id],
    }
    return {name: [str(key) for key in keys] for name, keys in known.items()}


def _addresses(app: OpenAPI, large: Large) -> list[str]:
    """Return the path of every page of the app, and common filters."""
    one = f"/collections/{large.collection_id}"
    later = [f"{one}?q=boat", f"{one}?q=nowhere", f"{one}?kind=text", f"{one}?after={large.item_id}"]
    later += [f"{one}?facets=1", f"{one}?facets=1&q=boat", f"{one}?facets=1&filter=has+camera"]
    later += [f"{one}?state={state}" for state in ("indexed", "missing", "failed")]
    later += [f"{one}/duplicates?at={large.item_id}", f"{one}?facets=1&filter=has+duplicates"]
    later += [
        f"{one}/map?{query}" for query in ("colour=size", "filter=text+~+boat", "q=nowhere", "colour=column.none")
    ]
    later += [f"{one}?filter=map+within+(10,10,30,30)", f"{one}/places?zoom=4&latitude=20&longitude=30"]
    later.append(f"{one}/places?filter=text+~+boat")
    history = (*_HISTORY_FILTERS, f"collection={large.collection_id}", f"after={large.search_id}")
    later += [f"/jobs?{query}" for query in history]
    later += [f"/jobs/confirm?deed={deed}&all=1" for deed in ("cancel", "retry", "delete")]
    later.append("/jobs/confirm?deed=delete&all=1&text=nowhere")
    later.append(f"/jobs/{large.upload_id}?status=rejected")
    later += [
        "/?window=7d",
        "/system?text=nowhere",
        "/people/audit?action=job+submitted",
        "/people?q=a",
    ]
    later += [f"/compare?of={large.search_id}&of={large.running_id}", f"/search?again={large.search_id}"]
    later += [f"/compare?of={large.search_id}&of={large.several_id}", f"/search?again={large.several_id}"]
    later += [f"/search?collection={large.collection_id}&like={large.item_id}"]
    later += [f"/search?collection={large.collection_id}&facets=1&filter=has+camera"]
    later.append(f"/trash?collection={large.collection_id}")
    return addresses(app, _known(large)) + later


def _api_addresses(app: OpenAPI, large: Large) -> list[str]:
    """Return the path of everything that the API reads, and common filters."""
    found = addresses(app, _known(large), "api")
    found += [f"/api/v1/jobs?{query}" for query in ("state=failed&limit=200", "kind=index", "text=nowhere")]
    found.append("/api/v1/audit?limit=200")
    trash = f"/api/v1/collections/{large.collection_id}/trash"
    found += [f"{trash}?limit=200", "/api/v1/trash?limit=200"]
    items = f"/api/v1/collections/{large.collection_id}/items"
    found += [f"{items}?{query}" for query in ("limit=200", "kind=text", "state=missing", "q=nowhere")]
    points = f"/api/v1/collections/{large.collection_id}/map/points"
    found += [f"{points}?{query}" for query in ("after=4000", "filter=text+~+boat", "colour=tags&limit=5000")]
    return found


def test_the_database_has_the_intended_size(large: Large, module_database: str) -> None:
    engine = make_engine(module_database)
    with engine.connect() as connection:
        counts = {table: connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0 for table in LARGE}
    engine.dispose()
    assert counts["items"] == ITEMS == scaled(20_000, 1_000_000)
    assert counts["candidates"] == SEARCHES * POOL > 10 * MAX_ROWS
    assert counts["scores"] > 0.99 * counts["candidates"]
    assert counts["jobs"] == scaled(10_001, 100_001)
    assert min(counts["units"], counts["embeddings"]) > 0.5 * ITEMS
    assert min(counts.values()) > 0.9 * MAX_ROWS


def _problems(engine: sa.Engine, client: FlaskClient, name: str, found: list[str]) -> list[str]:
    """Return what is wrong with the answers to a GET of each address for the person of that name."""
    skipped = SKIPPED if SOAK and name != "root" else 1
    problems = []
    seen = 0
    for address in found:
        with StatementLog(engine) as log:
            answer = client.get(address)
            answer.get_data()
        if answer.status_code >= 500:
            problems.append(f"{address}: {answer.status_code}")
        seen += answer.status_code == 200
        # a download contains all rows, which are read in parts
        download = "attachment" in answer.headers.get("Content-Disposition", "")
        # places are counted as facets are
        with_facets = "facets" in address or "/places" in address
        allowed = MAX_STATEMENTS + OF_FACETS * with_facets
        if re.search(r"/(collections/|search[?]).*[?&](q|filter)=", address):
            allowed += OF_BOUNDS * (1 + with_facets)
        if len(log.statements) > allowed and not download:
            problems.append(f"{address}: {len(log.statements)} statements")
        is_compared = with_facets or re.search(r"[?&](q|text|state|kind|window|all)=", address)
        read: list[tuple[int, str]] = []
        for statement, plan in log.plans():
            read.append((_rows_read(plan), statement))
            # what is compared with a text is all that there is without ``make soak``
            scanned = [table for table in _scanned(plan) if SOAK or not is_compared or table != "jobs"]
            problems += [f"{address} scans {table}: {statement}" for table in scanned]
        (most, statement), rows = max(read, default=(0, "")), sum(rows for rows, _ in read)
        compared = _compared(address) if is_compared else 0
        compared += POINTS if re.search(r"/map\b", address) else 0
        if rows > skipped * (MAX_ROWS + compared) + LISTS_OF_DELETED * DELETED and not download:
            problems.append(f"{address} reads {rows:,} rows, {most:,} of them by {statement}")
        if SOAK and not download:
            problems += _slow(client, address)
    if seen < 10:
        problems.append("too few pages could be opened")
    return problems


def _compared(address: str) -> int:
    """Return how many rows a filter of an address may compare; facets are counted after the list was read."""
    # each with its place in a group, and the group
    return COMPARED * (1 + ("facets" in address)) * (3 if "has+duplicates" in address else 1)


def _slow(client: FlaskClient, address: str) -> list[str]:
    def seconds() -> float:
        began = time.perf_counter()
        client.get(address).get_data()
        return time.perf_counter() - began

    least = min(seconds() for _ in range(5))
    return [f"{address} takes {least:.2f} s"] if least > MAX_SECONDS else []


def test_every_page_costs_as_much_as_on_a_small_server(
    app: OpenAPI, large: Large, client: FlaskClient, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["client"]
    problems = _problems(app.extensions["retllm"].sessions.kw["bind"], client, name, _addresses(app, large))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", PEOPLE)
def test_every_answer_of_the_api_costs_as_much_as_on_a_small_server(app: OpenAPI, large: Large, name: str) -> None:
    sessions = app.extensions["retllm"].sessions
    with app.app_context(), transaction(sessions) as session:
        user = session.scalars(sa.select(User).filter_by(name=name)).one()
        _, secret = tokens.issue(session, token_key(), Actor.unlimited(user), "t")
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    problems = _problems(sessions.kw["bind"], client, name, _api_addresses(app, large))
    assert not problems, "\n".join(problems)


def test_everything_behind_a_link_costs_as_much_as_on_a_small_server(app: OpenAPI, large: Large) -> None:
    services = app.extensions["retllm"]
    targets = (links.collection_target, large.collection_id), (links.search_target, large.search_id)
    found: list[str] = []
    with app.app_context(), transaction(services.sessions) as session:
        root = Actor.unlimited(session.scalars(sa.select(User).filter_by(name="root")).one())
        for find, key in targets:
            target = find(session, root, key)
            _, secret = links.make(session, link_key(), root, target, "t", days=1, longest=1, downloads=True)
            item = large.item_id
            if target.search_id is not None:
                item = session.scalars(sa.select(Candidate.item_id).filter_by(search_id=key).limit(1)).one()
            known = {"token": [secret], "item_id": [str(item)]}
            found += addresses(app, known, "shared")
            found += [f"/s/{secret}?after={item}"]
    problems = _problems(services.sessions.kw["bind"], app.test_client(), "visitor", found)
    # the pictures are not in the storage
    assert problems in ([], ["too few pages could be opened"]), "\n".join(problems)
    assert app.test_client().get(found[0]).status_code == 200
