"""Two scorers in one installation, the shipped model and one on a server, with real processes."""

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
from retllm.db.session import make_sessions
from retllm.db.tables import User
from retllm.demo.world import write_collection
from retllm.identity.actor import Actor
from retllm.search.compare import compare
from retllm.settings import PRESETS, public_name
from retllm.stack import LocalStack
from retllm.stack.redis import free_port

pytestmark = pytest.mark.timeout(900)

MAIN, EXTRA = public_name(PRESETS["demo"].scorer), f"openai:{MODEL}"
#: answers before the server stops answering: one whole unit of two candidates, and half of another
ANSWERS = 3


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def stack(port: int) -> Iterator[LocalStack]:
    extra = {"scorer": f"openai+http://127.0.0.1:{port}/v1#{MODEL}", "key": "a-key-of-the-extra"}
    with installation(extra_scorers=[extra]) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: LocalStack) -> Api:
    return client(stack)


def test_each_scorer_does_its_searches_and_one_that_is_away_does_not_stop_the_other(
    stack: LocalStack, api: Api, port: int, tmp_path: Path
) -> None:
    queries = write_collection(tmp_path, 1, 4714)
    collection = upload(api, tmp_path, [query.file for query in queries])

    def search(scorer: str | None) -> str:
        asked: dict[str, Any] = {"text": queries[0].query, "k": 8} | ({} if scorer is None else {"scorer": scorer})
        return str(api.submit(f"/collections/{collection}/searches", json=asked)["id"])

    def scored(key: str) -> int:
        return sum(row["score"] is not None for row in api.get(f"/searches/{key}")["candidates"])

    with server(port, ANSWERS) as first:
        waiting = search(EXTRA)
        wait(lambda: scored(waiting) == 2, "the first unit is not scored")
        first.kill()
        first.wait()

    def reasons() -> list[str]:
        return [error["error"] for error in api.get(f"/jobs/{waiting}")["errors"]]

    wait(lambda: len(reasons()) == 3, "not every unit waits for the server")
    by_main = [search(None), search(MAIN)]
    assert [api.watch(key, lambda _: None)["state"] for key in by_main] == ["succeeded"] * 2
    assert {reason.partition(" is away")[0] for reason in reasons()} == {f"The server of the scorer {EXTRA}"}
    assert (api.get(f"/jobs/{waiting}")["state"], scored(waiting)) == ("running", 2)
    queues = {queue["name"]: queue for queue in api.get("/system/queues")["queues"]}
    assert list(queues)[3:] == ["score", f"score:{EXTRA}"]
    extra, main = queues[f"score:{EXTRA}"], queues["score"]
    assert extra["waiting"] + extra["later"] + extra["at_work"] == 3
    assert main["waiting"] + main["later"] + main["at_work"] == 0
    with server(port):
        assert api.watch(waiting, lambda _: None)["state"] == "succeeded"

    served = [worker for worker in api.get("/system/workers")["workers"] if worker["queues"][0].startswith("score")]
    assert {(worker["queues"][0], worker["models"][0]["name"]) for worker in served} == {
        ("score", MAIN),
        (f"score:{EXTRA}", EXTRA),
    }
    assert {name for name in stack.processes if name.startswith("score")} == {"score", "score-2-openai-tests-small"}
    views = [api.get(f"/searches/{key}") for key in (waiting, by_main[0])]
    assert [view["scorer"] for view in views] == [EXTRA, MAIN]
    sessions = make_sessions(stack.database_url)
    with sessions() as session:
        owner = Actor.unlimited(session.scalars(sa.select(User)).one())
        compared = compare(session, owner, [UUID(waiting), UUID(by_main[0])])
    sessions.kw["bind"].dispose()
    assert compared.settings(different=True)["scorer"] == [EXTRA, MAIN]
    first, second = compared.settings(different=True)["scorer_version"]
    assert first != second
