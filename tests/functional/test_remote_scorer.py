"""Two scorers in one installation, one of them on a server that is away at times, with real processes.

The other one is the shipped model, which the server offers too. Either is the main one in turn, on the same data.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.functional.remote_scorers import client, installation, server, upload
from tests.scoring_server import MODEL
from tests.waiting import wait_until

from retllm.cli.client import Api
from retllm.db.enums import AttemptOutcome, Stage, UnitState
from retllm.db.jobs import Attempt, Unit
from retllm.db.session import make_sessions
from retllm.db.tables import User
from retllm.demo.world import write_collection
from retllm.errors import InvalidInput, RetllmError
from retllm.identity.actor import Actor
from retllm.search.compare import compare
from retllm.settings import PRESETS, public_name
from retllm.stack import LocalStack
from retllm.stack.redis import free_port

pytestmark = pytest.mark.timeout(900)

REMOTE, LOCAL = f"openai:{MODEL}", public_name(PRESETS["demo"].scorer)
#: answers before the server stops answering: one whole unit of two candidates, and half of another
ANSWERS = 3


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # paths of sockets are short
    with tempfile.TemporaryDirectory(prefix="retllm-scorers-") as folder:
        yield Path(folder) / "home"


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, home: Path, port: int) -> Iterator[LocalStack]:
    """An installation whose main scorer is the given one, and the other one an extra one."""
    address, key, model = f"openai+http://127.0.0.1:{port}/v1#{MODEL}", "a-key-of-the-server", PRESETS["demo"].scorer
    scorers: dict[str, Any] = {
        REMOTE: {"scorer": address, "scorer_key": key, "extra_scorers": [{"scorer": model}]},
        LOCAL: {"scorer": model, "extra_scorers": [{"scorer": address, "key": key}]},
    }[request.param]
    with installation(home, **scorers) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: LocalStack) -> Api:
    return client(stack)


class Searcher:
    """Searches the collection, which the first of all tests uploads."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        queries = write_collection(folder, 1, 4714)
        self.text = queries[0].query
        found = [row["id"] for row in api.get("/collections")["collections"] if row["name"] == "scenes"]
        self.collection = found[0] if found else upload(api, folder, [query.file for query in queries])

    def submitted(self, scorer: str | None, **options: Any) -> str:
        asked = {"text": self.text, "k": 8} | ({} if scorer is None else {"scorer": scorer}) | options
        return str(self.api.submit(f"/collections/{self.collection}/searches", json=asked)["id"])

    def refused(self, scorer: str | None, **options: Any) -> RetllmError:
        with pytest.raises(RetllmError) as raised:
            self.submitted(scorer, **options)
        return raised.value

    def done(self, key: str) -> dict[str, Any]:
        """Return a search that succeeds."""
        assert self.api.watch(key, lambda _: None)["state"] == "succeeded"
        found: dict[str, Any] = self.api.get(f"/searches/{key}")
        assert found["job"]["errors"] == []
        return found

    def reasons(self, key: str) -> list[str]:
        """Return why units of a search wait."""
        return [error["error"] for error in self.api.get(f"/jobs/{key}")["errors"]]


@pytest.fixture
def searcher(api: Api, tmp_path: Path) -> Searcher:
    return Searcher(api, tmp_path)


def scores_of(view: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["score"] for row in view["candidates"]}


#: as it is on a server
OFF = {"trigger": "off"}


@pytest.mark.parametrize("stack", [REMOTE], indirect=True)
def test_a_search_waits_for_its_server_and_loses_nothing_while_the_other_scorer_goes_on(
    stack: LocalStack, api: Api, searcher: Searcher, port: int
) -> None:
    def scored(key: str) -> int:
        return sum(row["score"] is not None for row in api.get(f"/searches/{key}")["candidates"])

    with server(port, ANSWERS) as first:
        waiting = searcher.submitted(REMOTE)
        wait_until(lambda: scored(waiting) == 2, "the first unit is not scored")
        first.kill()
        first.wait()

    wait_until(lambda: len(searcher.reasons(waiting)) == 3, "not every unit waits for the server")
    by_extra = searcher.done(searcher.submitted(LOCAL, injection=OFF))
    told = {reason.partition(" is away")[0] for reason in searcher.reasons(waiting)}
    assert told == {f"The server of the scorer {REMOTE}"}
    view = api.get(f"/searches/{waiting}")
    assert (view["job"]["state"], scored(waiting)) == ("running", 2)
    assert {error["state"] for error in view["job"]["errors"]} <= {"ready", "leased"}
    queues = {queue["name"]: queue for queue in api.get("/system/queues")["queues"]}
    assert list(queues)[3:] == ["score", f"score:{LOCAL}"]
    main, extra = queues["score"], queues[f"score:{LOCAL}"]
    assert main["waiting"] + main["later"] + main["at_work"] == 3
    assert extra["waiting"] + extra["later"] + extra["at_work"] == 0
    with server(port):
        views = [searcher.done(waiting), by_extra, searcher.done(searcher.submitted(None))]

    _assert_served(stack, api, REMOTE, LOCAL)
    _assert_attempts(stack, waiting)
    assert [view["scorer"] for view in views] == [REMOTE, LOCAL, REMOTE]
    assert [view["injection"]["trigger"] for view in views] == ["off"] * 3
    _assert_compared(stack, waiting, by_extra["id"])
    # the same model, on a server and here
    assert len(scores_of(by_extra)) == 8
    assert scores_of(views[0]) == pytest.approx(scores_of(by_extra), abs=1e-3)


@pytest.mark.parametrize("stack", [LOCAL], indirect=True)
def test_a_scorer_on_a_server_beside_a_main_one_here_has_its_own_queue_key_and_limits(
    stack: LocalStack, api: Api, searcher: Searcher, port: int
) -> None:
    waiting = searcher.submitted(REMOTE)
    wait_until(lambda: searcher.reasons(waiting), "no unit waits for the server")
    # what only a model here can do
    by_main = searcher.done(searcher.submitted(None, trace=True))
    plain = searcher.done(searcher.submitted(LOCAL, injection=OFF))
    assert {reason.partition(" is away")[0] for reason in searcher.reasons(waiting)} == {
        f"The server of the scorer {REMOTE}"
    }
    for options, field in (({"injection": {"trigger": "entropy"}}, "injection.trigger"), ({"trace": True}, "trace")):
        refused = searcher.refused(REMOTE, **options)
        assert "runs on a server" in refused.message
        assert refused.as_json()["error"]["detail"]["field"] == field
    with server(port):
        found = searcher.done(waiting)

    _assert_served(stack, api, LOCAL, REMOTE)
    assert [view["scorer"] for view in (by_main, plain, found)] == [LOCAL, LOCAL, REMOTE]
    assert [view["injection"]["trigger"] for view in (by_main, plain, found)] == ["entropy", "off", "off"]
    assert scores_of(found) == pytest.approx(scores_of(plain), abs=1e-3)


def _assert_served(stack: LocalStack, api: Api, main: str, extra: str) -> None:
    """Each scorer has its own process and queue."""
    alive = [worker for worker in api.get("/system/workers")["workers"] if worker["state"] == "alive"]
    served = [worker for worker in alive if worker["queues"][0].startswith("score")]
    assert {(worker["queues"][0], worker["models"][0]["name"]) for worker in served} == {
        ("score", main),
        (f"score:{extra}", extra),
    }
    assert {name for name in stack.processes if name.startswith("score")} == {
        "score",
        f"score-2-{re.sub('[:/]', '-', extra)}",
    }


def _assert_compared(stack: LocalStack, *searches: str) -> None:
    """A comparison says that the scorers differ."""
    sessions = make_sessions(stack.database_url)
    with sessions() as session:
        owner = Actor.unlimited(session.scalars(sa.select(User)).one())
        compared = compare(session, owner, [UUID(key) for key in searches])
    sessions.kw["bind"].dispose()
    assert compared.settings(different=True)["scorer"] == [REMOTE, LOCAL]
    first, second = compared.settings(different=True)["scorer_version"]
    assert first != second


def _assert_attempts(stack: LocalStack, job: str) -> None:
    """Each unit was done at the first attempt that counts, and those that waited say why."""
    sessions = make_sessions(stack.database_url)
    with sessions() as session:
        units = session.scalars(sa.select(Unit).where(Unit.job_id == job, Unit.stage == Stage.FINE)).all()
        assert [(unit.state, unit.attempt, unit.error) for unit in units] == [(UnitState.DONE, 1, None)] * 4
        outcomes = session.execute(
            sa.select(Attempt.outcome, Attempt.error).where(Attempt.unit_id.in_([unit.id for unit in units]))
        ).all()
    sessions.kw["bind"].dispose()
    assert {outcome for outcome, _ in outcomes} == {AttemptOutcome.COMMITTED, AttemptOutcome.RETURNED}
    waits = [error for outcome, error in outcomes if outcome is AttemptOutcome.RETURNED]
    assert len(waits) >= 3
    assert all(error and "is away" in error for error in waits)
    assert sum(outcome is AttemptOutcome.COMMITTED for outcome, _ in outcomes) == 4


@pytest.mark.parametrize("stack", [REMOTE], indirect=True)
def test_what_the_server_cannot_do_is_refused_when_the_search_is_submitted(stack: LocalStack, api: Api) -> None:
    row = api.call("POST", "/collections", json={"name": "Refused"})
    api.call("POST", f"/collections/{row['id']}/items", json={"items": [{"text": "a red circle"}]})
    for asked, field in (({"injection": {"trigger": "entropy"}}, "injection.trigger"), ({"trace": True}, "trace")):
        with pytest.raises(RetllmError) as raised:
            api.call("POST", f"/collections/{row['id']}/searches", json={"text": "a red circle"} | asked)
        assert "runs on a server" in raised.value.message
        assert raised.value.as_json()["error"]["code"] == InvalidInput.code
        assert raised.value.as_json()["error"]["detail"]["field"] == field
