"""Every route of the API with tokens of each scope: a token does no more than its scope allows."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.factories import make_job, make_unit, store
from tests.unit.web.conftest import PASSWORD, Caller, RecordingNotifier
from tests.unit.web.policy import POLICY, WITHIN_COLLECTION, Needs, Person, least_scope
from tests.unit.web.route_requests import BODIES, IMPORTED, WITH_HEADERS, RequestSender, plain_body
from tests.unit.web.scene import Scene, SceneBuilder
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from retllm.db.enums import JobKind, JobState, TokenScope, UnitState
from retllm.db.jobs import Job
from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import ApiToken
from retllm.errors import Forbidden
from retllm.identity.access import changeable_jobs
from retllm.identity.actor import Actor
from retllm.review.marks import set_mark
from retllm.search.request import SearchRequest
from retllm.search.submit import submit_search
from retllm.settings import Settings
from retllm_web.app import create_app

pytestmark = pytest.mark.slow

SCOPES = list(TokenScope)


def _routes() -> list[Any]:
    unused = Settings(
        home=Path("unused"),
        secret_key=secrets.token_hex(),
        database_url="postgresql://unused",
        redis_url="redis://unused",
    )
    rules = sorted(create_app(unused).url_map.iter_rules(), key=lambda rule: rule.rule)
    return [
        pytest.param(rule, method, id=f"{method} {rule.endpoint}")
        for rule in rules
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
        if rule.endpoint.startswith("api.")
    ]


ROUTES = _routes()
ROUTES_WITHIN_COLLECTION = [
    one for one in ROUTES if POLICY[one.values[0].endpoint] in WITHIN_COLLECTION and one.values[1] != "HEAD"
]
# the callers to test for a requirement; the administrator for all others
PERSONS = {
    Needs.OWN: [Person.OWNER],
    Needs.JOB: [Person.ADMIN, Person.SEARCHER],
    Needs.RUN: [Person.ADMIN, Person.EDITOR],
    Needs.CHANGE: [Person.ADMIN, Person.EDITOR],
    Needs.MANAGE: [Person.ADMIN, Person.OWNER],
}


class Harness:
    """An app whose routes are requested with tokens."""

    def __init__(self, app: OpenAPI) -> None:
        self.served = app.extensions["retllm"]
        self.builder = SceneBuilder(self.served, PASSWORD)
        self.sender = RequestSender(app, self.served)
        self.shared_scene = self.builder.build()

    def send(self, rule: Rule, method: str, scene: Scene, person: Person, scope: TokenScope) -> TestResponse:
        """Return the response to a valid request with a token of that scope."""
        make = BODIES.get(rule.endpoint)
        needed = method not in ("GET", "HEAD") or rule.endpoint in WITH_HEADERS
        sent = make(scene, self.builder) if make and needed else None
        address = self.sender.address(rule, method, scene)
        return self.sender.send(method, address, scene.people[person], sent, scope=scope)

    def count_effects(self) -> int:
        """Return the number of audit entries, jobs and revoked tokens."""
        counts = [sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in (AuditEntry, Job)]
        revoked = sa.select(sa.func.count()).where(ApiToken.revoked_at.is_not(None)).scalar_subquery()
        with transaction(self.served.sessions) as session:
            return session.execute(sa.select(counts[0] + counts[1] + revoked)).scalar_one()


@pytest.fixture(scope="module")
def harness(module_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """The app, with its own database."""
    home = tmp_path_factory.mktemp("scopes")
    settings = Settings(home=home, database_url=module_database, redis_url=redis_url, import_roots=(IMPORTED,))
    return Harness(create_app(settings, notifier=RecordingNotifier()))


@pytest.mark.parametrize(("rule", "method"), ROUTES)
def test_a_token_can_use_exactly_the_routes_that_its_scope_allows(harness: Harness, rule: Rule, method: str) -> None:
    needs = POLICY[rule.endpoint]
    wrong = {}
    for person in PERSONS.get(needs, [Person.ADMIN]):
        least = least_scope(rule.endpoint, method, person)
        for scope in SCOPES:
            allowed = SCOPES.index(scope) >= SCOPES.index(least)
            changes = allowed and method not in ("GET", "HEAD")
            scene = harness.builder.build() if changes else harness.shared_scene
            before = harness.count_effects()
            answer = harness.send(rule, method, scene, person, scope)
            # a conflict with an object's state is not a missing scope
            fine = answer.status_code < 400 or answer.status_code == 409 if allowed else answer.status_code == 403
            if not fine:
                wrong[f"{person}, {scope}"] = answer.status_code
            elif not allowed and harness.count_effects() != before:
                wrong[f"{person}, {scope}"] = "rejected, but with an effect"
    assert not wrong


@pytest.mark.parametrize(("rule", "method"), ROUTES_WITHIN_COLLECTION)
def test_tokens_of_any_scope_reveal_nothing_about_hidden_objects(harness: Harness, rule: Rule, method: str) -> None:
    for scope in SCOPES:
        hidden, absent = (
            harness.send(rule, method, scene, Person.OUTSIDE_EDITOR, scope)
            for scene in (harness.shared_scene, harness.shared_scene.with_unknown_keys())
        )
        assert (hidden.status_code, plain_body(hidden)) == (absent.status_code, plain_body(absent)), scope
        assert hidden.status_code in (403, 404)


def test_the_error_names_the_required_scope(harness: Harness) -> None:
    owner = harness.shared_scene.people[Person.OWNER]
    address = f"/api/v1/collections/{harness.shared_scene.keys['collection_id']}"
    for method, scope, least in (("PATCH", TokenScope.SEARCH, "change"), ("DELETE", TokenScope.CHANGE, "manage")):
        sent = {"json": {"name": "n"}} if method == "PATCH" else None
        answer = harness.sender.send(method, address, owner, sent, scope=scope).json
        assert answer is not None
        assert answer["error"]["code"] == "forbidden"
        assert f"--scope {least}" in answer["error"]["message"]
        assert answer["error"]["detail"]["scope"] == least


def test_a_search_token_can_delete_own_jobs_but_not_those_of_others_even_for_an_administrator(harness: Harness) -> None:
    scene = harness.builder.build()
    address = f"/api/v1/jobs/{scene.keys['job_id']}"
    admin, searcher = scene.people[Person.ADMIN], scene.people[Person.SEARCHER]
    assert harness.sender.send("DELETE", address, admin, scope=TokenScope.SEARCH).status_code == 403
    assert harness.sender.send("DELETE", address, searcher, scope=TokenScope.SEARCH).status_code == 204


def test_requeueing_dead_units_of_others_requires_the_change_scope(harness: Harness) -> None:
    scene = harness.builder.build()
    sent = {"json": {"units": [str(scene.keys["unit_id"])]}}
    admin = scene.people[Person.ADMIN]
    requeued = {
        scope: harness.sender.send("POST", "/api/v1/system/dead-units/requeue", admin, sent, scope=scope).json[
            "requeued"
        ]  # type: ignore[index]
        for scope in (TokenScope.SEARCH, TokenScope.CHANGE)
    }
    assert requeued == {TokenScope.SEARCH: 0, TokenScope.CHANGE: 1}


def test_a_new_token_has_the_change_scope_and_an_expiry_date_unless_requested_otherwise(ada: Caller) -> None:
    usual = ada.post("/tokens", json={"name": "usual"}).json
    assert usual["scope"] == "change"
    assert usual["expires_at"] is not None
    other = ada.post("/tokens", json={"name": "other", "scope": "read", "days": None}).json
    assert (other["scope"], other["expires_at"]) == ("read", None)
    reading = {"Authorization": f"Bearer {other['token']}"}
    assert ada.client.get("/api/v1/me", headers=reading).status_code == 200
    refused = ada.client.post("/api/v1/tokens", json={"name": "more", "scope": "manage"}, headers=reading)
    assert refused.status_code == 403
    assert [one["name"] for one in ada.get("/tokens").json["tokens"]] == ["test", "usual", "other"]


@pytest.mark.parametrize(("method", "action"), [("POST", "/retry"), ("POST", "/cancel"), ("DELETE", "")])
def test_the_scope_search_suffices_for_searches_and_not_for_index_jobs(
    harness: Harness, method: str, action: str
) -> None:
    scene = harness.shared_scene
    owner = scene.people[Person.OWNER]
    statuses = {}
    for kind in JobKind:
        over = {} if action == "/cancel" else {"state": JobState.FAILED, "finished_at": sa.func.now()}
        job = make_job(owner.id, scene.keys["collection_id"], kind=kind, **over)
        with transaction(harness.served.sessions) as session:
            store(session, job, make_unit(job.id, state=UnitState.READY if not over else UnitState.DEAD))
        answer = harness.sender.send(method, f"/api/v1/jobs/{job.id}{action}", owner, scope=TokenScope.SEARCH)
        statuses[kind] = answer.status_code
    assert statuses[JobKind.INDEX] == 403
    assert statuses[JobKind.SEARCH] < 300


def test_the_jobs_that_an_actor_may_change_depend_on_the_scope(harness: Harness) -> None:
    scene = harness.builder.build()
    owner = scene.people[Person.OWNER]
    jobs = {kind: make_job(owner.id, scene.keys["collection_id"], kind=kind) for kind in JobKind}
    changeable = {}
    with transaction(harness.served.sessions) as session:
        store(session, *jobs.values())
        for scope in (None, *TokenScope):
            ids = set(session.scalars(sa.select(Job.id).where(changeable_jobs(Actor(owner, scope)))))
            changeable[scope] = {kind for kind, job in jobs.items() if job.id in ids}
    assert changeable == {
        None: set(),
        TokenScope.READ: set(),
        TokenScope.SEARCH: {JobKind.SEARCH},
        TokenScope.CHANGE: set(JobKind),
        TokenScope.MANAGE: set(JobKind),
    }


def test_submitting_a_search_and_marking_a_result_need_the_scope_search(harness: Harness) -> None:
    scene = harness.shared_scene
    reading = Actor(scene.people[Person.OWNER], TokenScope.READ)
    keys, settings = scene.keys, harness.served.settings
    with harness.served.sessions() as session:
        with pytest.raises(Forbidden):
            submit_search(session, reading, keys["collection_id"], SearchRequest(text="a robin"), settings)
        with pytest.raises(Forbidden):
            set_mark(session, reading, keys["search_id"], keys["item_id"], True)
