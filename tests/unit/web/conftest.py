"""An app on a real database, and logged-in clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.databases import EmptiedDatabase
from tests.unit.web.commands import empty, folder, run
from tests.unit.web.vectors import embed_items

from retllm.db.enums import Role, Stage
from retllm.db.jobs import Unit
from retllm.db.session import Sessions, transaction
from retllm.db.tables import User
from retllm.identity import accounts, audit, logins, tokens
from retllm.identity.actor import Actor
from retllm.identity.audit import Action
from retllm.identity.secret_key import secret_key
from retllm.media.storage import get_storage
from retllm.media_units import media_unit
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit
from retllm.settings import Settings, public_name
from retllm_web.app import create_app
from retllm_web.http import decoding
from retllm_web.http.auth import Account
from retllm_web.http.login_throttle import LoginThrottle
from retllm_web.http.services import Services

__all__ = ["empty", "folder", "run"]
PASSWORD = "correct horse battery"


@dataclass
class RecordingNotifier:
    """A notifier that records the units instead of notifying workers.

    Uploaded files are processed at once, pictures are compared, and so are units that only ask for a newer embedder.
    """

    units: list[Notification] = field(default_factory=list)
    context: WorkerContext | None = None

    def notify(self, units: Sequence[Notification]) -> None:
        for unit_id, stage, _ in units:
            if stage is Stage.MEDIA and self.context is not None:
                run_unit(self.context, unit_id, media_unit)
            elif stage is Stage.EMBED and self.context is not None and self._is_empty(unit_id):
                run_unit(self.context, unit_id, _do_nothing)
            else:
                self.units.append(Notification(unit_id, stage))

    def _is_empty(self, unit_id: UUID) -> bool:
        assert self.context is not None
        with self.context.sessions() as session:
            return not session.get_one(Unit, unit_id).payload["items"]


def _do_nothing(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
    return complete(context.sessions, held.claim, lambda _session, _job: [])


class Caller:
    """A client that sends one account's token."""

    def __init__(self, client: FlaskClient, user: Actor, token: str) -> None:
        self.client, self.user, self.token = client, user, token

    def __getattr__(self, method: str) -> Any:
        def call(path: str, **kwargs: Any) -> Any:
            headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
            return getattr(self.client, method)(f"/api/v1{path}", headers=headers, **kwargs)

        return call


@dataclass
class SharedApp:
    """An app that is created once, and reset for each test."""

    app: OpenAPI

    def __post_init__(self) -> None:
        self._kept = [(part, dict(part)) for part in self._parts()]

    def _parts(self) -> tuple[dict[str, Any], ...]:
        environment = self.app.jinja_env
        return self.app.config, self.app.extensions, environment.filters, environment.globals

    def renew(self, settings: Settings, sessions: Sessions, notified: RecordingNotifier) -> OpenAPI:
        """Return the app with these services, without the changes of earlier tests.

        Settings that only the factory reads, such as proxies and request limits, have no effect here.
        """
        for part, kept in self._kept:
            part.clear()
            part.update(kept)
        # a new key gives the counters in Redis new names, so that earlier tests do not count
        key = self.app.config["SECRET_KEY"] = secret_key(settings)
        self.app.extensions["retllm_login_throttle"] = LoginThrottle(settings.redis_url, key)
        decoding.install(self.app, settings.decoders_at_once)
        storage = get_storage(settings)
        notified.context = WorkerContext(sessions, storage, settings, notified, "media")
        self.app.extensions["retllm"] = Services(sessions, storage, notified, settings)
        return self.app


@pytest.fixture
def settings(fresh_database: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of an app with its own database."""
    return Settings(home=tmp_path / "home", database_url=fresh_database, redis_url=redis_url)


@pytest.fixture
def notified() -> RecordingNotifier:
    """The notifier of the app."""
    return RecordingNotifier()


def make_shared(database: EmptiedDatabase, redis_url: str, home: Path) -> SharedApp:
    """Return an app to share; tests that need extra routes add them before the first request."""
    settings = Settings(home=home, database_url=database.url, redis_url=redis_url)
    return SharedApp(create_app(settings, notifier=RecordingNotifier()))


@pytest.fixture(scope="session")
def shared_app(
    emptied_database: EmptiedDatabase, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> SharedApp:
    """The app of this process, shared because creating one takes longer than most tests."""
    return make_shared(emptied_database, redis_url, tmp_path_factory.mktemp("app"))


@pytest.fixture
def own_app(settings: Settings, notified: RecordingNotifier) -> OpenAPI:
    """An app for one test, which may add routes."""
    return create_app(settings, notifier=notified)


@pytest.fixture
def app(shared_app: SharedApp, settings: Settings, fresh_sessions: Sessions, notified: RecordingNotifier) -> OpenAPI:
    """The app."""
    return shared_app.renew(settings, fresh_sessions, notified)


@pytest.fixture
def served(app: OpenAPI) -> Services:
    """The app's services."""
    found: Services = app.extensions["retllm"]
    return found


@pytest.fixture
def without_trash(app: OpenAPI, served: Services) -> None:
    """Let the app delete for good at once."""
    settings = served.settings.model_copy(update={"trash_days": 0})
    app.extensions["retllm"] = replace(served, settings=settings)


@pytest.fixture
def client(app: OpenAPI) -> FlaskClient:
    """A client without an account."""
    return app.test_client()


def make_caller(app: OpenAPI, name: str, role: Role) -> Caller:
    """Create an account, and return a client with its token."""
    served: Services = app.extensions["retllm"]
    with transaction(served.sessions) as session:
        user = accounts.create_user(session, name, PASSWORD, role)
        _, token = tokens.issue(session, tokens.token_key(served.settings), Actor.unlimited(user), "test")
    return Caller(app.test_client(), Actor.unlimited(user), token)


def start_session(app: OpenAPI, client: FlaskClient, user: User, agent: str | None = None) -> None:
    """Log ``user`` in without the login page, whose password check is slow."""
    served: Services = app.extensions["retllm"]
    with transaction(served.sessions) as session:
        where = client.environ_base["REMOTE_ADDR"]
        audit.record(session, user, Action.LOGGED_IN, target=user.name, target_id=user.id, address=where)
        begun = logins.begin(session, user, address=where, agent=agent)
    with client.session_transaction() as kept:
        kept["_user_id"], kept["_fresh"] = Account(user, begun.id).get_id(), True


@pytest.fixture
def ada(app: OpenAPI) -> Caller:
    """An editor."""
    return make_caller(app, "ada", Role.EDITOR)


@pytest.fixture
def bob(app: OpenAPI) -> Caller:
    """Another editor."""
    return make_caller(app, "bob", Role.EDITOR)


@pytest.fixture
def root(app: OpenAPI) -> Caller:
    """An administrator."""
    return make_caller(app, "root", Role.ADMIN)


@pytest.fixture
def birds(ada: Caller) -> str:
    """An empty collection of ada's."""
    return str(ada.post("/collections", json={"name": "Birds"}).json["id"])


@pytest.fixture
def indexed(ada: Caller, served: Services, settings: Settings) -> str:
    """A collection of ada's that can be searched."""
    key = str(ada.post("/collections", json={"name": "Texts"}).json["id"])
    ada.post(f"/collections/{key}/items?index=false", json={"items": [{"text": "a robin"}]})
    embed_items(served, settings, key, public_name(settings.embedder_name))
    return key
