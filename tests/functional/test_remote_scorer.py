"""Two scorers in one installation, the main one on a server that is killed while it scores, with real processes.

The other one is the shipped model, which the server offers too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.functional.remote_scorers import client, installation, server, upload, wait
from tests.scoring_server import MODEL

from retllm.cli.client import Api
from retllm.db.enums import AttemptOutcome, Stage, UnitState
from retllm.db.session import make_sessions
from retllm.db.tables import Attempt, Unit, User
from retllm.demo.world import write_collection
from retllm.identity.actor import Actor
from retllm.search.compare import compare
from retllm.settings import PRESETS, public_name
from retllm.stack import LocalStack
from retllm.stack.redis import free_port

pytestmark = pytest.mark.timeout(900)

MAIN, EXTRA = f"openai:{MODEL}", public_name(PRESETS["demo"].scorer)
#: answers before the server stops answering: one whole unit of two candidates, and half of another
ANSWERS = 3


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def stack(port: int) -> Iterator[LocalStack]:
    main = {"scorer": f"openai+http://127.0.0.1:{port}/v1#{MODEL}", "scorer_key": "a-key-of-the-main-one"}
    with installation(**main, extra_scorers=[{"scorer": PRESETS["demo"].scorer}]) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: LocalStack) -> Api:
    return client(stack)


def test_a_search_waits_for_its_server_and_loses_nothing_while_the_other_scorer_goes_on(
    stack: LocalStack, api: Api, port: int, tmp_path: Path
) -> None:
    queries = write_collection(tmp_path, 1, 4714)
    collection = upload(api, tmp_path, [query.file for query in queries])

    def search(scorer: str | None) -> str:
        asked: dict[str, Any] = {"text": queries[0].query, "k": 8} | ({} if scorer is None else {"scorer": scorer})
        if scorer == EXTRA:
            # as it is on a server
            asked["injection"] = {"trigger": "off"}
        return str(api.submit(f"/collections/{collection}/searches", json=asked)["id"])

    def scored(key: str) -> int:
        return sum(row["score"] is not None for row in api.get(f"/searches/{key}")["candidates"])

    with server(port, ANSWERS) as first:
        waiting = search(MAIN)
        wait(lambda: scored(waiting) == 2, "the first unit is not scored")
        first.kill()
        first.wait()

    def reasons() -> list[str]:
        return [error["error"] for error in api.get(f"/jobs/{waiting}")["errors"]]

    wait(lambda: len(reasons()) == 3, "not every unit waits for the server")
    by_extra = search(EXTRA)
    assert api.watch(by_extra, lambda _: None)["state"] == "succeeded"
    assert {reason.partition(" is away")[0] for reason in reasons()} == {f"The server of the scorer {MAIN}"}
    view = api.get(f"/searches/{waiting}")
    assert (view["job"]["state"], scored(waiting)) == ("running", 2)
    assert {error["state"] for error in view["job"]["errors"]} <= {"ready", "leased"}
    queues = {queue["name"]: queue for queue in api.get("/system/queues")["queues"]}
    assert list(queues)[3:] == ["score", f"score:{EXTRA}"]
    main, extra = queues["score"], queues[f"score:{EXTRA}"]
    assert main["waiting"] + main["later"] + main["at_work"] == 3
    assert extra["waiting"] + extra["later"] + extra["at_work"] == 0
    with server(port):
        assert api.watch(waiting, lambda _: None)["state"] == "succeeded"
        by_default = search(None)
        assert api.watch(by_default, lambda _: None)["state"] == "succeeded"

    _assert_served(stack, api)
    _assert_attempts(stack, waiting)
    views = [api.get(f"/searches/{key}") for key in (waiting, by_extra, by_default)]
    assert [view["scorer"] for view in views] == [MAIN, EXTRA, MAIN]
    assert [(view["injection"]["trigger"], view["job"]["errors"]) for view in views] == [("off", [])] * 3
    _assert_compared(stack, waiting, by_extra)
    # the same model, on a server and here
    scores, here, _ = ({row["name"]: row["score"] for row in view["candidates"]} for view in views)
    assert len(here) == 8
    assert scores == pytest.approx(here, abs=1e-3)


def _assert_served(stack: LocalStack, api: Api) -> None:
    """Each scorer has its own process and queue."""
    served = [worker for worker in api.get("/system/workers")["workers"] if worker["queues"][0].startswith("score")]
    assert {(worker["queues"][0], worker["models"][0]["name"]) for worker in served} == {
        ("score", MAIN),
        (f"score:{EXTRA}", EXTRA),
    }
    assert {name for name in stack.processes if name.startswith("score")} == {"score", f"score-2-{EXTRA}"}


def _assert_compared(stack: LocalStack, *searches: str) -> None:
    """A comparison says that the scorers differ."""
    sessions = make_sessions(stack.database_url)
    with sessions() as session:
        owner = Actor.unlimited(session.scalars(sa.select(User)).one())
        compared = compare(session, owner, [UUID(key) for key in searches])
    sessions.kw["bind"].dispose()
    assert compared.settings(different=True)["scorer"] == [MAIN, EXTRA]
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


def test_what_the_server_cannot_do_is_refused_when_the_search_is_submitted(api: Api) -> None:
    from retllm.errors import InvalidInput, RetllmError

    row = api.call("POST", "/collections", json={"name": "Refused"})
    api.call("POST", f"/collections/{row['id']}/items", json={"items": [{"text": "a red circle"}]})
    for asked, field in (({"injection": {"trigger": "entropy"}}, "injection.trigger"), ({"trace": True}, "trace")):
        with pytest.raises(RetllmError) as raised:
            api.call("POST", f"/collections/{row['id']}/searches", json={"text": "a red circle"} | asked)
        assert "runs on a server" in raised.value.message
        assert raised.value.as_json()["error"]["code"] == InvalidInput.code
        assert raised.value.as_json()["error"]["detail"]["field"] == field
