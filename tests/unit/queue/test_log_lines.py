"""Every log line that a worker writes during a unit contains the ids of the job and the unit."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
import structlog

from retllm import logs
from retllm.db.session import transaction
from retllm.errors import InvalidInput
from retllm.indexing.submit import submit_index
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LeasedUnit, WorkerContext, run_unit


@pytest.fixture
def as_json() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    logs.configure("INFO", "json")
    yield
    root.handlers, root.level = before
    logging.captureWarnings(False)


def test_log_lines_of_the_unit_its_lease_and_libraries_contain_both_ids(
    world, context: WorkerContext, as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    world.settings.lease_seconds = context.settings.lease_seconds = 3.0
    world.add_texts("red circle", "blue square")
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
    unit = world.units(job.id)[0]
    output: list[str] = []

    def rename(was: str, to: str) -> None:
        world.in_transaction(lambda session: session.execute(sa.text(f"ALTER TABLE units RENAME {was} TO {to}")))

    def work(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
        logging.getLogger("library").warning("from a library")
        rename("lease_until", "away")
        # the renewal after a third of the lease fails
        end = time.monotonic() + 60
        while "lease.renewal_failed" not in "".join(output):
            assert time.monotonic() < end, "no failed renewal was logged"
            time.sleep(0.02)
            output.append(capsys.readouterr().err)
        rename("away", "lease_until")
        raise InvalidInput("No.")

    run_unit(context, unit.id, work)
    output.append(capsys.readouterr().err)
    lines = [json.loads(line) for line in "".join(output).splitlines()]
    assert {"unit.started", "from a library", "lease.renewal_failed", "unit.failed"} <= {one["event"] for one in lines}
    for line in lines:
        assert (line.get("job_id"), line.get("unit_id")) == (str(job.id), str(unit.id)), line
    structlog.get_logger("test").info("after the unit")
    assert "unit_id" not in json.loads(capsys.readouterr().err)


def test_an_unavailable_unit_leaves_no_log_context_bound(world, context: WorkerContext) -> None:
    def never(context: WorkerContext, held: LeasedUnit) -> list[Notification]:
        return complete(context.sessions, held.claim, lambda _session, _job: [])

    assert not run_unit(context, world.collection_id, never)
    assert structlog.contextvars.get_contextvars() == {}
