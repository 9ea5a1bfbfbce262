"""A request whose objects are deleted by another one while it runs gets a 404, at whatever point that happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from sqlalchemy.orm import Session
from tests.unit.web.conftest import PASSWORD, RecordingNotifier
from tests.unit.web.policy import Person
from tests.unit.web.route_requests import BODIES, RequestSender
from tests.unit.web.scene import Scene, SceneBuilder
from werkzeug.routing import Rule

from retllm.db.jobs import Job
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.media import records
from retllm.settings import Settings
from retllm_web.app import create_app

pytestmark = pytest.mark.slow

DELETIONS: dict[str, Callable[[Session, Scene], object]] = {
    "collection": lambda session, scene: records.delete_collection(session, scene.keys["collection_id"]),
    "job": lambda session, scene: session.execute(sa.delete(Job).where(Job.id == scene.keys["job_id"])),
}
#: routes that read an object again after they have found it
ROUTES = [
    ("api.get_job", "collection"),
    ("api.get_job", "job"),
    ("api.get_search", "job"),
    ("pages.job", "collection"),
    ("pages.job_live", "job"),
    ("pages.item", "collection"),
    ("pages.collection_quality", "collection"),
    ("api.set_judgment", "job"),
    ("api.upload_items", "collection"),
    ("api.ask_reviewed_questions", "collection"),
]


class Race:
    """Deletes an object before a statement of the app, in another transaction."""

    def __init__(self, app: OpenAPI, other: Sessions) -> None:
        served = app.extensions["retllm"]
        self._other = other
        self._left: int | None = None
        self._delete: Callable[[Session], object] = lambda _: None
        sa.event.listen(served.sessions.kw["bind"], "before_cursor_execute", self._before)

    def arm(self, statement: int, delete: Callable[[Session], object]) -> None:
        self._left, self._delete = statement, delete

    def disarm(self) -> bool:
        """Return whether the object was deleted or the app held a lock on it."""
        reached, self._left = self._left == 0, None
        return reached

    def _before(self, *_: Any) -> None:
        if not self._left:
            return
        self._left -= 1
        if self._left == 0:
            try:
                with transaction(self._other) as session:
                    session.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
                    self._delete(session)
            except sa.exc.OperationalError:
                # the app holds a lock by now
                pass


@pytest.fixture(scope="module")
def app(module_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> OpenAPI:
    settings = Settings(home=tmp_path_factory.mktemp("races"), database_url=module_database, redis_url=redis_url)
    return create_app(settings, notifier=RecordingNotifier())


@pytest.fixture(scope="module")
def race(app: OpenAPI, module_database: str) -> Race:
    return Race(app, make_sessions(module_database))


@pytest.fixture(scope="module")
def builder(app: OpenAPI) -> SceneBuilder:
    return SceneBuilder(app.extensions["retllm"], PASSWORD)


@pytest.mark.parametrize(("endpoint", "deleted"), ROUTES)
def test_an_object_deleted_during_a_request_gives_no_server_error(
    app: OpenAPI, race: Race, builder: SceneBuilder, endpoint: str, deleted: str
) -> None:
    sender = RequestSender(app, app.extensions["retllm"])
    rule: Rule = next(rule for rule in app.url_map.iter_rules() if rule.endpoint == endpoint)
    (method,) = set(rule.methods or ()) - {"HEAD", "OPTIONS"}
    statement, reached, statuses = 0, True, []
    while reached:
        statement += 1
        scene = builder.build()
        make = BODIES.get(endpoint)
        sent = make(scene, builder) if make and method != "GET" else None
        address, person = sender.address(rule, method, scene), scene.people[Person.OWNER]
        race.arm(statement, lambda session, scene=scene: DELETIONS[deleted](session, scene))
        statuses.append(sender.send(method, address, person, sent).status_code)
        reached = race.disarm()
    assert max(statuses) < 500, statuses
    assert 404 in statuses
