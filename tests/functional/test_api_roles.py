"""The API against its own OpenAPI document, as each role: schemathesis with all of its checks, on a real database.

An administrator, who passes every permission check, runs all phases: valid requests are accepted, invalid ones are
rejected, and each response has a status, a media type and a body that the document names. The other roles send some
valid and invalid requests to each operation; ``make soak`` runs all phases for each role.
Which role may do what is tested in tests/unit/web/test_authorization.py; here the document must know each response.
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
from tests.functional.contract import mended, picture
from tests.soak import SOAK, scaled
from tests.unit.web.conftest import PASSWORD, RecordingNotifier
from tests.unit.web.policy import Person
from tests.unit.web.scene import Scene, SceneBuilder

from retllm.db.enums import TokenScope
from retllm.db.session import transaction
from retllm.identity import passwords, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm_web.api.spec import DOCUMENT_PATH
from retllm_web.app import create_app

PHASES = {PhaseName.EXAMPLES, PhaseName.COVERAGE, PhaseName.FUZZING, PhaseName.STATEFUL_TESTING}
# what schemathesis says of sockets even to an app without one, when it asks again without the token
OF_SOCKETS = ("max_redirects", "verify", "cert")


@dataclass(frozen=True)
class Asks:
    """Who asks; nobody has no token, and with several scopes each request has the next one's token."""

    person: Person
    scopes: tuple[TokenScope, ...] = (TokenScope.MANAGE,)


@dataclass(frozen=True)
class Asker:
    """The headers that show who asks, and the keys of the tokens in them."""

    headers: dict[str, str]
    token_ids: set[str]


ROLES = {
    "nobody": Asks(Person.NOBODY, ()),
    "viewer": Asks(Person.READER),
    "editor": Asks(Person.OWNER),
    "editor-of-others": Asks(Person.STRANGE_EDITOR),
    "admin": Asks(Person.ADMIN),
    "admin-scopes": Asks(Person.ADMIN, (TokenScope.READ, TokenScope.SEARCH, TokenScope.CHANGE)),
}


class Place:
    """The app, asked from a different address each time: wrong tokens are counted for each."""

    def __init__(self, app: OpenAPI) -> None:
        self.served = app.extensions["retllm"]
        self.hand = SceneBuilder(self.served, PASSWORD)
        self.document = app.api_doc
        # whose place the tokens of several scopes take in turn
        self.turns: dict[str, Iterator[str]] = {}
        inner = app.wsgi_app

        def scattered(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["REMOTE_ADDR"] = str(ipaddress.IPv4Address(0x0A000000 + secrets.randbelow(1 << 24)))
            if turns := self.turns.get(environ.get("HTTP_AUTHORIZATION", "")):
                environ["HTTP_AUTHORIZATION"] = next(turns)
            return inner(environ, start_response)

        # without sockets: they took most of the time, and test_api_server.py asks a real server
        self.asked = scattered

    def asker(self, scene: Scene, asks: Asks) -> Asker:
        """What shows who asks."""
        if not asks.scopes:
            return Asker({}, set())
        key, person = tokens.token_key(self.served.settings), scene.people[asks.person]
        with transaction(self.served.sessions) as session:
            issued = [
                tokens.issue(session, key, Actor.unlimited(person), "contract", scope=scope) for scope in asks.scopes
            ]
            token_ids = {str(row.id) for row, _ in issued}
        shown = [f"Bearer {token}" for _, token in issued]
        self.turns[shown[0]] = itertools.cycle(shown)
        return Asker({"Authorization": shown[0]}, token_ids)


@pytest.fixture
def place(fresh_database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The app, with a database for itself: among what other roles made, an administrator would be shown ever more."""
    send = WSGI_TRANSPORT.send

    def sent(case: schemathesis.Case, **more: Any) -> Response:
        return send(case, **{name: value for name, value in more.items() if name not in OF_SOCKETS})

    monkeypatch.setattr(WSGI_TRANSPORT, "send", sent)
    # one that is made to be slow would take a good part of an administrator's time
    monkeypatch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    settings = Settings(home=tmp_path, database_url=fresh_database, redis_url=redis_url)
    return Place(create_app(settings, notifier=RecordingNotifier()))


@dataclass
class Heeded:
    """What came of a run."""

    failures: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Counter[int]] = field(default_factory=dict)
    phases: dict[PhaseName, int] = field(default_factory=dict)

    def note(self, event: events.EngineEvent) -> None:
        """Keeps what an event tells, the first failure of each kind for each operation."""
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.failures[f"{getattr(event, 'label', 'the run')}: error"] = repr(event)
        if not isinstance(event, events.ScenarioFinished):
            return
        sent = event.recorder.interactions
        self.phases[event.phase] = self.phases.get(event.phase, 0) + len(sent)
        for key, one in sent.items():
            case = event.recorder.cases[key].value
            # another method at its address is not the operation
            if one.response is not None and case.method.upper() == case.operation.method.upper():
                self.answers.setdefault(case.operation.label, Counter())[one.response.status_code] += 1
        for key, checks in event.recorder.checks.items():
            for check in checks:
                case = event.recorder.cases[key].value
                if check.status is Status.FAILURE and check.failure_info is not None and not _mended(case, check.name):
                    label = event.recorder.cases[key].value.operation.label
                    told = f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                    self.failures.setdefault(f"{label}: {check.name}", told)


def _mended(case: Any, check: str) -> bool:
    """Whether the check takes right for wrong: a body with bytes was changed, or an item is not there."""
    body = case.body if isinstance(case.body, dict) else {}
    if check == "ensure_resource_availability":
        # the collection is there; 404 is of the item that the search wants more of
        query = body.get("query", body)
        return isinstance(query, dict) and bool(query.get("like"))
    return check == "negative_data_rejection" and body.get("picture") == picture()


def _prepared(place: Place, headers: dict[str, str], phases: set[PhaseName], examples: int) -> Any:
    """The document as the server serves it, and how it is asked about."""
    schema = schemathesis.openapi.from_wsgi(DOCUMENT_PATH, place.asked)
    schema.config.headers = headers
    schema.config.seed = 7
    generation = schema.config.generation
    generation.max_examples, generation.deterministic, generation.database = examples, True, None
    # a failure that is less short than it could be is still one, and what is known to be right would be shrunk too
    generation.no_shrink = True
    # the document has hardly an example of its own
    schema.config.phases.examples.fill_missing = True
    for phase in PHASES:
        schema.config.phases.get_by_name(name=phase.value).enabled = phase in phases
    # NUL and forged tokens have tests of their own
    generation.allow_x00, generation.with_security_parameters = False, False
    return schema


@contextlib.contextmanager
def _meant(place: Place, scene: Scene, asker: Asker) -> Iterator[None]:
    """Requests that are right name things that are there, and keep the rules that are more than a schema."""
    known = {"queue": "embed"} | {name: str(key) for name, key in scene.keys.items()}

    def before_call(_: Any, case: Any, __: dict[str, Any]) -> None:
        if case.meta is None:
            return
        wrong = {where for where, part in case.meta.components.items() if part.mode is not GenerationMode.POSITIVE}
        sound = case.meta.generation.mode is GenerationMode.POSITIVE
        if ParameterLocation.PATH not in wrong:
            case.path_parameters = {name: placed(case, name, key) for name, key in (case.path_parameters or {}).items()}
        if sound and case.headers and "Idempotency-Key" in case.headers:
            # one key for all would be one request for all
            case.headers["Idempotency-Key"] = uuid4().hex
        if sound and not isinstance(case.body, NotSet):
            body = mended(case.path, case.body, place.hand.embedder)
            if body is not case.body:
                case.body = body

    def placed(case: Any, name: str, key: str) -> str:
        # lists name the token that asks, and whoever ends that asks as nobody from then on
        return str(uuid4()) if key in asker.token_ids else _placed(case, known, name, key)

    schemathesis.hook(before_call)
    try:
        yield
    finally:
        schemathesis.hooks.unregister(before_call)


def _placed(case: Any, known: dict[str, str], name: str, key: str) -> str:
    if case.meta.phase.name is TestPhase.STATEFUL:
        return key
    if case.method != "DELETE":
        return known[name]
    # what else was made in the run may go, these are still asked about
    return str(uuid4()) if key in known.values() else key


def _run(schema: Any) -> Heeded:
    heeded = Heeded()
    for event in from_schema(schema).execute():
        heeded.note(event)
    return heeded


def _operations(document: dict[str, Any]) -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}


@pytest.mark.timeout(scaled(600, 3600))
@pytest.mark.parametrize("role", ROLES)
def test_the_api_keeps_its_document_whoever_asks(place: Place, role: str) -> None:
    everything = SOAK or role == "admin"
    phases = PHASES if everything else {PhaseName.FUZZING}
    scene = place.hand.set()
    asker = place.asker(scene, ROLES[role])
    with _meant(place, scene, asker):
        heeded = _run(_prepared(place, asker.headers, phases, scaled(15 if everything else 2, 100)))
    assert not heeded.failures
    # what asks nothing finds nothing
    assert {phase for phase, requests in heeded.phases.items() if requests} == phases
    assert set(heeded.answers) == _operations(place.document)
