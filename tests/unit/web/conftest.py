"""An app on a real database, and clients that are logged in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from jinja2 import FileSystemBytecodeCache

from retllm.db.enums import Role, Stage
from retllm.db.session import transaction
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm_web.app import create_app
from retllm_web.http.services import Services

PASSWORD = "correct horse battery"


@dataclass
class Heard:
    """Keeps what would have been announced to workers."""

    units: list[tuple[UUID, Stage]] = field(default_factory=list)

    def notify(self, units: Sequence[tuple[UUID, Stage]]) -> None:
        self.units += units


class Caller:
    """A client that sends one account's token."""

    def __init__(self, client: FlaskClient, user: Actor, token: str) -> None:
        self.client, self.user, self.token = client, user, token

    def __getattr__(self, method: str) -> Any:
        def call(path: str, **kwargs: Any) -> Any:
            headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
            return getattr(self.client, method)(f"/api/v1{path}", headers=headers, **kwargs)

        return call


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> FileSystemBytecodeCache:
    """The templates that were compiled before: every test has an app of its own."""
    return FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))


@pytest.fixture
def settings(fresh_database: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of an app that has its database for itself."""
    return Settings(home=tmp_path / "home", database_url=fresh_database, redis_url=redis_url)


@pytest.fixture
def heard() -> Heard:
    """What the app announced."""
    return Heard()


@pytest.fixture
def app(settings: Settings, heard: Heard, compiled: FileSystemBytecodeCache) -> OpenAPI:
    """The app."""
    made = create_app(settings, notifier=heard)
    made.jinja_env.bytecode_cache = compiled
    return made


@pytest.fixture
def served(app: OpenAPI) -> Services:
    """The app's services."""
    found: Services = app.extensions["retllm"]
    return found


@pytest.fixture
def client(app: OpenAPI) -> FlaskClient:
    """A client without an account."""
    return app.test_client()


def _caller(app: OpenAPI, served: Services, name: str, role: Role) -> Caller:
    with transaction(served.sessions) as session:
        user = accounts.create_user(session, name, PASSWORD, role)
        _, token = tokens.issue(session, tokens.token_key(served.settings), Actor.unlimited(user), "test")
    return Caller(app.test_client(), Actor.unlimited(user), token)


@pytest.fixture
def ada(app: OpenAPI, served: Services) -> Caller:
    """An editor."""
    return _caller(app, served, "ada", Role.EDITOR)


@pytest.fixture
def bob(app: OpenAPI, served: Services) -> Caller:
    """Another editor."""
    return _caller(app, served, "bob", Role.EDITOR)


@pytest.fixture
def root(app: OpenAPI, served: Services) -> Caller:
    """An administrator."""
    return _caller(app, served, "root", Role.ADMIN)
