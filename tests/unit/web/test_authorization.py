"""Every route, requested by every kind of account: without the right, nothing is done, shown or revealed.

The policy (policy.py) is a table with a line for each endpoint. Requests (route_requests.py) are valid, so that only a
missing right can make them fail, unless the test says otherwise.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, RecordingNotifier
from tests.unit.web.policy import POLICY, WITHIN_COLLECTION, Answer, Needs, Person, expected_answer
from tests.unit.web.route_requests import (
    BODIES,
    IMPORTED,
    WITH_HEADERS,
    WRONG_FORMS,
    WRONG_JSON,
    WRONG_QUERIES,
    RequestOptions,
    RequestSender,
    plain_body,
)
from tests.unit.web.scene import DELETED_WORD, HIDDEN_WORD, Scene, SceneBuilder
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from retllm.db.enums import Visibility
from retllm.db.jobs import Job
from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.settings import Settings
from retllm_web.actions import uploads
from retllm_web.app import create_app
from retllm_web.http.services import Services
from retllm_web.pages import formats

pytestmark = pytest.mark.slow


def _rules() -> list[tuple[Rule, str]]:
    """Return every route with each of its methods; this app needs no servers."""
    unused = Settings(
        home=Path("unused"),
        secret_key=secrets.token_hex(),
        database_url="postgresql://unused",
        redis_url="redis://unused",
    )
    rules = sorted(create_app(unused).url_map.iter_rules(), key=lambda rule: rule.rule)
    return [(rule, method) for rule in rules for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})]


ROUTES = _rules()
_SCENE_KEYS = {"collection_id", "item_id", "job_id", "upload_id", "search_id", "run_id", "link_id"}
_ROUTES_WITHIN_COLLECTION = [
    (rule, method)
    for rule, method in ROUTES
    if POLICY.get(rule.endpoint) in WITHIN_COLLECTION and rule.arguments & _SCENE_KEYS
]


_STRANGERS = (Person.ANONYMOUS, Person.VISITOR, Person.OUTSIDE_VIEWER, Person.OUTSIDE_EDITOR)


def _parameters(routes: list[tuple[Rule, str]]) -> list[object]:
    return [pytest.param(rule, method, id=f"{method} {rule.endpoint}") for rule, method in routes]


class Harness:
    """An app with accounts and objects."""

    def __init__(self, app: OpenAPI) -> None:
        self.served: Services = app.extensions["retllm"]
        self.builder = SceneBuilder(self.served, PASSWORD)
        self.sender = RequestSender(app, self.served)
        self._shared_scenes = {visibility: self.builder.build(visibility) for visibility in Visibility}
        self.deleted_scene = self.builder.build_deleted()

    def shared_scene(self, visibility: Visibility = Visibility.PRIVATE) -> Scene:
        """The shared scene, for requests that change nothing."""
        return self._shared_scenes[visibility]

    def scene(self, method: str, person: Person, right: Answer) -> Scene:
        """Return a scene for one request; a new one if the request may change it."""
        visibility = Visibility.EVERYONE if person is Person.NON_MEMBER else Visibility.PRIVATE
        changes = method != "GET" and right is Answer.DONE
        return self.builder.build(visibility) if changes else self.shared_scene(visibility)

    def send(self, rule: Rule, method: str, scene: Scene, person: Person, *, fragment: bool = False) -> TestResponse:
        """Return the response to a valid request."""
        make = BODIES.get(rule.endpoint)
        sent = make(scene, self.builder) if make and (method != "GET" or rule.endpoint in WITH_HEADERS) else None
        address = self.sender.address(rule, method, scene)
        link = scene.link if person is Person.VISITOR else None
        return self.sender.send(method, address, scene.people.get(person), sent, fragment=fragment, link=link)

    def count_effects(self) -> int:
        """Return the number of audit entries and of jobs."""
        logged, jobs = (sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in (AuditEntry, Job))
        with transaction(self.served.sessions) as session:
            return session.execute(sa.select(logged + jobs)).scalar_one()


@pytest.fixture(scope="module")
def harness(module_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """The app under test, with its own database."""
    home = tmp_path_factory.mktemp("walk")
    settings = Settings(
        home=home,
        database_url=module_database,
        redis_url=redis_url,
        metrics_token="of the scraper",
        import_roots=(IMPORTED,),
    )
    app = create_app(settings, notifier=RecordingNotifier())
    # a missing CSRF token also gives 403, and would hide every missing right
    app.config["WTF_CSRF_ENABLED"] = False
    # responses are compared, so their times must not differ
    app.jinja_env.filters["ago"] = partial(formats.ago, now=datetime.now(UTC))
    with pytest.MonkeyPatch.context() as patch:
        # there is no worker for whose outcomes a request could wait
        patch.setattr(uploads, "MAX_WAIT", 0.0)
        yield Harness(app)


def _classify(answer: TestResponse, needs: Needs) -> Answer | str:
    """Classify a response by what it says about the caller's right."""
    status = answer.status_code
    if status >= 500:
        return f"crashed with {status}"
    led_to_login = status == 302 and answer.headers["Location"].split("?")[0] == "/login"
    if status == 401 or (led_to_login and needs is not Needs.NOTHING):
        return Answer.LOG_IN
    return {403: Answer.REFUSED, 404: Answer.HIDDEN}.get(status, Answer.DONE)


def test_the_policy_lists_exactly_the_existing_routes() -> None:
    assert {rule.endpoint for rule, _ in ROUTES} == set(POLICY)


@pytest.mark.parametrize(("rule", "method"), _parameters(ROUTES))
def test_each_route_grants_exactly_the_access_that_the_policy_states(harness: Harness, rule: Rule, method: str) -> None:
    needs = POLICY[rule.endpoint]
    wrong: dict[str, str] = {}
    for person in Person:
        right = expected_answer(needs, person)
        scene = harness.scene(method, person, right)
        before = harness.count_effects()
        answer = harness.send(rule, method, scene, person)
        told = _classify(answer, needs)
        if told is not right:
            wrong[person] = f"{told} ({answer.status_code}) instead of {right}"
        elif right is not Answer.DONE and harness.count_effects() != before:
            wrong[person] = f"{right}, but with an effect"
        elif needs is not Needs.LINK and person in _STRANGERS and HIDDEN_WORD in answer.get_data(as_text=True):
            wrong[person] = "hidden data in the response"
    assert not wrong


@pytest.mark.parametrize(
    ("rule", "method"), _parameters([one for one in ROUTES if one[0].endpoint.startswith("pages.")])
)
def test_page_routes_return_401_to_scripts_without_a_session(harness: Harness, rule: Rule, method: str) -> None:
    answer = harness.send(rule, method, harness.shared_scene(), Person.ANONYMOUS, fragment=True)
    assert answer.status_code == 401 or POLICY[rule.endpoint] is Needs.NOTHING


def _invalid_requests(rule: Rule, method: str) -> list[tuple[str, RequestOptions]]:
    """Return invalid queries and bodies for a route."""
    if method == "GET":
        return [(query, {}) for query in WRONG_QUERIES]
    return [("", sent) for sent in (WRONG_JSON if rule.endpoint.startswith("api.") else WRONG_FORMS)]


@pytest.mark.parametrize(("rule", "method"), _parameters(_ROUTES_WITHIN_COLLECTION))
def test_hidden_objects_cannot_be_distinguished_from_missing_ones(harness: Harness, rule: Rule, method: str) -> None:
    here = harness.shared_scene()
    hidden, absent = (
        harness.send(rule, method, scene, Person.OUTSIDE_VIEWER) for scene in (here, here.with_unknown_keys())
    )
    assert (hidden.status_code, absent.status_code) == (404, 404)
    assert plain_body(hidden) == plain_body(absent)
    address = harness.sender.address(rule, method, here)
    for query, sent in [("", {}), *_invalid_requests(rule, method)]:
        for fragment in {False, method == "POST" and rule.endpoint.startswith("pages.")}:
            answer = harness.sender.send(
                method, address + query, here.people[Person.OUTSIDE_VIEWER], sent, fragment=fragment
            )
            assert answer.status_code == 404, (query, sent, fragment)
            assert HIDDEN_WORD not in answer.get_data(as_text=True)


@pytest.mark.parametrize("person", [Person.OWNER, Person.ADMIN])
@pytest.mark.parametrize(("rule", "method"), _parameters(_ROUTES_WITHIN_COLLECTION))
def test_what_is_deleted_with_a_collection_is_missing_at_once_for_everyone(
    harness: Harness, rule: Rule, method: str, person: Person
) -> None:
    deleted = harness.deleted_scene
    before = harness.count_effects()
    gone, absent = (harness.send(rule, method, scene, person) for scene in (deleted, deleted.with_unknown_keys()))
    assert (gone.status_code, absent.status_code) == (404, 404)
    assert plain_body(gone) == plain_body(absent)
    assert harness.count_effects() == before


# an address is shown again as it was given, and a saved view is an account's own
_LISTS = [(rule, method) for rule, method in ROUTES if method == "GET" and not rule.arguments]


@pytest.mark.parametrize(("rule", "method"), _parameters(_LISTS))
def test_no_list_or_count_has_what_is_deleted_with_a_collection(harness: Harness, rule: Rule, method: str) -> None:
    answer = harness.send(rule, method, harness.deleted_scene, Person.ADMIN)
    assert answer.status_code in (200, 302, 401)
    assert DELETED_WORD not in answer.get_data(as_text=True)
    for key in ("collection_id", "item_id", "job_id", "upload_id", "unit_id", "run_id"):
        assert str(harness.deleted_scene.keys[key]) not in answer.get_data(as_text=True)


@pytest.mark.parametrize(("rule", "method"), _parameters([one for one in ROUTES if one[0].endpoint.startswith("api.")]))
def test_invalid_api_requests_without_authentication_return_401(harness: Harness, rule: Rule, method: str) -> None:
    for query, sent in _invalid_requests(rule, method):
        answer = harness.sender.send(
            method, harness.sender.address(rule, method, harness.shared_scene()) + query, None, sent
        )
        assert answer.status_code == 401, (query, sent)


_BY_ROLE = (Needs.ADMIN, Needs.EDITOR)


@pytest.mark.parametrize(
    ("rule", "method"), _parameters([one for one in ROUTES if POLICY[one[0].endpoint] in _BY_ROLE and one[1] != "HEAD"])
)
def test_invalid_requests_without_the_role_are_refused(harness: Harness, rule: Rule, method: str) -> None:
    """They do not learn what the route takes."""
    scene = harness.shared_scene()
    for query, sent in _invalid_requests(rule, method):
        address = harness.sender.address(rule, method, scene) + query
        answer = harness.sender.send(method, address, scene.people[Person.READER], sent)
        assert answer.status_code == 403, (query, sent)


# keys outside the path: {name} is the key of a hidden object, {open_name} of one in an open collection
OUTSIDE_PATH = [
    ("GET", "/search?collection={collection_id}", {}),
    ("GET", "/search?like={item_id}", {}),
    ("GET", "/search?again={search_id}", {}),
    ("POST", "/search", {"collection": "{collection_id}", "text": "t"}),
    ("POST", "/search", {"collection": "{collection_id}"}),
    ("POST", "/search", {"collection": "{open_collection_id}", "like": "{item_id}", "whole": "1"}),
    ("POST", "/search", {"collection": "{open_collection_id}", "text": "t", "again": "{search_id}"}),
    ("POST", "/jobs/{open_job_id}/marks/{item_id}", {"mark": "relevant"}),
    ("GET", "/jobs/{open_job_id}/candidates/{item_id}/map", {}),
    ("GET", "/jobs/{open_job_id}/missing?find={item_id}", {}),
    ("GET", "/trash?collection={collection_id}", {}),
    ("GET", "/jobs?collection={collection_id}", {}),
    ("GET", "/jobs/export?collection={collection_id}", {}),
    ("GET", "/jobs/confirm?deed=delete&of={job_id}", {}),
    ("POST", "/jobs/confirm", {"deed": "delete", "of": "{job_id}"}),
    ("POST", "/jobs/confirm", {"deed": "delete", "all": "1", "collection": "{collection_id}"}),
    ("POST", "/jobs/views", {"name": "v", "address": "collection={collection_id}"}),
    ("GET", "/compare?of={job_id}", {}),
    ("GET", "/compare?of={open_job_id}&of={job_id}", {}),
    ("GET", "/system?collection={collection_id}", {}),
    ("POST", "/system/dead-units/requeue", {"unit": "{unit_id}"}),
    ("POST", "/collections/{open_collection_id}/models/{model_id}/remove", {}),
    ("GET", "/api/v1/jobs?collection={collection_id}", {}),
    ("GET", "/api/v1/jobs/export?collection={collection_id}&rows=results", {}),
    ("GET", "/api/v1/system/dead-units?collection={collection_id}", {}),
    ("GET", "/api/v1/evaluations?collection={collection_id}", {}),
    ("POST", "/api/v1/system/dead-units/requeue", {"units": ["{unit_id}"]}),
    ("POST", "/api/v1/collections/{open_collection_id}/searches", {"like": {"item": "{item_id}"}}),
    ("PUT", "/api/v1/searches/{open_search_id}/judgments/{item_id}", {"relevant": True}),
    ("DELETE", "/api/v1/searches/{open_search_id}/judgments/{item_id}", {}),
    ("GET", "/api/v1/searches/{open_search_id}/candidates/{item_id}/trace", {}),
]


@pytest.mark.parametrize("why", ["hidden", "deleted"])
@pytest.mark.parametrize(("method", "path", "sent"), OUTSIDE_PATH)
def test_hidden_and_deleted_objects_named_outside_the_path_are_treated_as_missing(
    harness: Harness, method: str, path: str, sent: dict[str, object], why: str
) -> None:
    here = harness.shared_scene() if why == "hidden" else harness.deleted_scene
    shown = harness.shared_scene(Visibility.EVERYONE)
    known = {f"open_{name}": str(key) for name, key in shown.keys.items()}
    user = here.people[Person.OUTSIDE_EDITOR if why == "hidden" else Person.OWNER]

    def filled(value: object, keys: dict[str, str]) -> Any:
        if isinstance(value, dict):
            return {name: filled(one, keys) for name, one in value.items()}
        if isinstance(value, list):
            return [filled(one, keys) for one in value]
        return value.format(**keys) if isinstance(value, str) else value

    answers = []
    for scene in (here, here.with_unknown_keys()):
        keys = known | {name: str(key) for name, key in scene.keys.items()}
        body = filled(sent, keys)
        how: RequestOptions = {"json": body} if path.startswith("/api/") else {"data": body}
        before = harness.count_effects()
        answers.append(harness.sender.send(method, filled(path, keys), user, how if method != "GET" else None))
        assert harness.count_effects() == before
    hidden, absent = answers
    assert hidden.status_code == absent.status_code < 500
    assert plain_body(hidden) == plain_body(absent)
    assert hidden.headers.get("Location", "").split("?")[0] == absent.headers.get("Location", "").split("?")[0]
    assert here.word not in hidden.get_data(as_text=True)


@pytest.mark.parametrize("person", Person)
def test_changing_the_embedder_requires_the_right_to_manage_the_collection(harness: Harness, person: Person) -> None:
    right = expected_answer(Needs.MANAGE, person)
    scene = harness.scene("PATCH", person, right)
    address = f"/api/v1/collections/{scene.keys['collection_id']}"
    answer = harness.sender.send(
        "PATCH", address, scene.people.get(person), {"json": {"embedder": harness.builder.embedder}}
    )
    assert _classify(answer, Needs.MANAGE) is right
