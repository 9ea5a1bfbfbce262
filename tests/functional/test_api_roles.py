"""The API against its own OpenAPI document, as each role: schemathesis with all of its checks, on a real database.

All phases run for an administrator, who passes every permission check: valid requests are accepted, invalid ones are
rejected, and each response has a status, a media type and a body that the document describes. The other roles send
some valid and invalid requests to each operation; ``make soak`` runs all phases for each role. The permissions are
tested in tests/unit/web/test_authorization.py; here the document must describe each response.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from argon2 import PasswordHasher
from flask_openapi import OpenAPI
from schemathesis.core import NotSet
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.run import PhaseName
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import TestPhase
from schemathesis.transport.wsgi import WSGI_TRANSPORT
from tests.functional.contract import corrected, picture
from tests.soak import SOAK, scaled
from tests.unit.web.conftest import PASSWORD, RecordingNotifier
from tests.unit.web.policy import Person
from tests.unit.web.scene import Scene, SceneBuilder

from retllm.db.enums import TokenScope
from retllm.db.session import transaction
from retllm.identity import passwords, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm_web.actions import uploads
from retllm_web.api.spec import DOCUMENT_PATH
from retllm_web.app import create_app

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")

PHASES = {PhaseName.EXAMPLES, PhaseName.COVERAGE, PhaseName.FUZZING, PhaseName.STATEFUL_TESTING}
# values in a language that JSON Schema can't express: that of filters, and the names of a collection's fields
QUERY_VALUES = {"filter": "not has taken", "colour": "camera"}
# options for sockets, which schemathesis also passes to an app without one when it repeats a request without the token
SOCKET_OPTIONS = ("max_redirects", "verify", "cert")


@dataclass(frozen=True)
class Role:
    """The person who sends the requests; with several scopes, the requests use their tokens in turn."""

    person: Person
    scopes: tuple[TokenScope, ...] = (TokenScope.MANAGE,)


@dataclass(frozen=True)
class Credentials:
    """The headers that authenticate a person, and the IDs of the tokens used."""

    headers: dict[str, str]
    token_ids: set[str]


ROLES = {
    "nobody": Role(Person.ANONYMOUS, ()),
    "viewer": Role(Person.READER),
    "editor": Role(Person.OWNER),
    "editor-of-others": Role(Person.OUTSIDE_EDITOR),
    "admin": Role(Person.ADMIN),
    "admin-scopes": Role(Person.ADMIN, (TokenScope.READ, TokenScope.SEARCH, TokenScope.CHANGE)),
}


class App:
    """The app; each request has a different client address, since wrong tokens are counted by address."""

    def __init__(self, app: OpenAPI) -> None:
        self.services = app.extensions["retllm"]
        self.builder = SceneBuilder(self.services, PASSWORD)
        self.document = app.api_doc
        # by the header that schemathesis sends, the headers that replace it in turn
        self.rotations: dict[str, Iterator[str]] = {}
        inner = app.wsgi_app

        def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["REMOTE_ADDR"] = str(ipaddress.IPv4Address(0x0A000000 + secrets.randbelow(1 << 24)))
            if rotation := self.rotations.get(environ.get("HTTP_AUTHORIZATION", "")):
                environ["HTTP_AUTHORIZATION"] = next(rotation)
            return inner(environ, start_response)

        # without sockets, which took most of the time; test_api_server.py tests a real server
        self.wsgi_app = wsgi_app

    def credentials(self, scene: Scene, role: Role) -> Credentials:
        """Issue the tokens of a role."""
        if not role.scopes:
            return Credentials({}, set())
        key, person = tokens.token_key(self.services.settings), scene.people[role.person]
        with transaction(self.services.sessions) as session:
            issued = [
                tokens.issue(session, key, Actor.unlimited(person), "contract", scope=scope) for scope in role.scopes
            ]
            token_ids = {str(row.id) for row, _ in issued}
        headers = [f"Bearer {token}" for _, token in issued]
        self.rotations[headers[0]] = itertools.cycle(headers)
        return Credentials({"Authorization": headers[0]}, token_ids)


@pytest.fixture
def app(fresh_database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """The app with its own database, since an administrator would also list the objects that other roles created."""
    send = WSGI_TRANSPORT.send

    def sent(case: schemathesis.Case, **more: Any) -> Response:
        return send(case, **{name: value for name, value in more.items() if name not in SOCKET_OPTIONS})

    monkeypatch.setattr(WSGI_TRANSPORT, "send", sent)
    # the usual hasher is slow by design and would take a large part of the administrator's requests
    monkeypatch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    # there is no worker for whose outcomes a request could wait
    monkeypatch.setattr(uploads, "MAX_WAIT", 0.0)
    settings = Settings(home=tmp_path, database_url=fresh_database, redis_url=redis_url)
    return App(create_app(settings, notifier=RecordingNotifier()))


@dataclass
class Findings:
    """The failures, response statuses and phases of a run."""

    failures: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    phases: dict[PhaseName, int] = field(default_factory=dict)

    def note(self, event: events.EngineEvent) -> None:
        """Record an event; keep the first failure of each kind for each operation."""
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.failures[f"{getattr(event, 'label', 'the run')}: error"] = repr(event)
        if not isinstance(event, events.ScenarioFinished):
            return
        sent = event.recorder.interactions
        self.phases[event.phase] = self.phases.get(event.phase, 0) + len(sent)
        for key, one in sent.items():
            case = event.recorder.cases[key].value
            # schemathesis also tries other methods on the path of an operation
            if one.response is not None and case.method.upper() == case.operation.method.upper():
                self.statuses.setdefault(case.operation.label, Counter())[one.response.status_code] += 1
        for key, checks in event.recorder.checks.items():
            for check in checks:
                case = event.recorder.cases[key].value
                if (
                    check.status is Status.FAILURE
                    and check.failure_info is not None
                    and not _is_false_alarm(case, check.name)
                ):
                    label = event.recorder.cases[key].value.operation.label
                    details = f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                    self.failures.setdefault(f"{label}: {check.name}", details)


def _is_false_alarm(case: Any, check: str) -> bool:
    """Return whether a failed check is wrong: the body was corrected, or the query names a missing item."""
    body = case.body if isinstance(case.body, dict) else {}
    if check == "ensure_resource_availability":
        # the collection exists; the 404 is for the item of the field `like`, or for the other collection
        query = body.get("query", body)
        return "to" in body or (isinstance(query, dict) and bool(query.get("like")))
    return check == "negative_data_rejection" and body.get("picture") == picture()


def _load_schema(app: App, headers: dict[str, str], phases: set[PhaseName], examples: int) -> Any:
    """Load the document from the app and configure the generated requests."""
    schema = schemathesis.openapi.from_wsgi(DOCUMENT_PATH, app.wsgi_app)
    schema.config.headers = headers
    schema.config.seed = 7
    generation = schema.config.generation
    generation.max_examples, generation.deterministic, generation.database = examples, True, None
    # shrinking is slow, and would also shrink false alarms
    generation.no_shrink = True
    # the document contains few examples
    schema.config.phases.examples.fill_missing = True
    for phase in PHASES:
        schema.config.phases.get_by_name(name=phase.value).enabled = phase in phases
    # the protocol of large files prescribes 412 for an unknown version
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "412"]
    # NUL and forged tokens have separate tests
    generation.allow_x00, generation.with_security_parameters = False, False
    return schema


@contextlib.contextmanager
def _corrected_requests(app: App, scene: Scene, credentials: Credentials) -> Iterator[None]:
    """Correct generated requests: valid ones name existing objects and follow the rules that a schema can't express."""
    known = {"queue": "embed"} | {name: str(key) for name, key in scene.keys.items()}

    def before_call(_: Any, case: Any, __: dict[str, Any]) -> None:
        if case.meta is None:
            return
        invalid = {where for where, part in case.meta.components.items() if part.mode is not GenerationMode.POSITIVE}
        valid = case.meta.generation.mode is GenerationMode.POSITIVE
        if ParameterLocation.PATH not in invalid:
            parameters = case.path_parameters or {}
            case.path_parameters = {name: parameter(case, name, key) for name, key in parameters.items()}
        if valid and case.headers and "Idempotency-Key" in case.headers:
            # requests with the same key would be treated as one
            case.headers["Idempotency-Key"] = uuid4().hex
        if valid and case.headers and "Upload-Length" in case.headers:
            # the limit is a setting, which the document does not have
            case.headers["Upload-Length"] = str(int(case.headers["Upload-Length"]) % (1 << 20))
        if valid and case.query:
            case.query |= {name: value for name, value in QUERY_VALUES.items() if case.query.get(name)}
        if valid and not isinstance(case.body, NotSet):
            body = corrected(case.path, case.body, app.builder.embedder, scene.people[Person.READER].name)
            if body is not case.body:
                case.body = body

    def parameter(case: Any, name: str, key: str) -> str:
        # lists contain the token in use, and later requests would fail if it were revoked
        return str(uuid4()) if key in credentials.token_ids else _parameter(case, known, name, key)

    schemathesis.hook(before_call)
    try:
        yield
    finally:
        schemathesis.hooks.unregister(before_call)


def _parameter(case: Any, known: dict[str, str], name: str, key: str) -> str:
    if case.meta.phase.name is TestPhase.STATEFUL:
        return key
    if case.method != "DELETE":
        return known[name]
    # only objects created in the run may be deleted, since other requests need the known ones
    return str(uuid4()) if key in known.values() else key


def _run(schema: Any) -> Findings:
    findings = Findings()
    for event in from_schema(schema).execute():
        findings.note(event)
    return findings


def _operations(document: dict[str, Any]) -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}


@pytest.mark.timeout(scaled(1800, 3600))
@pytest.mark.parametrize("role", ROLES)
def test_the_api_conforms_to_its_document_for_each_role(app: App, role: str) -> None:
    everything = SOAK or role == "admin"
    phases = PHASES if everything else {PhaseName.FUZZING}
    scene = app.builder.build()
    credentials = app.credentials(scene, ROLES[role])
    with _corrected_requests(app, scene, credentials):
        findings = _run(_load_schema(app, credentials.headers, phases, scaled(6 if everything else 1, 100)))
    assert not findings.failures
    # a phase without requests would find no failures
    assert {phase for phase, requests in findings.phases.items() if requests} == phases
    assert set(findings.statuses) == _operations(app.document)
