"""Each scorer has its own queue: units, claims, pauses, notifications and figures of two scorers never mix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from tests.factories import make_job, make_search, make_unit, store
from tests.unit.job_world import World

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.errors import ServerAway
from retllm.operations import failures, queues, scrape, stuck, workers
from retllm.operations.failures import FailureFilters
from retllm.operations.workers import WorkerReport
from retllm.queue import lifecycle
from retllm.queue.claim import claim_unit, fail, wait_for_server
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.routing import Notification, Routing, routing_of, stage_of
from retllm.queue.turns import Turns, claim_companions, claim_some
from retllm.settings import Settings

QUEUES = ("query", "media", "embed", "score", "score:other", "score:openai:org/judge")
# two units of the main scorer, one of an extra, and one of a scorer that is no longer configured
SEARCHES = {"scorer": 2, "other": 2, "gone": 1}


@pytest.fixture
def units(world: World) -> dict[str, list[UUID]]:
    """Ready units of searches, by scorer."""
    extras = {"extra_scorers": ["/models/other", "openai+http://gpu:1/v1#org/judge"]}
    world.settings = Settings.model_validate(world.settings.model_dump(exclude_unset=True) | extras)
    found: dict[str, list[UUID]] = {}
    with transaction(world.sessions) as session:
        for scorer, number in SEARCHES.items():
            for _ in range(number):
                job = make_job(world.user.id, world.collection_id)
                unit = make_unit(job.id, payload={"items": [str(new_id())] * 2}, scorer=scorer)
                store(session, job, make_search(job.id, scorer=scorer), unit)
                found.setdefault(scorer, []).append(unit.id)
    return found


def routing(world: World) -> Routing:
    return routing_of(world.settings)


def take(world: World, unit_id: UUID, scorer: str | None) -> bool:
    return claim_unit(world.sessions, unit_id, "w1", world.settings.serving(scorer)) is not None


def test_a_unit_is_in_the_queue_of_its_scorer_and_in_no_other(world: World, units: dict[str, list[UUID]]) -> None:
    assert routing(world).queues == QUEUES
    with transaction(world.sessions) as session:
        within = {
            queue: set(session.scalars(sa.select(Unit.id).where(*routing(world).within(queue)))) for queue in QUEUES
        }
    assert within["score"] == {*units["scorer"], *units["gone"]}, "its workers say that the scorer is gone"
    assert within["score:other"] == {*units["other"]}
    assert [queue for queue, found in within.items() if not found] == [*QUEUES[:3], QUEUES[-1]]
    assert {queue: stage_of(queue) for queue in QUEUES[3:]} == dict.fromkeys(QUEUES[3:], Stage.FINE)
    assert routing(world).queue_of(Stage.COARSE, "other") == "query"


def test_a_worker_claims_units_of_its_scorer_only(world: World, units: dict[str, list[UUID]]) -> None:
    assert not take(world, units["other"][0], None)
    assert not take(world, units["scorer"][0], "other")
    assert not take(world, units["gone"][0], "other")
    assert not take(world, units["other"][0], "openai:org/judge")
    assert take(world, units["other"][0], "other")
    assert take(world, units["scorer"][0], None)
    assert take(world, units["gone"][0], None)


@pytest.mark.parametrize("scorer", [None, "other"])
def test_units_that_are_done_together_have_one_scorer(
    world: World, units: dict[str, list[UUID]], scorer: str | None
) -> None:
    settings, own = world.settings.serving(scorer), units[scorer or "scorer"]
    first = claim_unit(world.sessions, own[0], "w1", settings)
    assert first is not None
    together = [claim.unit_id for claim in claim_companions(world.sessions, first, 100, "w1", settings, Turns())]
    assert set(together) == {*own[1:], *([] if scorer else units["gone"])}
    following = world.settings.serving("openai:org/judge")
    assert list(claim_some(world.sessions, Stage.FINE, 100, "w1", following, Turns())) == []


def test_a_pause_stops_one_scorer_and_the_other_goes_on(world: World, units: dict[str, list[UUID]]) -> None:
    with transaction(world.sessions) as session:
        queues.pause(session, routing(world), world.user, "score:other")
    assert not take(world, units["other"][0], "other")
    assert take(world, units["scorer"][0], None)
    with transaction(world.sessions) as session:
        done, notified = queues.resume(session, routing(world), "score:other")
    assert done
    assert notified == [Notification(unit, Stage.FINE, "other") for unit in units["other"]]
    assert take(world, units["other"][0], "other")


def test_waiting_units_of_another_scorer_hide_none(world: World, units: dict[str, list[UUID]]) -> None:
    served = world.settings.serving("other")
    (claim,) = claim_some(world.sessions, Stage.FINE, 2, "w1", served, Turns())
    assert claim.unit_id == units["other"][0], "those of the main scorer were made before"


class Recorder:
    """A notifier that records what goes to each queue, and has room in some."""

    def __init__(self, routing: Routing, full: str) -> None:
        self.routing, self.full = routing, full
        self.sent: dict[str, set[UUID]] = {}

    def notify(self, notified: Iterable[Notification]) -> int:
        units = list(notified)
        for unit in units:
            self.sent.setdefault(self.routing.queue_of(unit.stage, unit.scorer), set()).add(unit.unit_id)
        return len(units)

    def depth(self, queue: str) -> int:
        return 1_000 if queue == self.full else 0


def test_a_dispatcher_notifies_the_workers_of_each_scorer_also_while_the_queue_of_another_is_full(
    world: World, units: dict[str, list[UUID]]
) -> None:
    recorder = Recorder(routing(world), full="score")
    assert Dispatcher(world.sessions, recorder, world.settings).round() == 2  # type: ignore[arg-type]
    assert recorder.sent == {"score:other": {*units["other"]}}
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(announced_at=None))
    recorder = Recorder(routing(world), full="score:other")
    assert Dispatcher(world.sessions, recorder, world.settings).round() == 3  # type: ignore[arg-type]
    assert recorder.sent == {"score": {*units["scorer"], *units["gone"]}}


def test_a_retried_search_notifies_the_workers_of_its_scorer(world: World, units: dict[str, list[UUID]]) -> None:
    (first, *_) = units["other"]
    with transaction(world.sessions) as session:
        unit = session.get_one(Unit, first)
        unit.state = UnitState.DEAD
        job = lifecycle.lock_job(session, unit.job_id)
        assert job is not None
        job.state, job.finished_at = JobState.FAILED, sa.func.now()
        session.flush()
        assert lifecycle.reopen(session, job) == [Notification(first, Stage.FINE, "other")]
        added = lifecycle.append_units(session, job, Stage.FINE, [{"items": [str(new_id())]}])
    assert [unit.scorer for unit in added] == ["other"]


def test_the_figures_of_each_queue_are_its_own(world: World, units: dict[str, list[UUID]]) -> None:
    assert take(world, units["other"][0], "other")
    with transaction(world.sessions) as session:
        found = {queue.name: queue for queue in queues.depths(session, routing(world))}
        session.execute(
            sa.update(Unit).where(Unit.id == units["gone"][0]).values(state="dead", finished_at=sa.func.now())
        )
    assert {name: (queue.waiting, queue.at_work) for name, queue in found.items() if queue.waiting} == {
        "score": (3, 0),
        "score:other": (1, 1),
    }
    assert found["score:other"].meaning == "fine stage of searches with the scorer other"
    with transaction(world.sessions) as session:
        dead = {
            queue: [row.id for row in failures.page(session, world.user, FailureFilters(queue, routing=routing(world)))]
            for queue in QUEUES[3:]
        }
    assert dead == {"score": units["gone"], "score:other": [], QUEUES[-1]: []}
    page = scrape.page(world.sessions, routing(world)).decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    depth = {one.labels["queue"]: one.value for one in samples if one.name == "retllm_queue_depth"}
    assert depth == {**dict.fromkeys(QUEUES, 0.0), "score": 2.0, "score:other": 1.0}
    states = {
        one.labels["state"]: one.value
        for one in samples
        if one.name == "retllm_open_units" and one.labels["stage"] == "fine"
    }
    assert states == {"ready": 3.0, "leased": 1.0}


def test_the_work_of_a_scorer_without_workers_is_stuck_while_another_is_served(
    world: World, units: dict[str, list[UUID]]
) -> None:
    report = WorkerReport("host:1", ["score"], "cpu", "1")
    world.in_transaction(lambda session: workers.record(session, report))
    with transaction(world.sessions) as session:
        found = [problem.what for problem in stuck.find(session, world.settings)]
        assert workers.unserved(session, routing(world).queues[3:]) == list(QUEUES[4:])
    assert len(found) == 1
    assert found[0].startswith("2 units wait in the queue score:other")


def test_the_queue_of_a_scorer_says_which_server_its_units_wait_for(world: World, units: dict[str, list[UUID]]) -> None:
    away = "The server of the scorer openai:m is away: it can't be reached."

    def awaited() -> dict[str, str]:
        with transaction(world.sessions) as session:
            return {one.name: one.awaited for one in queues.depths(session, routing(world)) if one.awaited is not None}

    settings = world.settings.serving("other")
    assert awaited() == {}
    first = claim_unit(world.sessions, units["other"][0], "w1", settings)
    assert first is not None
    wait_for_server(world.sessions, first, ServerAway(away, 60), settings)
    assert awaited() == {"score:other": away}
    with transaction(world.sessions) as session:
        for queue in QUEUES:
            workers.record(session, WorkerReport(queue, [queue], "cpu", "0", []))
        found = [problem.what for problem in stuck.find(session, world.settings)]
    (told,) = found
    assert re.fullmatch(rf"2 units wait in the queue score:other, the first for \d+ s: {away}", told)
    scraped = text_string_to_metric_families(scrape.page(world.sessions, routing_of(settings)).decode())
    samples = [one for family in scraped for one in family.samples if one.name == "retllm_queue_server_away"]
    assert {one.labels["queue"] for one in samples if one.value} == {"score:other"}
    # a worker looks for the server again
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).where(Unit.id == first.unit_id).values(run_after=sa.func.now()))
    again = claim_unit(world.sessions, first.unit_id, "w1", settings)
    assert again is not None
    assert awaited() == {"score:other": away}
    # a failure of its own is no wait for a server, and may name what others must not see
    fail(world.sessions, again, OSError("disk"), settings)
    assert awaited() == {}


def test_the_doctor_names_scorers_of_waiting_units_that_it_does_not_know(
    world: World, units: dict[str, list[UUID]]
) -> None:
    with transaction(world.sessions) as session:
        (told,) = [problem.what for problem in stuck.find(session, world.settings) if "queue score " in problem.what]
    assert "3 units wait in the queue score (of gone: not configured here, see RETLLM_EXTRA_SCORERS)" in told
