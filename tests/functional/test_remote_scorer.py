"""A search whose scorer runs on a server that is killed while it scores, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.functional.remote_scorers import client, installation, server, upload, wait
from tests.scoring_server import MODEL

from retllm.cli.client import Api
from retllm.db.enums import AttemptOutcome, Stage, UnitState
from retllm.db.session import make_sessions
from retllm.db.tables import Attempt, Unit
from retllm.demo.world import write_collection
from retllm.fine import Content, Injection, Picture, load_scorer
from retllm.settings import PRESETS
from retllm.stack import LocalStack
from retllm.stack.redis import free_port

pytestmark = pytest.mark.timeout(900)

#: answers before the server stops answering: one whole unit of two candidates, and half of another
ANSWERS = 3


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def stack(port: int) -> Iterator[LocalStack]:
    with installation(scorer=f"openai+http://127.0.0.1:{port}/v1#{MODEL}") as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: LocalStack) -> Api:
    return client(stack)


def test_a_search_waits_for_its_server_and_loses_nothing(
    stack: LocalStack, api: Api, port: int, tmp_path: Path
) -> None:
    queries = write_collection(tmp_path, 1, 4714)
    collection = upload(api, tmp_path, [query.file for query in queries])
    with server(port, ANSWERS) as first:
        job = api.submit(f"/collections/{collection}/searches", json={"text": queries[0].query, "k": 8})["id"]

        def scored() -> int:
            rows = api.get(f"/searches/{job}")["candidates"]
            return sum(row["score"] is not None for row in rows)

        wait(lambda: scored() == 2, "the first unit is not scored")
        first.kill()
        first.wait()

        def reasons() -> list[str]:
            return [error["error"] for error in api.get(f"/jobs/{job}")["errors"]]

        away = f"The server of the scorer openai:{MODEL} is away"
        wait(lambda: len(reasons()) == 3, "not every unit waits for the server")
        assert all(reason.startswith(away) for reason in reasons())
        view = api.get(f"/searches/{job}")
        assert (view["job"]["state"], scored()) == ("running", 2)
        assert {error["state"] for error in view["job"]["errors"]} <= {"ready", "leased"}
    with server(port):
        assert api.watch(job, lambda _: None)["state"] == "succeeded"
    view = api.get(f"/searches/{job}")
    assert (view["scorer"], view["injection"]["trigger"], view["job"]["errors"]) == (f"openai:{MODEL}", "off", [])
    _assert_attempts(stack, job)
    scorer = load_scorer(PRESETS["demo"].scorer, device="cpu")
    for row in view["candidates"]:
        picture = Content(image=Picture(_opener(tmp_path / row["name"])))
        (local,) = scorer.score(Content(text=queries[0].query), [picture], Injection(trigger="off"))
        assert row["score"] == pytest.approx(local.score, abs=1e-3)


def _opener(path: Path) -> Any:
    from PIL import Image

    return lambda: Image.open(path)


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
