"""The API against its own document, as everybody: schemathesis with all of its phases and all of its checks.

What right requests may come to is not asked here but in tests/unit/web/test_authorization.py; here no answer, whoever
asks, may be one that the document does not know.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from flask_openapi import OpenAPI
from schemathesis.core import NotSet
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.run import PhaseName
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import TestPhase
from tests.functional.contract import mended, picture
from tests.unit.web.conftest import PASSWORD, Heard
from tests.unit.web.policy import Person
from tests.unit.web.scene import Scene, Stagehand
from werkzeug.serving import make_server

from retllm import tokens
from retllm.db.enums import TokenScope
from retllm.db.session import transaction
from retllm.settings import Settings
from retllm_web.app import create_app

EXAMPLES = 6


@dataclass(frozen=True)
class Asks:
    """Who asks; nobody has no token."""

    person: Person
    scope: TokenScope | None = TokenScope.MANAGE


ROLES = {
    "nobody": Asks(Person.NOBODY, None),
    "viewer": Asks(Person.READER),
    "editor": Asks(Person.OWNER),
    "editor-of-others": Asks(Person.STRANGE_EDITOR),
    "admin": Asks(Person.ADMIN),
    "admin-read": Asks(Person.ADMIN, TokenScope.READ),
    "admin-search": Asks(Person.ADMIN, TokenScope.SEARCH),
    "admin-change": Asks(Person.ADMIN, TokenScope.CHANGE),
}


class Place:
    """The app behind a real server, asked from a different address each time: wrong tokens are counted for each."""

    def __init__(self, app: OpenAPI) -> None:
        self.served = app.extensions["retllm"]
        self.hand = Stagehand(self.served, PASSWORD)
        inner = app.wsgi_app

        def scattered(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["REMOTE_ADDR"] = str(ipaddress.IPv4Address(0x0A000000 + secrets.randbelow(1 << 24)))
            return inner(environ, start_response)

        self.server = make_server("127.0.0.1", 0, scattered, threaded=True)
        self.document = f"http://127.0.0.1:{self.server.port}/api/v1/openapi.json"

    def headers(self, scene: Scene, asks: Asks) -> dict[str, str]:
        """What shows who asks."""
        if asks.scope is None:
            return {}
        key = tokens.token_key(self.served.settings)
        with transaction(self.served.sessions) as session:
            _, token = tokens.issue(session, key, scene.people[asks.person], "contract", scope=asks.scope)
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def place(module_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The app, with a database for itself."""
    home = tmp_path_factory.mktemp("roles")
    app = create_app(Settings(home=home, database_url=module_database, redis_url=redis_url), announcer=Heard())
    made = Place(app)
    serving = threading.Thread(target=made.server.serve_forever)
    serving.start()
    yield made
    made.server.shutdown()
    serving.join()


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
            label = event.recorder.cases[key].value.operation.label
            if one.response is not None:
                self.answers.setdefault(label, Counter())[one.response.status_code] += 1
        for key, checks in event.recorder.checks.items():
            for check in checks:
                case = event.recorder.cases[key].value
                if check.status is Status.FAILURE and check.failure_info is not None and not _mended(case, check.name):
                    label = event.recorder.cases[key].value.operation.label
                    told = f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                    self.failures.setdefault(f"{label}: {check.name}", told)


def _mended(case: Any, check: str) -> bool:
    """Whether the check only takes a right request for a wrong one, as it does where a body with bytes was changed."""
    return check == "negative_data_rejection" and isinstance(case.body, dict) and case.body.get("picture") == picture()


def _prepared(place: Place, headers: dict[str, str]) -> Any:
    """The document as the server serves it, and how it is asked about."""
    schema = schemathesis.openapi.from_url(place.document)
    schema.config.headers = headers
    schema.config.seed = 7
    generation = schema.config.generation
    generation.max_examples, generation.deterministic, generation.database = EXAMPLES, True, None
    # NUL and forged tokens have tests of their own
    generation.allow_x00, generation.with_security_parameters = False, False
    return schema


@contextlib.contextmanager
def _meant(place: Place, scene: Scene) -> Iterator[None]:
    """Requests that are right name things that are there, and keep the rules that are more than a schema."""
    known = {"queue": "embed"} | {name: str(key) for name, key in scene.keys.items()}

    def before_call(_: Any, case: Any, __: dict[str, Any]) -> None:
        if case.meta is None:
            return
        wrong = {where for where, part in case.meta.components.items() if part.mode is not GenerationMode.POSITIVE}
        sound = case.meta.generation.mode is GenerationMode.POSITIVE
        if case.meta.phase.name is not TestPhase.STATEFUL and ParameterLocation.PATH not in wrong:
            case.path_parameters = {name: placed(case, name, key) for name, key in (case.path_parameters or {}).items()}
        if sound and case.headers and "Idempotency-Key" in case.headers:
            # one key for all would be one request for all
            case.headers["Idempotency-Key"] = uuid4().hex
        if sound and not isinstance(case.body, NotSet):
            body = mended(case.path, case.body, place.hand.embedder)
            if body is not case.body:
                case.body = body

    def placed(case: Any, name: str, key: str) -> str:
        if case.method != "DELETE":
            return known[name]
        # what else was made in the run may go, these are still asked about
        return str(uuid4()) if key in known.values() else key

    schemathesis.hook(before_call)
    yield
    schemathesis.hooks.unregister(before_call)


def _run(schema: Any) -> Heeded:
    heeded = Heeded()
    for event in from_schema(schema).execute():
        heeded.note(event)
    return heeded


@pytest.mark.parametrize("role", ROLES)
def test_the_api_keeps_its_document_whoever_asks(place: Place, role: str) -> None:
    scene = place.hand.set()
    with _meant(place, scene):
        heeded = _run(_prepared(place, place.headers(scene, ROLES[role])))
    print(heeded.phases)
    for label, c in heeded.answers.items():
        print(label, dict(c))
    for k, v in heeded.failures.items():
        print("FAILED", k, v)
    assert not heeded.failures
