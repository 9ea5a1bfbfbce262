"""Of several requests at once that delete the same thing, one does, and the others find none."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, RecordingNotifier
from tests.unit.web.policy import Person
from tests.unit.web.route_requests import BODIES, RequestSender
from tests.unit.web.scene import SceneBuilder

from retllm.db.base import Base
from retllm.db.jobs import Job
from retllm.db.people import AuditEntry, CollectionMember
from retllm.db.reviews import EvaluationRun
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import ApiToken, Collection, Item
from retllm.db.uploads import LargeFile
from retllm.settings import Settings
from retllm_web.app import create_app

pytestmark = pytest.mark.slow

AT_ONCE = 6
DELETIONS: dict[str, tuple[str, type[Base]]] = {
    "api.remove_item": ("item_id", Item),
    "api.delete_job": ("job_id", Job),
    "api.delete_collection": ("collection_id", Collection),
    "api.delete_evaluation": ("run_id", EvaluationRun),
    "api.delete_token": ("token_id", ApiToken),
    "api.remove_member": ("member_id", CollectionMember),
    "api.abandon_large_file": ("large_file_id", LargeFile),
}


@pytest.fixture(scope="module")
def app(module_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> OpenAPI:
    settings = Settings(home=tmp_path_factory.mktemp("at-once"), database_url=module_database, redis_url=redis_url)
    return create_app(settings, notifier=RecordingNotifier())


@pytest.fixture(scope="module")
def other(module_database: str) -> Sessions:
    """Another connection to the database of the app."""
    return make_sessions(module_database)


@pytest.fixture(scope="module")
def builder(app: OpenAPI) -> SceneBuilder:
    return SceneBuilder(app.extensions["retllm"], PASSWORD)


def _wait_for_waiting(sessions: Sessions, number: int) -> None:
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 120
    with sessions() as session:
        while session.scalar(waiting) < number:
            assert time.monotonic() < deadline
            session.rollback()
            time.sleep(0.05)


def _entries(sessions: Sessions) -> int:
    with transaction(sessions) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(AuditEntry)) or 0


@pytest.mark.parametrize("endpoint", DELETIONS)
def test_of_several_deletions_of_one_thing_one_succeeds_and_is_recorded(
    app: OpenAPI, other: Sessions, builder: SceneBuilder, endpoint: str
) -> None:
    sender, scene = RequestSender(app, app.extensions["retllm"]), builder.build()
    key, table = DELETIONS[endpoint]
    column = table.__table__.c["user_id" if table is CollectionMember else "id"]
    rule = next(rule for rule in app.url_map.iter_rules() if rule.endpoint == endpoint)
    address, owner = sender.address(rule, "DELETE", scene), scene.people[Person.OWNER]
    sent = BODIES[endpoint](scene, builder) if endpoint in BODIES else None
    before = _entries(other)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        with transaction(other) as session:
            # all of them have found it when the first one goes on
            session.execute(sa.select(column).where(column == scene.keys[key]).with_for_update())
            answers = [threads.submit(sender.send, "DELETE", address, owner, sent) for _ in range(AT_ONCE)]
            _wait_for_waiting(other, AT_ONCE)
        statuses = Counter(answer.result().status_code for answer in answers)
    assert statuses == {204: 1, 404: AT_ONCE - 1}
    assert _entries(other) - before == (0 if endpoint == "api.abandon_large_file" else 1)
